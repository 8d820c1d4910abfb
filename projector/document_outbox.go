package projector

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed document.sql
var documentSQL string

// outbox is where the store keeps the keys of rows whose documents are to be written. Triggers fill it, in the transaction that changes
// the rows, whatever changes them.
type outbox struct {
	conn           *pgx.Conn
	pipeline, name string
	table          string // of the view, quoted

	id          string
	fence       int64
	state       string
	sent, acked uint64
	def         docDefinition
	key         []string // of the view

	low, xmin string // nothing before the transaction low is there; xmin is the next low
	seen      string // snapshot of what Redis has acknowledged; "" before there is one
}

// openOutbox makes the caller the one who empties the outbox, with triggers that fit the view as it is now.
// ok is false as long as the view is not complete.
func openOutbox(ctx context.Context, conn *pgx.Conn, pipeline string, v *DocumentView) (o *outbox, ok bool, err error) {
	o = &outbox{conn: conn, pipeline: pipeline, name: v.Name, low: "0", xmin: "0"}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := installDocuments(ctx, tx); err != nil {
			return err
		}
		var state, schema string
		var text *string
		err := tx.QueryRow(ctx, "SELECT state, schema, definition::text FROM walrill.views WHERE pipeline = $1 AND name = $2", pipeline, v.From).Scan(&state, &schema, &text)
		if err == pgx.ErrNoRows || err == nil && (state != stateLive || text == nil) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read view %s: %w", v.From, err)
		}
		def, err := decodeDefinition(text)
		if err != nil {
			return fmt.Errorf("read view %s: %w", v.From, err)
		}
		if err := v.check(def.Columns, def.Key); err != nil {
			return err
		}
		o.table, o.key, ok = qualified(schema, v.From), def.Key, true
		o.def = docDefinition{Pattern: v.pattern(), As: v.form(), From: v.From, Columns: def.Columns, Types: def.Types}
		return o.take(ctx, tx, v)
	})
	if err != nil {
		return nil, false, err
	}
	return o, ok, nil
}

// installDocuments makes what walrill keeps in a store for documents, if it is not there.
func installDocuments(ctx context.Context, tx pgx.Tx) error {
	var exists bool
	err := tx.QueryRow(ctx, "SELECT to_regclass('walrill.document_keys_tx') IS NOT NULL").Scan(&exists)
	if err == nil && !exists {
		// Two that come at the same time would meet in the catalogue.
		_, err = tx.Exec(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d, 0); SET LOCAL client_min_messages = warning;%s", lockClass, documentSQL), pgx.QueryExecModeSimpleProtocol)
	}
	if err != nil {
		return fmt.Errorf("prepare the view store for documents: %w", err)
	}
	return nil
}

// documentLock is the first half of the advisory lock of the session that writes a view's documents.
const documentLock = lockClass + 1

// lockDocuments takes the lock of a view's documents. leads says that this process keeps the views: whoever has the lock then is one that was
// paused, or is about to end, and its session is ended, so that nobody waits for its transaction.
func lockDocuments(ctx context.Context, conn *pgx.Conn, name string, leads func() bool) error {
	for leads() {
		var ok bool
		err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, hashtext($2))", documentLock, name).Scan(&ok)
		if err == nil && !ok {
			_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = $1 AND granted
				AND objid::bigint = (hashtext($2)::bigint & 4294967295) AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, documentLock, name)
		}
		if err != nil {
			return fmt.Errorf("take the lock of the documents of %s: %w", name, err)
		}
		if ok {
			return nil
		}
		if err := pause(ctx, standbyPoll); err != nil {
			return err
		}
	}
	return errAgain
}

