-- Definitions that change under way, truncates of several tables, logical messages, a partitioned table.
CREATE SCHEMA other;
CREATE TABLE a (id int PRIMARY KEY, x int);
CREATE TABLE other.b (id int PRIMARY KEY, a int REFERENCES a);
CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE PUBLICATION p FOR TABLE a, other.b, p WITH (publish_via_partition_root = true);
SELECT pg_create_logical_replication_slot('s', 'pgoutput');
INSERT INTO a VALUES (1, 2);
ALTER TABLE a ADD COLUMN y text DEFAULT 'why';
INSERT INTO a VALUES (2, 3);
ALTER TABLE a DROP COLUMN x;
ALTER TABLE a RENAME COLUMN y TO z;
UPDATE a SET z = 'zed' WHERE id = 1;
INSERT INTO p VALUES (1, '2020-02-02');
BEGIN; SELECT pg_logical_emit_message(true, 'outbox', 'hello'); INSERT INTO other.b VALUES (7, 1); COMMIT;
SELECT pg_logical_emit_message(false, 'outbox', 'outside');
TRUNCATE a CASCADE;
