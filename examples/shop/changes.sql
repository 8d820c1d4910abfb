INSERT INTO customers VALUES (1, 'Ada', 'ada@example.com'), (2, 'Grace', 'grace@example.com');

BEGIN; -- An order and its lines are one transaction, and arrive as one.
INSERT INTO orders (id, customer_id, total) VALUES (7, 1, 42.50);
INSERT INTO order_items VALUES (7, 1, 'lamp', 40.00), (7, 2, 'bulb', 2.50);
COMMIT;

INSERT INTO orders (id, customer_id, total) VALUES (8, 2, 12.00);

BEGIN;
DELETE FROM order_items WHERE order_id = 7 AND line = 2;
UPDATE orders SET total = 40.00 WHERE id = 7;
COMMIT;

BEGIN;
INSERT INTO payments VALUES (1, 7, 40.00);
UPDATE orders SET status = 'paid' WHERE id = 7;
COMMIT;

UPDATE orders SET status = 'cancelled' WHERE id = 8;
