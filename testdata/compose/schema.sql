-- A bank, whose money must add up at every position, and a small shop.

CREATE TABLE accounts (
  id      int PRIMARY KEY,
  owner   text NOT NULL,
  balance numeric(12,2) NOT NULL CHECK (balance >= 0)
);

CREATE TABLE transfers (
  id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  from_account int NOT NULL REFERENCES accounts,
  to_account   int NOT NULL REFERENCES accounts,
  amount       numeric(12,2) NOT NULL CHECK (amount > 0),
  at           timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE customers (
  id    int PRIMARY KEY,
  name  text NOT NULL,
  email text NOT NULL
);

CREATE TABLE orders (
  id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  customer_id int NOT NULL REFERENCES customers,
  status      text NOT NULL DEFAULT 'placed' CHECK (status IN ('placed', 'paid', 'shipped')),
  total       numeric(12,2) NOT NULL DEFAULT 0,
  placed_at   timestamptz NOT NULL DEFAULT now()
);
-- Entries then say in `old` what an update replaced. The key stays `id`.
ALTER TABLE orders REPLICA IDENTITY FULL;

CREATE TABLE order_items (
  order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
  line     int NOT NULL,
  product  text NOT NULL,
  qty      int NOT NULL CHECK (qty > 0),
  price    numeric(12,2) NOT NULL,
  PRIMARY KEY (order_id, line)
);

INSERT INTO accounts SELECT n, 'owner ' || n, 1000 FROM generate_series(1, 20) n;
INSERT INTO customers SELECT n, 'Customer ' || n, 'customer' || n || '@example.com' FROM generate_series(1, 10) n;