// take raises the fence, and makes the triggers when they are not those that are needed.
func (o *outbox) take(ctx context.Context, tx pgx.Tx, v *DocumentView) error {
	var had *string
	var sent, acked int64
	err := tx.QueryRow(ctx, `INSERT INTO walrill.documents AS d (pipeline, name, view) VALUES ($1, $2, $3)
		ON CONFLICT (pipeline, name) DO UPDATE SET fence = d.fence + 1, view = excluded.view RETURNING id, fence, state, sent, acked, definition::text`,
		o.pipeline, o.name, v.From).Scan(&o.id, &o.fence, &o.state, &sent, &acked, &had)
	if err != nil {
		return fmt.Errorf("take over the documents of %s: %w", o.name, err)
	}
	o.sent, o.acked = uint64(sent), uint64(acked)
	var triggers int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = to_regclass($1) AND p.oid = to_regproc($2) AND t.tgenabled <> 'D'",
		o.table, o.function()).Scan(&triggers); err != nil {
		return fmt.Errorf("look for the triggers of %s: %w", o.name, err)
	}
	var old docDefinition
	if had != nil {
		if err := json.Unmarshal([]byte(*had), &old); err != nil {
			return fmt.Errorf("read the documents of %s: %w", o.name, err)
		}
	}
	if triggers == 4 && sameJSON(old, o.def) {
		return nil
	}
	text, err := json.Marshal(o.def)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, o.triggersSQL(v), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("make the triggers of %s: %w", o.name, err)
	}
	o.state = stateFilling
	_, err = tx.Exec(ctx, "UPDATE walrill.documents SET state = 'filling', definition = $3 WHERE pipeline = $1 AND name = $2", o.pipeline, o.name, string(text))
	return err
}

func (o *outbox) function() string {
	return qualified(mirrorSchema(o.pipeline), "document~"+o.name)
}

// triggersSQL makes the triggers anew. What they cannot note, because a column is gone, makes the documents be read anew: they never fail the
// transaction that changes the view.
func (o *outbox) triggersSQL(v *DocumentView) string {
	var parts []string
	for _, c := range v.columns() {
		parts = append(parts, fmt.Sprintf("%s, r.%s", literal(c), quoteIdent(c)))
	}
	key := "jsonb_build_object(" + strings.Join(parts, ", ") + ")"
	id := literal(o.id)
	note := func(rows string) string {
		return fmt.Sprintf("INSERT INTO walrill.document_keys (document, key) SELECT %s, %s FROM %s r;", id, key, rows)
	}
	body := fmt.Sprintf(`BEGIN
	IF TG_OP IN ('DELETE', 'UPDATE') THEN %s END IF;
	IF TG_OP IN ('INSERT', 'UPDATE') THEN %s END IF;
	IF TG_OP = 'TRUNCATE' THEN INSERT INTO walrill.document_keys (document) VALUES (%s); END IF;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	INSERT INTO walrill.document_keys (document) VALUES (%s);
	RETURN NULL;
END`, note("gone_rows"), note("come_rows"), id, id)
	sql := fmt.Sprintf("DROP FUNCTION IF EXISTS %[1]s() CASCADE; CREATE FUNCTION %[1]s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %[2]s;",
		o.function(), literal(body))
	for _, t := range []struct{ event, tables string }{
		{"INSERT", "REFERENCING NEW TABLE AS come_rows"}, {"UPDATE", "REFERENCING OLD TABLE AS gone_rows NEW TABLE AS come_rows"},
		{"DELETE", "REFERENCING OLD TABLE AS gone_rows"}, {"TRUNCATE", ""}} {
		sql += fmt.Sprintf("CREATE TRIGGER %s AFTER %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION %s();",
			quoteIdent("walrill~"+o.name+"~"+strings.ToLower(t.event)), t.event, o.table, t.tables, o.function())
	}
	return sql
}

// storeState is what the store says of a view, in one snapshot.
type storeState struct {
	clock  uint64 // written with the last change
	live   bool   // the view is complete, and as the triggers know it
	change bool   // it has another definition
	keys   bool   // some are noted that Redis has not acknowledged
}

