BEGIN;
INSERT INTO notes (text, written) VALUES ('milk', '2026-03-01 08:00+00'), ('call Ada', '2026-03-01 08:05+00');
INSERT INTO tags VALUES (1, 'shopping'), (2, 'work');
COMMIT;
UPDATE notes SET text = 'milk and bread' WHERE id = 1;
DELETE FROM tags WHERE tag = 'work';
