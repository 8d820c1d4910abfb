CREATE TABLE log (at timestamptz, line text);
CREATE SCHEMA walrill;
CREATE TABLE walrill.positions (id int PRIMARY KEY);
CREATE SCHEMA walrill_shop;
CREATE TABLE walrill_shop.orders (id int PRIMARY KEY);
