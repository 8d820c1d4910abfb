INSERT INTO customers VALUES (1, 'ada@example.com', 'Ada Lovelace', '1815-12-10', '4111 1111 1111 1234');
INSERT INTO newsletter VALUES ('ada@example.com', '2026-01-01');
UPDATE customers SET card = '4111 1111 1111 9876' WHERE id = 1;
UPDATE customers SET email = 'ada@example.org' WHERE id = 1;
UPDATE newsletter SET email = 'ada@example.org';
DELETE FROM customers;
