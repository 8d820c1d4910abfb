CREATE SCHEMA bank;
CREATE DOMAIN bank.account_state AS text CHECK (VALUE IN ('open', 'frozen', 'closed'));
CREATE TABLE bank.holders (id uuid PRIMARY KEY, first_name text, last_name text, date_of_birth date, national_id text);
CREATE TABLE bank.accounts (iban text PRIMARY KEY, holder_id uuid NOT NULL REFERENCES bank.holders, balance numeric NOT NULL,
  state bank.account_state NOT NULL DEFAULT 'open');
CREATE TABLE bank.account_limits (iban text PRIMARY KEY REFERENCES bank.accounts, daily numeric);
CREATE TABLE bank.transfers (id bigint PRIMARY KEY, from_iban text NOT NULL REFERENCES bank.accounts, to_iban text NOT NULL REFERENCES bank.accounts,
  amount numeric NOT NULL, status smallint NOT NULL DEFAULT 0);
-- Keyed by a unique index that is the replica identity, and with all of the old row.
CREATE TABLE bank.bookings (transfer_id bigint NOT NULL REFERENCES bank.transfers ON DELETE CASCADE, side char(1) NOT NULL, iban text NOT NULL, UNIQUE (transfer_id, side));
ALTER TABLE bank.bookings REPLICA IDENTITY FULL;
CREATE TABLE bank.rates (currency text NOT NULL, day date NOT NULL, rate numeric, CONSTRAINT rates_once UNIQUE (currency, day));
CREATE TABLE bank.audit (id bigint PRIMARY KEY, what jsonb);
ALTER TABLE bank.audit REPLICA IDENTITY NOTHING;
