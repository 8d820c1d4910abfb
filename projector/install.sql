-- What walrill keeps in a view store. Every statement may be run again, while somebody waits in walrill.wait: so none may lock what that reads.
CREATE SCHEMA IF NOT EXISTS walrill;

CREATE TABLE IF NOT EXISTS walrill.pipelines (
	pipeline text PRIMARY KEY,
	fence bigint NOT NULL DEFAULT 0,       -- one up for each projector that takes over
	epoch int NOT NULL DEFAULT 0,          -- with lsn: every commit below is in the views
	lsn pg_lsn,
	history int NOT NULL DEFAULT 0,        -- the epoch in force, as `walrill adopt` or a projector that began has said
	read_epoch int NOT NULL DEFAULT 0,     -- with read_lsn: where reading goes on
	read_lsn pg_lsn,
	gap text,                              -- why the views stand still while mirrors are filled anew
	open boolean NOT NULL DEFAULT false,   -- its workers keep the views, each up to its own position; else whoever has the fence
	opening bigint NOT NULL DEFAULT 0,     -- one up each time
	halt text NOT NULL DEFAULT '',         -- what a worker could not do alone
	halt_at numeric(20) NOT NULL DEFAULT 0 -- the commit that it was of
);

CREATE TABLE IF NOT EXISTS walrill.workers (        -- of views that are kept key by key
	pipeline text, worker int,
	opening bigint NOT NULL,
	fence bigint NOT NULL DEFAULT 0,                -- one up for each process that takes it
	epoch int NOT NULL, lsn pg_lsn NOT NULL,        -- every event below, of its partitions, is in the views
	partitions text[] NOT NULL,
	PRIMARY KEY (pipeline, worker)
);

CREATE TABLE IF NOT EXISTS walrill.gone (           -- rows that workers deleted, for who finds that they only moved to another key
	pipeline text, view text,
	commit numeric(20), ordinal numeric(20),        -- the position of the deletion
	stored json,                                    -- the row as it was
	change json NOT NULL,                           -- and what the same batch made of it before
	PRIMARY KEY (pipeline, view, commit, ordinal)
);

CREATE TABLE IF NOT EXISTS walrill.partitions (
	pipeline text, key text, seq bigint NOT NULL,   -- of the last event that was read
	PRIMARY KEY (pipeline, key)
);

CREATE TABLE IF NOT EXISTS walrill.mirrors (
	pipeline text, name text, filling boolean,      -- one that is filled stands beside the one in use
	definition jsonb NOT NULL,
	request text NOT NULL DEFAULT '',               -- the backfill that fills it; '' when the stream itself does
	shape int NOT NULL DEFAULT 0,                   -- the version of the table's columns in the last event; 0 when that is not known
	PRIMARY KEY (pipeline, name, filling)
);

CREATE TABLE IF NOT EXISTS walrill.views (
	name text PRIMARY KEY,
	pipeline text NOT NULL,
	schema text NOT NULL,
	state text NOT NULL,                            -- filling, live, stopped
	definition jsonb,                               -- as it is being kept; NULL before it is live
	previous jsonb,                                 -- the one before, for rebuild --rollback
	pinned boolean NOT NULL DEFAULT false,          -- by a rollback, until the configuration changes
	configured jsonb,                               -- the last that the configuration had
	request text NOT NULL DEFAULT '',               -- rebuild or rollback, and a number
	answer text NOT NULL DEFAULT '',                -- the last request that was seen to, and how
	error text NOT NULL DEFAULT '',
	repair text NOT NULL DEFAULT '',                -- of a fold: the last repair of the streams when it was complete
	live_since timestamptz
);

CREATE TABLE IF NOT EXISTS walrill.parked (
	pipeline text NOT NULL,
	view text NOT NULL,                             -- or, with `mirror ` before it, the mirror that could not take a row
	source text NOT NULL DEFAULT '',                -- of a query: the mirror whose row the key is of, when nobody can say what it affects
	key jsonb NOT NULL,
	error text NOT NULL,
	row json,                                       -- of a mirror: what it could not take
	epoch int NOT NULL,
	lsn pg_lsn NOT NULL,                            -- of the batch that it came with
	parked_at timestamptz NOT NULL DEFAULT now(),
	retry boolean NOT NULL DEFAULT false,           -- somebody asks for it to be tried again
	skip boolean NOT NULL DEFAULT false,            -- of a fold: and the event that was refused to be left out
	PRIMARY KEY (pipeline, view, source, key)
);

