CREATE TABLE log (at timestamptz, line text);
CREATE SCHEMA walrill;
CREATE TABLE walrill.positions (id int PRIMARY KEY);
