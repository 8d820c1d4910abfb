-- One round of the workload: a transfer, an order, and what happens to older orders.
-- Each block is one transaction. The last 1000 transfers and orders are kept.
\set ON_ERROR_STOP on

-- Move money between two accounts, locked in the order of their ids.
SELECT 1 + (random() * 19)::int AS source, 1 + (random() * 19)::int AS target, (1 + random() * 99)::numeric(12,2) AS amount \gset
BEGIN;
SELECT id FROM accounts WHERE id IN (:source, :target) ORDER BY id FOR UPDATE \g /dev/null
WITH moved AS (
  INSERT INTO transfers (from_account, to_account, amount)
  SELECT :source, :target, :amount FROM accounts
  WHERE id = :source AND balance >= :amount AND :source <> :target
  RETURNING amount)
UPDATE accounts SET balance = balance + CASE id WHEN :source THEN -amount ELSE amount END
FROM moved WHERE id IN (:source, :target);
COMMIT;

-- Place an order of one to three lines.
BEGIN;
INSERT INTO orders (customer_id) VALUES (1 + (random() * 9)::int) RETURNING id AS placed \gset
INSERT INTO order_items
SELECT :placed, line, (ARRAY['book', 'lamp', 'chair', 'mug'])[1 + (random() * 3)::int], 1 + (random() * 4)::int, (1 + random() * 50)::numeric(12,2)
FROM generate_series(1, 1 + (random() * 2)::int) line;
UPDATE orders SET total = (SELECT sum(qty * price) FROM order_items WHERE order_id = :placed) WHERE id = :placed;
COMMIT;

-- Mostly pay an order and ship another; now and then cancel one that is not paid.
UPDATE orders SET status = 'paid'
WHERE random() < 0.8 AND id = (SELECT min(id) FROM orders WHERE status = 'placed');
UPDATE orders SET status = 'shipped'
WHERE random() < 0.9 AND id = (SELECT min(id) FROM orders WHERE status = 'paid');
DELETE FROM orders
WHERE random() < 0.2 AND id = (SELECT min(id) FROM orders WHERE status = 'placed');

-- Seldom, a customer's address changes.
UPDATE customers SET email = format('customer%s.%s@example.com', id, (random() * 1000)::int)
WHERE id = (SELECT 1 + (random() * 9)::int WHERE random() < 0.05);

DELETE FROM transfers WHERE id < (SELECT max(id) - 1000 FROM transfers);
DELETE FROM orders WHERE id < (SELECT max(id) - 1000 FROM orders);
