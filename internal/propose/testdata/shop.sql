CREATE TYPE payment_state AS ENUM ('open', 'authorised', 'captured', 'failed');
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, email_verified_at timestamptz,
  phone text, password_hash text, shipping_notes text, country text);
CREATE TABLE addresses (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE, street text, zip text, city text);
CREATE TABLE products (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10,2) NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, total numeric(10,2) NOT NULL,
  status text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'paid', 'shipped', 'gone astray', 'cancelled')));
CREATE TABLE order_items (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, product_id bigint NOT NULL REFERENCES products, quantity int NOT NULL);
CREATE TABLE order_payments (order_id bigint REFERENCES orders, no int, state payment_state NOT NULL DEFAULT 'open', iban text, PRIMARY KEY (order_id, no));
-- Of both, and of neither more than of the other.
CREATE TABLE favourites (customer_id bigint REFERENCES customers ON DELETE CASCADE, product_id bigint REFERENCES products ON DELETE CASCADE,
  PRIMARY KEY (customer_id, product_id));
CREATE TABLE schema_migrations (version text PRIMARY KEY);
CREATE UNLOGGED TABLE carts (id bigint PRIMARY KEY);
CREATE TABLE page_views (at timestamptz, path text, ip inet);
ALTER TABLE order_items REPLICA IDENTITY DEFAULT;
UPDATE pg_class SET reltuples = 12345678 WHERE relname = 'orders';
UPDATE pg_class SET reltuples = 3500000 WHERE relname = 'products';
