INSERT INTO accounts VALUES ('DE01', 'Ada', 100), ('FR02', 'Grace', 0), ('IT03', 'Edsger', 12.30);
SELECT transfer(1, 'DE01', 'FR02', 60.10);
SELECT transfer(2, 'FR02', 'IT03', 0.10);
