CREATE TABLE accounts (id int PRIMARY KEY, holder text NOT NULL, balance numeric(12,2) NOT NULL);
CREATE TABLE logins (id bigserial PRIMARY KEY, person text NOT NULL, at timestamptz NOT NULL, ok boolean NOT NULL);
-- The events of a login go by the person, which is not the primary key.
ALTER TABLE logins REPLICA IDENTITY FULL;
INSERT INTO accounts VALUES (1, 'Ada', 100), (2, 'Grace', 20);
