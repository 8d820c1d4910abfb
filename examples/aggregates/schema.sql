CREATE TABLE baskets (id bigint PRIMARY KEY, customer text NOT NULL, status text NOT NULL DEFAULT 'open');
CREATE TABLE basket_lines (basket_id bigint REFERENCES baskets ON DELETE CASCADE, no int, sku text NOT NULL, qty int NOT NULL, PRIMARY KEY (basket_id, no));
COMMENT ON COLUMN basket_lines.sku IS 'The article, as in the price list';
CREATE TABLE deliveries (basket_id bigint PRIMARY KEY REFERENCES baskets ON DELETE CASCADE, street text, city text NOT NULL);
-- Postgres must tell which basket a deleted line belonged to: here the primary keys say it. With REPLICA IDENTITY FULL it tells old values, too.
ALTER TABLE basket_lines REPLICA IDENTITY FULL;
ALTER TABLE baskets REPLICA IDENTITY FULL;
