CREATE TABLE measurements (id bigint, day date, value float, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE measurements_2025 PARTITION OF measurements FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measurements_2026 PARTITION OF measurements FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY RANGE (day);
CREATE TABLE measurements_2026_h1 PARTITION OF measurements_2026 FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE measurement_notes (measurement_id bigint, day date, note text, no int, PRIMARY KEY (no),
  FOREIGN KEY (measurement_id, day) REFERENCES measurements, CHECK (note <> ''));
ALTER TABLE measurement_notes ALTER measurement_id SET NOT NULL, ALTER day SET NOT NULL;
UPDATE pg_class SET reltuples = 70000000 WHERE relname IN ('measurements_2025', 'measurements_2026_h1');
