-- A bank. REPLICA IDENTITY FULL: events carry the old values beside the new ones.
CREATE TABLE accounts (
  id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(12,2) NOT NULL CHECK (balance >= 0));
ALTER TABLE accounts REPLICA IDENTITY FULL;

-- A shop. A customer pays from the account of the same number.
CREATE TABLE customers (
  id bigint PRIMARY KEY REFERENCES accounts, name text NOT NULL, visits int NOT NULL DEFAULT 0);

CREATE TABLE orders (
  id bigserial PRIMARY KEY, customer bigint NOT NULL REFERENCES customers, status text NOT NULL, total numeric(12,2) NOT NULL);
ALTER TABLE orders REPLICA IDENTITY FULL;

-- Its events are ordered by order_id, which is not its primary key: so REPLICA IDENTITY FULL.
CREATE TABLE order_items (
  id bigserial PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, product text NOT NULL, qty int NOT NULL, price numeric(12,2) NOT NULL);
CREATE INDEX ON order_items (order_id);
ALTER TABLE order_items REPLICA IDENTITY FULL;
