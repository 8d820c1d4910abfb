-- Accounts of 20 customers (number 1 has one already) and of the shop, number 100.
INSERT INTO accounts
SELECT n + 1, name, 1000000 FROM unnest(ARRAY['Ben', 'Cleo', 'Dan', 'Eve', 'Finn', 'Gus', 'Hana', 'Ivo', 'Jana', 'Kai',
  'Lena', 'Milo', 'Nora', 'Otto', 'Pia', 'Quin', 'Rosa', 'Sven', 'Tia']) WITH ORDINALITY AS given (name, n);
INSERT INTO accounts VALUES (100, 'The shop', 0);
INSERT INTO customers SELECT id, owner FROM accounts WHERE id < 100;