// look reads how far the view is, and whether there is something to write.
func (o *outbox) look(ctx context.Context, q Querier) (storeState, error) {
	var st storeState
	var epoch uint8
	var lsn int64
	var state, text string
	var gap bool
	err := q.QueryRow(ctx, `SELECT p.epoch, coalesce(p.lsn - '0/0', 0)::bigint, p.gap IS NOT NULL, v.state, coalesce(v.definition::text, ''),
			EXISTS (SELECT FROM walrill.document_keys k WHERE k.document = $3 AND k.tx >= $4::xid8 AND NOT coalesce(pg_visible_in_snapshot(k.tx, nullif($5, '')::pg_snapshot), false))
		FROM walrill.pipelines p JOIN walrill.views v ON v.pipeline = p.pipeline WHERE p.pipeline = $1 AND v.name = $2`,
		o.pipeline, o.def.From, o.id, o.low, o.seen).Scan(&epoch, &lsn, &gap, &state, &text, &st.keys)
	if err != nil {
		return st, fmt.Errorf("look at view %s: %w", o.def.From, err)
	}
	st.clock = clockOf(epoch, lsn)
	var def definition
	if err := json.Unmarshal([]byte(text), &def); text != "" && err != nil {
		return st, fmt.Errorf("read view %s: %w", o.def.From, err)
	}
	st.live = state == stateLive && !gap
	st.change = !slices.Equal(def.Columns, o.def.Columns) || !slices.Equal(def.Types, o.def.Types) || !slices.Equal(def.Key, o.key)
	return st, nil
}

// noted are the rows whose keys are noted: the columns of the pattern, and the row as it is now; nil when there is none.
type noted struct {
	key, now, row []byte
}

// read reads what is to be written, in the transaction's snapshot. all is true when it is not known which rows have changed.
func (o *outbox) read(ctx context.Context, tx pgx.Tx, v *DocumentView) (list []noted, all bool, err error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(`SELECT k.key::text, d.now::text, d.row::text FROM (SELECT DISTINCT key FROM walrill.document_keys WHERE document = $1 AND tx >= $2::xid8) k
		LEFT JOIN LATERAL (SELECT %s AS now, row_to_json(v.*) AS row FROM %s v, jsonb_populate_record(NULL::%s, k.key) r WHERE %s OFFSET 0) d ON true`,
		jsonObject("v", v.columns()), o.table, o.table, equal("v", "r", o.key)), o.id, o.low)
	if err != nil {
		return nil, false, fmt.Errorf("read the rows of %s: %w", o.table, err)
	}
	var n noted
	if _, err := pgx.ForEachRow(rows, []any{&n.key, &n.now, &n.row}, func() error {
		all = all || n.key == nil
		list = append(list, noted{slices.Clone(n.key), slices.Clone(n.now), slices.Clone(n.row)})
		return nil
	}); err != nil {
		return nil, false, fmt.Errorf("read the rows of %s: %w", o.table, err)
	}
	return list, all, nil
}

func jsonObject(alias string, columns []string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = fmt.Sprintf("%s, %s.%s", literal(c), alias, quoteIdent(c))
	}
	return "jsonb_build_object(" + strings.Join(parts, ", ") + ")"
}

// forget removes the keys that Redis has acknowledged.
func (o *outbox) forget(ctx context.Context, tx pgx.Tx) error {
	if o.seen == "" {
		return nil
	}
	_, err := tx.Exec(ctx, "DELETE FROM walrill.document_keys WHERE document = $1 AND tx >= $2::xid8 AND pg_visible_in_snapshot(tx, $3::pg_snapshot)", o.id, o.low, o.seen)
	if err != nil {
		return fmt.Errorf("forget what documents of %s are written: %w", o.name, err)
	}
	return nil
}

