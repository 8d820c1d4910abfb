CREATE TABLE accounts (iban text PRIMARY KEY, holder text NOT NULL, balance numeric(20,2) NOT NULL CHECK (balance >= 0));
CREATE TABLE transfers (id bigint PRIMARY KEY, from_iban text NOT NULL REFERENCES accounts, to_iban text NOT NULL REFERENCES accounts, amount numeric(20,2) NOT NULL);
CREATE TABLE bookings (iban text REFERENCES accounts, transfer_id bigint REFERENCES transfers, amount numeric(20,2) NOT NULL, PRIMARY KEY (iban, transfer_id));

-- A transfer, its two bookings and the two balances are one transaction.
CREATE FUNCTION transfer(id bigint, from_iban text, to_iban text, amount numeric) RETURNS void LANGUAGE sql BEGIN ATOMIC
  INSERT INTO transfers VALUES (id, from_iban, to_iban, amount);
  INSERT INTO bookings VALUES (from_iban, id, -amount), (to_iban, id, amount);
  UPDATE accounts SET balance = balance + CASE accounts.iban WHEN to_iban THEN amount ELSE -amount END WHERE accounts.iban IN (from_iban, to_iban);
END;
