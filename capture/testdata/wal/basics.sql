-- Every kind of change on a table with a primary key, and a rolled back transaction between.
CREATE TABLE t (id int PRIMARY KEY, name text, n numeric);
CREATE PUBLICATION p FOR ALL TABLES;
SELECT pg_create_logical_replication_slot('s', 'pgoutput');
INSERT INTO t VALUES (1, 'one', 1.50), (2, NULL, 'NaN');
UPDATE t SET name = 'uno' WHERE id = 1;
UPDATE t SET id = 3 WHERE id = 2;
BEGIN; DELETE FROM t; ROLLBACK;
BEGIN; DELETE FROM t WHERE id = 1; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; INSERT INTO t VALUES (4, '', 0); COMMIT;