// execer is a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// promise notes the state of the documents, that no serial number above sent was sent to Redis, that it has acknowledged acked, and that it
// has all that a snapshot had when it has come to sent; "" for no other snapshot than before.
func (o *outbox) promise(ctx context.Context, on execer, state string, sent, acked uint64, snapshot string) error {
	tag, err := on.Exec(ctx, "UPDATE walrill.documents SET state = $4, sent = $5, acked = $6, snapshot = coalesce(nullif($7, ''), snapshot) WHERE pipeline = $1 AND name = $2 AND fence = $3",
		o.pipeline, o.name, o.fence, state, int64(sent), int64(acked), snapshot)
	if err == nil && tag.RowsAffected() != 1 {
		return errFenced
	}
	if err != nil {
		return fmt.Errorf("note what documents of %s are written: %w", o.name, err)
	}
	o.state, o.sent, o.acked = state, sent, acked
	return nil
}

// snapshot is that of a transaction.
func (o *outbox) snapshot(ctx context.Context, tx pgx.Tx) (text, xmin string, err error) {
	err = tx.QueryRow(ctx, "SELECT s::text, pg_snapshot_xmin(s)::text FROM pg_current_snapshot() s").Scan(&text, &xmin)
	return text, xmin, err
}

// acknowledge notes that Redis has all that a snapshot had.
func (o *outbox) acknowledge(snapshot, xmin string) { o.seen, o.low, o.xmin = snapshot, o.xmin, xmin }

// forgetOthers removes the triggers of documents that have left the configuration. What is in Redis stays.
func (d *Documents) forgetOthers(ctx context.Context) {
	if d.opts.StoreURL == "" {
		return
	}
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		err := d.tryForget(ctx)
		if err == nil || pause(ctx, wait) != nil {
			return
		}
		if wait == lastBackoff {
			d.opts.Log.Warn("triggers of documents that are not kept any more could not be removed; trying again", "error", err)
		}
	}
}

func (d *Documents) tryForget(ctx context.Context) error {
	conn, err := connect(ctx, d.opts.StoreURL, d.opts.Pipeline)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	return d.forget(ctx, conn)
}

// forget removes what the store keeps for documents of the pipeline that are not configured.
func (d *Documents) forget(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var exists bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass('walrill.documents') IS NOT NULL").Scan(&exists); err != nil || !exists {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT name, id FROM walrill.documents WHERE pipeline = $1", d.opts.Pipeline)
		if err != nil {
			return err
		}
		type kept struct{ Name, ID string }
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[kept])
		if err != nil {
			return err
		}
		for _, k := range list {
			if slices.ContainsFunc(d.opts.Views, func(v DocumentView) bool { return v.Name == k.Name && v.From != "" }) {
				continue
			}
			o := outbox{pipeline: d.opts.Pipeline, name: k.Name}
			if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL client_min_messages = warning; DROP FUNCTION IF EXISTS %s() CASCADE;
				DELETE FROM walrill.document_keys WHERE document = %s; DELETE FROM walrill.documents WHERE id = %s`, o.function(), literal(k.ID), literal(k.ID)), pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
			d.opts.Log.Warn("documents have left the configuration: they are not kept any more, and stay in Redis as they are", "view", k.Name)
		}
		return nil
	})
}

// forgetKeys forgets the noted keys of a pipeline.
func forgetKeys(ctx context.Context, tx pgx.Tx, pipeline string) error {
	var there bool
	err := tx.QueryRow(ctx, "SELECT to_regclass('walrill.document_keys_tx') IS NOT NULL").Scan(&there)
	if err == nil && there {
		_, err = tx.Exec(ctx, "DELETE FROM walrill.document_keys WHERE document IN (SELECT id FROM walrill.documents WHERE pipeline = $1)", pipeline)
	}
	if err != nil {
		return fmt.Errorf("forget the keys of documents: %w", err)
	}
	return nil
}

// poll is how often a store is asked that says nothing by itself.
const poll = 200 * time.Millisecond
