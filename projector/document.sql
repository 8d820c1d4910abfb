-- What walrill keeps in a view store for documents in Redis. Every statement may be run again.
CREATE TABLE IF NOT EXISTS walrill.documents (
	pipeline text, name text,
	id text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
	view text NOT NULL,                    -- whose rows are the documents
	fence bigint NOT NULL DEFAULT 0,       -- one up for each that takes over
	state text NOT NULL DEFAULT 'filling', -- live once Redis has them all
	definition jsonb,                      -- that the triggers are of
	sent bigint NOT NULL DEFAULT 0,        -- serial number: none above was ever sent to Redis
	acked bigint NOT NULL DEFAULT 0,       -- none below can be what Redis has, unless it has lost something
	snapshot text,                         -- Redis has what it had, when its serial number is sent
	PRIMARY KEY (pipeline, name)
);

-- The keys of rows that changed, each as its transaction noted it, until Redis has acknowledged their documents.
CREATE TABLE IF NOT EXISTS walrill.document_keys (
	document text NOT NULL,
	tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
	key jsonb                              -- the columns of the pattern; NULL when all rows may have changed
);
CREATE INDEX IF NOT EXISTS document_keys_tx ON walrill.document_keys (document, tx);
