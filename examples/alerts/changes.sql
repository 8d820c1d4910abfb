-- Below zero, further below, and above again: one event each time that zero is crossed.
UPDATE accounts SET balance = balance - 130 WHERE id = 1;
UPDATE accounts SET balance = balance - 10 WHERE id = 1;
UPDATE accounts SET balance = balance + 90 WHERE id = 1;
-- Below and above within one transaction: nobody has seen it.
BEGIN;
UPDATE accounts SET balance = balance - 50 WHERE id = 2;
UPDATE accounts SET balance = balance + 60 WHERE id = 2;
COMMIT;
-- Three failures within five minutes; the fourth says nothing new.
INSERT INTO logins (person, at, ok) VALUES ('mallory', '2026-03-01 12:00+00', false);
INSERT INTO logins (person, at, ok) VALUES ('mallory', '2026-03-01 12:01+00', true);
INSERT INTO logins (person, at, ok) VALUES ('mallory', '2026-03-01 12:02+00', false);
INSERT INTO logins (person, at, ok) VALUES ('mallory', '2026-03-01 12:04+00', false);
INSERT INTO logins (person, at, ok) VALUES ('mallory', '2026-03-01 12:04:30+00', false);
-- Three in twelve minutes are none, until one that happened between them is told late.
INSERT INTO logins (person, at, ok) VALUES ('bob', '2026-03-01 13:00+00', false);
INSERT INTO logins (person, at, ok) VALUES ('bob', '2026-03-01 13:08+00', false);
INSERT INTO logins (person, at, ok) VALUES ('bob', '2026-03-01 13:12+00', false);
INSERT INTO logins (person, at, ok) VALUES ('bob', '2026-03-01 13:09+00', false);
