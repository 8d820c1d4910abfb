INSERT INTO tenants VALUES ('acme', 'free'), ('globex', 'paid');
INSERT INTO projects VALUES ('acme', 1, 'Rockets'), ('globex', 1, 'Hammocks');
INSERT INTO tasks VALUES ('acme', 1, 1, 'paint'), ('globex', 1, 1, 'weave');
UPDATE tasks SET done = true WHERE tenant_id = 'acme';
-- The task moves to the other tenant: its old key has it deleted, its new one created.
UPDATE tasks SET tenant_id = 'globex', id = 2 WHERE tenant_id = 'acme';
UPDATE tenants SET plan = 'paid' WHERE id = 'acme';
