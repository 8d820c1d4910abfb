-- What Postgres sends of old rows: everything, the columns of an index, an untouched TOAST value.
CREATE TABLE whole (id int PRIMARY KEY, big text, n int);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE parts (a int NOT NULL, b text NOT NULL, big text);
ALTER TABLE parts ALTER big SET STORAGE EXTERNAL;
ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX parts_key ON parts (b, a);
ALTER TABLE parts REPLICA IDENTITY USING INDEX parts_key;
CREATE PUBLICATION p FOR ALL TABLES;
SELECT pg_create_logical_replication_slot('s', 'pgoutput');
INSERT INTO whole VALUES (1, repeat('x', 3000), 1);
UPDATE whole SET n = 2;
INSERT INTO parts VALUES (1, 'b', repeat('y', 3000));
UPDATE parts SET a = 2;
DELETE FROM whole;
DELETE FROM parts;