CREATE TABLE IF NOT EXISTS walrill.repairs (
	pipeline text, view text, key jsonb,            -- of a query: to be computed anew; of a mirror: to be deleted
	PRIMARY KEY (pipeline, view, key)
);

-- Keys of a view that is computed as a whole beside, whose rows have changed since that began. A crash may empty it: then it begins anew.
CREATE UNLOGGED TABLE IF NOT EXISTS walrill.touched (
	pipeline text, view text, n bigint GENERATED ALWAYS AS IDENTITY,
	key jsonb NOT NULL,
	PRIMARY KEY (pipeline, view, n)
);

CREATE TABLE IF NOT EXISTS walrill.parked_events (
	pipeline text, view text, key text,             -- of a fold; the ordering key
	commit numeric(20), ordinal numeric,            -- the event's position
	event json NOT NULL,
	PRIMARY KEY (pipeline, view, key, commit, ordinal)
);

CREATE TABLE IF NOT EXISTS walrill.left_out (      -- events that a fold is kept without: somebody has dropped them
	pipeline text, view text, key text,
	commit numeric(20), ordinal numeric,
	PRIMARY KEY (pipeline, view, key, commit, ordinal)
);

CREATE TABLE IF NOT EXISTS walrill.folds (         -- those that are filled beside what is there
	pipeline text, view text,
	definition jsonb NOT NULL,
	request text NOT NULL DEFAULT '',               -- the rebuild that it is for
	fence bigint NOT NULL,
	epoch int NOT NULL, lsn pg_lsn NOT NULL,        -- every event below is in it
	seqs jsonb NOT NULL DEFAULT '{}',               -- of the last event of each partition
	PRIMARY KEY (pipeline, view)
);

CREATE TABLE IF NOT EXISTS walrill.outbox (         -- what views emit, on its way to its stream
	pipeline text, stream text,
	commit numeric(20), n bigint,                   -- the entry's ID
	source text NOT NULL, type text NOT NULL, form text NOT NULL, op text NOT NULL, key text, data jsonb NOT NULL,
	time timestamptz NOT NULL, tx bigint NOT NULL,  -- of the source transaction
	emitted_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (pipeline, commit, stream, n)
);

CREATE TABLE IF NOT EXISTS walrill.forms (         -- what the data of emitted events is, as the catalogue has it
	pipeline text, id text, schema json NOT NULL,
	PRIMARY KEY (pipeline, id)
);

CREATE TABLE IF NOT EXISTS walrill.emitted (        -- the last event that was removed from the outbox
	pipeline text, stream text, commit numeric(20) NOT NULL, n bigint NOT NULL,
	PRIMARY KEY (pipeline, stream)
);

