-- The event and what it tells of are one transaction. The row is deleted at once: that it was inserted is in Postgres's log.
BEGIN;
INSERT INTO orders VALUES (1, 'Ada', 42.50, 'placed');
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers)
VALUES ('6f9619ff-8b86-4011-b42d-00c04fc964ff', 'Order', '1', 'order.placed', '{"order_id": 1, "total": 42.50}', '{"trace": "4bf92f35"}');
DELETE FROM outbox WHERE id = '6f9619ff-8b86-4011-b42d-00c04fc964ff';
COMMIT;

-- What is rolled back is not told.
BEGIN;
INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'order.cancelled', '{"order_id": 1}');
ROLLBACK;

-- An aggregate type has a stream of its own where the configuration says so.
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
VALUES ('7d444840-9dc0-11d1-b245-5ffdce74fad2', 'Customer', 'Ada', 'customer.welcomed', '{"name": "Ada"}');

-- The same without a table.
BEGIN;
UPDATE orders SET status = 'paid' WHERE id = 1;
SELECT pg_logical_emit_message(true, 'orders', jsonb_build_object(
  'type', 'order.paid', 'key', '1', 'data', jsonb_build_object('order_id', 1), 'headers', jsonb_build_object('by', 'card'))::text);
COMMIT;
