CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL);
CREATE TABLE orders (
  id bigint PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES customers,
  status text NOT NULL DEFAULT 'placed' CHECK (status IN ('placed', 'paid', 'shipped', 'cancelled')),
  total numeric(10,2) NOT NULL DEFAULT 0
);
ALTER TABLE orders REPLICA IDENTITY FULL; -- The rules compare with the row before.
-- Its primary key begins with the order's, so Postgres tells which order a deleted line belonged to.
CREATE TABLE order_items (order_id bigint REFERENCES orders, line int, sku text NOT NULL, price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line));
-- This one's does not, so Postgres is asked to send the whole old row.
CREATE TABLE payments (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, amount numeric(10,2) NOT NULL);
ALTER TABLE payments REPLICA IDENTITY FULL;