-- emit is what the triggers of views call; place is commit, time and transaction id.
CREATE OR REPLACE FUNCTION walrill.emit(pipeline text, stream text, source text, type text, form text, op text, key text, data jsonb, place text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	p text[] := string_to_array(place, ' ');
BEGIN
	INSERT INTO walrill.outbox (pipeline, stream, commit, n, source, type, form, op, key, data, time, tx)
	VALUES (emit.pipeline, emit.stream, p[1]::numeric,
		1 + coalesce((SELECT max(o.n) FROM walrill.outbox o WHERE o.pipeline = emit.pipeline AND o.stream = emit.stream AND o.commit = p[1]::numeric), 0),
		emit.source, emit.type, emit.form, emit.op, emit.key, emit.data, p[2]::timestamptz, p[3]::bigint);
END $$;

-- wait returns when every commit below an LSN is in a view, with the position of the view, and fails past the timeout.
-- The next statement of the session then sees them. A projector's session holds two advisory locks: one that
-- says which pipeline it keeps, and one whose number is its position, so that a position can move without a write. Of views that are
-- open to workers each worker's session holds two such locks, and the lowest of their positions counts.
CREATE OR REPLACE FUNCTION walrill.wait(view text, lsn pg_lsn, timeout interval DEFAULT '5 seconds') RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + wait.timeout;
	v record;
	at int;
	reached pg_lsn; -- in the epoch at
BEGIN
	IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
		RAISE EXCEPTION 'walrill.wait needs READ COMMITTED: a % transaction goes on seeing the view as it was', current_setting('transaction_isolation')
			USING ERRCODE = 'WR002', HINT = 'Wait before the transaction begins.';
	END IF;
	LOOP
		SELECT w.pipeline, w.state, w.error, p.gap, p.lsn, p.epoch, p.history, p.open INTO v
			FROM walrill.views w JOIN walrill.pipelines p ON p.pipeline = w.pipeline WHERE w.name = wait.view;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'walrill keeps no view %', wait.view USING ERRCODE = 'undefined_table',
				HINT = 'SELECT name, state FROM walrill.views lists them.';
		END IF;
		reached := v.lsn;
		at := v.epoch;
		IF v.state = 'live' AND v.gap IS NULL THEN
			IF v.open THEN
				WITH l AS MATERIALIZED (SELECT k.pid, k.classid, k.objid, k.objsubid FROM pg_locks k WHERE k.locktype = 'advisory' AND k.granted
					AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
				SELECT c.epoch, c.lsn INTO at, reached FROM (
					SELECT w.epoch, greatest(w.lsn, (SELECT max('0/0'::pg_lsn + (((p.classid::bigint & 16777215) << 32) | p.objid::bigint)::numeric)
						FROM l o JOIN l p ON p.pid = o.pid AND p.objsubid = 1 AND (p.classid::bigint >> 24) = w.epoch
						WHERE o.objsubid = 2 AND o.classid = 2002875506 AND o.objid::bigint = (hashtext(w.pipeline || '#' || w.worker || '#' || w.opening)::bigint & 4294967295))) AS lsn
					FROM walrill.workers w WHERE w.pipeline = v.pipeline) c ORDER BY c.epoch, c.lsn LIMIT 1;
			ELSIF reached < wait.lsn THEN
				SELECT max('0/0'::pg_lsn + (((p.classid::bigint & 16777215) << 32) | p.objid::bigint)::numeric) INTO reached
					FROM pg_locks p JOIN pg_locks o ON o.pid = p.pid AND o.locktype = 'advisory' AND o.database = p.database AND o.objsubid = 2
						AND o.classid = 2002875506 AND o.objid::bigint = (hashtext(v.pipeline)::bigint & 4294967295) AND o.granted
					WHERE p.locktype = 'advisory' AND p.objsubid = 1 AND (p.classid::bigint >> 24) = v.epoch
						AND p.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
				reached := greatest(v.lsn, reached);
			END IF;
			-- The number is of now, the state of before: the view may not follow the number any more.
			IF reached >= wait.lsn AND at >= v.history AND (v.lsn >= wait.lsn OR EXISTS (SELECT FROM walrill.views w JOIN walrill.pipelines p ON p.pipeline = w.pipeline
					WHERE w.name = wait.view AND w.state = 'live' AND p.gap IS NULL)) THEN
				RETURN reached;
			END IF;
		END IF;
		IF clock_timestamp() >= deadline THEN
			RAISE EXCEPTION 'view % has not reached % within %: it is %', wait.view, wait.lsn, wait.timeout,
				CASE WHEN v.gap IS NOT NULL THEN 'at ' || reached || ' and being filled anew: ' || v.gap
				     WHEN v.state = 'stopped' THEN 'stopped: the configuration does not have it any more'
				     WHEN v.state <> 'live' THEN v.state || coalesce(nullif(': ' || v.error, ': '), '')
				     WHEN at < v.history THEN format('at %s@%s, and has nothing yet of the history that was adopted as epoch %s', at, coalesce(reached, '0/0'), v.history)
				     ELSE 'at ' || coalesce(reached::text, '0/0') END
				USING ERRCODE = 'WR001';
		END IF;
		PERFORM pg_sleep(0.001);
	END LOOP;
END $$;

GRANT USAGE ON SCHEMA walrill TO PUBLIC;
GRANT SELECT ON walrill.views, walrill.pipelines, walrill.workers TO PUBLIC;
