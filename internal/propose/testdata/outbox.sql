-- Debezium's outbox, another with names of its own, and tables that only look a little like one.
CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb);
CREATE TABLE order_outbox (id bigint PRIMARY KEY, aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb NOT NULL, status text NOT NULL DEFAULT 'new');
CREATE TABLE webhooks (id bigint PRIMARY KEY, type text NOT NULL, payload jsonb NOT NULL);
CREATE TABLE jobs (id bigint PRIMARY KEY, type text NOT NULL, aggregate_id text, payload jsonb NOT NULL);
