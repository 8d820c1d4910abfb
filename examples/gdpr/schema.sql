CREATE TABLE customers (
  id bigint PRIMARY KEY,
  email text NOT NULL,
  name text NOT NULL,
  birthday date,
  card text
);
-- So that Postgres sends old values, which `old` and the rule of walrill.yaml are made of.
ALTER TABLE customers REPLICA IDENTITY FULL;
CREATE TABLE newsletter (email text PRIMARY KEY, since date NOT NULL);
