package projector

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// builder computes a view as a whole, in a session of its own, while the one that follows the streams goes on with everything else.
//
// It computes from a snapshot of the mirrors. From before that until the view is taken over, the following session notes in
// walrill.touched which keys its changes affect. So what the snapshot gave is right but for those keys, and they are computed
// again, at last between two batches: then the view is what its query gives at the position of all others.
//
// A view that is live and keeps its definition is kept up meanwhile, noted keys and all. What is to be done at the end is then
// what the snapshot has shown to be wrong. In any other case, or when that is much, nobody else writes to the view's
// table while the builder does, in one transaction that may take long: a view that was live is not from there on, until it ends.
//
// Everything that the builder makes is temporary or in that transaction. When it dies nothing is left, and it is begun anew.
type builder struct {
	view    string
	def     *definition // that the view is to have
	old     *definition // that its table has; nil when there is none
	mirror  *mirror     // of a view that is a mirror: the one filled beside, whose rows it takes
	request string      // that it is for; "" for none
	noted   *query      // over mirrors: which keys of the view changes affect, and the rows of keys
	kept    bool        // the view is live by the same definition
	holds   bool        // nobody else writes to the table
	blocks  bool        // the view emits events: nothing is applied meanwhile, because no event is made of what a builder brings

	s    *session // of the store
	tx   pgx.Tx
	rows int64 // that were wrong

	stop context.CancelFunc
	done chan struct{} // closed when a step has ended; the fields are the leader's then
	err  error
}

// Tables of the builder's session. No table of a source can be meant by them.
const (
	freshTable   = `pg_temp."walrill fresh"`   // the rows of the snapshot
	comeTable    = `pg_temp."walrill come"`    // those that the view has otherwise
	goneTable    = `pg_temp."walrill gone"`    // keys that the view has and should not
	refusedTable = `pg_temp."walrill refused"` // keys that the view's SQL refuses, and why
	asideTable   = `pg_temp."walrill aside"`   // what was parked at the snapshot
	againTable   = `pg_temp."walrill again"`   // keys to compute again
)

// fewRows is how many rows may be brought into a view's table while nothing else is applied.
const fewRows = 2000

// newBuilder describes the work; nothing is done yet.
func (s *session) newBuilder(v *viewRow, def *definition) *builder {
	b := &builder{view: v.name, def: def, old: v.def, noted: newQuery(s.opts, v.name, def)}
	if _, open := v.asked(); open {
		b.request = v.request
	}
	b.noted.source = "(\n" + def.Query + "\n)"
	b.kept = v.state == stateLive && def.same(v.def) && sameJSON(def.Affects, v.def.Affects)
	return b
}

// ofMirror has a builder take the rows of a mirror that is filled.
func (b *builder) ofMirror(m *mirror) {
	b.mirror = m
	def := *b.def
	filling := m.mirrorDef
	filling.Name = m.fillingName()
	def.Mirrors, def.Affects = []mirrorDef{filling}, []affect{{SQL: "SELECT " + list("%s", def.Key) + " FROM changed"}}
	b.noted = &query{name: b.view, def: &def, schema: b.noted.schema, table: b.noted.table, source: m.table}
}

// begin runs a step in a goroutine of its own.
func (b *builder) begin(ctx context.Context, step func(context.Context) error) {
	ctx, b.stop = context.WithCancel(ctx)
	b.done = make(chan struct{})
	go func() {
		defer close(b.done)
		b.err = step(ctx)
	}()
}

// close ends the session, and with it what it has not committed.
func (b *builder) close() {
	b.stop()
	<-b.done
	if b.s.conn != nil {
		b.s.conn.Close(context.Background()) //nolint:errcheck // nothing is to be kept
	}
}

// compute is the first step: the view's rows as of a snapshot, and how its table differs.
func (b *builder) compute(ctx context.Context) (err error) {
	s := b.s
	if s.conn, err = connect(ctx, s.opts.StoreURL, fillName(s.opts.Pipeline)); err != nil {
		return err
	}
	if _, err = s.conn.Exec(ctx, "SET search_path = "+s.path()); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	return pgx.BeginTxFunc(ctx, s.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		b.tx = tx
		if err := b.tables(ctx); err != nil {
			return err
		}
		refused, err := s.carefully(ctx, func() error { return b.computeAll(ctx) })
		if err == nil && refused != nil {
			err = b.computeCarefully(ctx)
		}
		if err != nil || !b.kept {
			return err
		}
		return b.compare(ctx)
	})
}

func (b *builder) tables(ctx context.Context) error {
	for _, sql := range []string{
		fmt.Sprintf("CREATE TEMP TABLE %s (%s)", freshTable, columnList(b.def)),
		fmt.Sprintf("CREATE UNIQUE INDEX ON %s (%s)", freshTable, list("%s", b.def.Key)),
		fmt.Sprintf("CREATE TEMP TABLE %s (%s)", againTable, b.noted.keyColumns()),
		fmt.Sprintf("CREATE TEMP TABLE %s (key jsonb PRIMARY KEY, error text, row json)", refusedTable),
		fmt.Sprintf("CREATE TEMP TABLE %s AS SELECT source, key, parked_at FROM walrill.parked WHERE pipeline = %s AND view = %s", asideTable, literal(b.s.opts.Pipeline), literal(b.view)),
	} {
		if err := tryExec(ctx, b.tx, sql); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) computeAll(ctx context.Context) error {
	if err := tryExec(ctx, b.tx, fmt.Sprintf("INSERT INTO %s SELECT f.* FROM %s f WHERE %s", freshTable, b.noted.source, b.keyed())); err != nil {
		return err
	}
	return tryExec(ctx, b.tx, "ANALYZE "+freshTable)
}

// keyed is true for rows f that have a key. Those of a mirror have: a composite of NULLs is one, although Postgres says that it IS NULL.
func (b *builder) keyed() string {
	if b.mirror != nil {
		return "true"
	}
	return b.noted.notNull()
}

// compare finds what is wrong in the view's table, in the same snapshot.
func (b *builder) compare(ctx context.Context) error {
	key, table := b.def.Key, b.noted.table
	come, err := b.tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE %s AS SELECT f.* FROM %s f LEFT JOIN %s v ON %s WHERE v.%s IS NOT DISTINCT FROM NULL OR %s",
		comeTable, freshTable, table, equal("v", "f", key), quoteIdent(key[0]), differs("v", "f", b.def.Columns)))
	if err != nil {
		return err
	}
	gone, err := b.tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE %s AS SELECT %s FROM %s v WHERE %s", goneTable, list("v.%s", key), table, b.unwanted()))
	b.rows = come.RowsAffected() + gone.RowsAffected()
	return err
}

// unwanted are rows v of the view that the snapshot did not have, but for those that it could not compute.
func (b *builder) unwanted() string {
	return fmt.Sprintf("NOT EXISTS (SELECT FROM %s f WHERE %s) AND jsonb_build_object(%s) NOT IN (SELECT r.key FROM %s r)",
		freshTable, equal("f", "v", b.def.Key), b.keyMembers("v"), refusedTable)
}

func (b *builder) keyMembers(of string) string {
	parts := make([]string, len(b.def.Key))
	for i, k := range b.def.Key {
		parts[i] = literal(k) + ", " + of + "." + quoteIdent(k)
	}
	return strings.Join(parts, ", ")
}

// few reports whether what is wrong can be mended while nothing else is applied.
func (b *builder) few() bool { return b.kept && b.rows <= fewRows }

// write is the second step, in a transaction that the last one ends: it brings all rows into a table that nobody else writes to.
func (b *builder) write(ctx context.Context) (err error) {
	s, q := b.s, b.noted
	if b.tx, err = s.conn.Begin(ctx); err != nil {
		return err
	}
	if err := reshape(ctx, b.tx, s.opts, b.view, q.table, b.def, b.old); err != nil {
		return err
	}
	if b.mirror == nil {
		if err := newQuery(s.opts, b.view, b.def).makeSource(ctx, b.tx); err != nil {
			return err
		}
	}
	if _, err := b.takeNoted(ctx); err != nil {
		return err
	}
	gone, err := b.tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s v WHERE %s AND %s", q.table, b.notAgain("v"), b.unwanted()))
	if err != nil {
		return err
	}
	come, err := b.bring(ctx, freshTable)
	if err != nil {
		return err
	}
	b.rows = gone.RowsAffected() + come
	// What has changed meanwhile, and what changes while that is computed, until it is little.
	if err := tryExec(ctx, b.tx, "ANALYZE "+q.table); err != nil {
		return err
	}
	for n := int64(fewRows); n >= fewRows; {
		if err := b.computeAgain(ctx); err != nil {
			return err
		}
		if n, err = b.takeNoted(ctx); err != nil {
			return err
		}
	}
	return b.computeAgain(ctx)
}

// bring upserts the rows of a table into the view's, but those of keys that are to be computed again. It returns how many the view had otherwise.
func (b *builder) bring(ctx context.Context, from string) (rows int64, err error) {
	from = fmt.Sprintf("(SELECT * FROM %s f WHERE %s)", from, b.notAgain("f"))
	refused, err := b.s.carefully(ctx, func() error {
		tag, err := b.tx.Exec(ctx, b.noted.upsertFrom(from))
		rows = tag.RowsAffected()
		return err
	})
	if err == nil && refused != nil {
		rows, err = b.bringCarefully(ctx, from)
	}
	return rows, err
}

func (b *builder) notAgain(of string) string {
	return fmt.Sprintf("NOT EXISTS (SELECT FROM %s a WHERE %s)", againTable, equal("a", of, b.def.Key))
}

// takeNoted takes the keys that were noted since the last time as those to compute again, and says how many they are.
func (b *builder) takeNoted(ctx context.Context) (int64, error) {
	if err := tryExec(ctx, b.tx, "TRUNCATE "+againTable); err != nil {
		return 0, err
	}
	tag, err := b.tx.Exec(ctx, fmt.Sprintf(`WITH t AS (DELETE FROM walrill.touched WHERE pipeline = $1 AND view = $2 RETURNING key)
		INSERT INTO %s SELECT DISTINCT r.* FROM t, jsonb_to_record(t.key) r(%s)`, againTable, b.noted.keyColumns()), b.s.opts.Pipeline, b.view)
	if err != nil {
		return 0, fmt.Errorf("read what has changed: %w", err)
	}
	for _, sql := range []string{
		fmt.Sprintf("DELETE FROM %s r USING %s a WHERE r.key = jsonb_build_object(%s)", refusedTable, againTable, b.keyMembers("a")),
		"ANALYZE " + againTable,
	} {
		if err := tryExec(ctx, b.tx, sql); err != nil {
			return 0, err
		}
	}
	return tag.RowsAffected(), nil
}

// computeAgain computes the rows of those keys as the mirrors are now.
func (b *builder) computeAgain(ctx context.Context) error {
	// As for the session that follows the stream: there are few keys, and Postgres cannot know that.
	if _, err := b.tx.Exec(ctx, "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off", pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	refused, err := b.s.carefully(ctx, func() error { return tryExec(ctx, b.tx, b.noted.rowsSQL("SELECT * FROM "+againTable)) })
	if err != nil || refused == nil {
		return err
	}
	return b.recomputeCarefully(ctx)
}

// finish is the last step, while nothing else is applied: the view is what it is to be at the position of all others. live does what
// else belongs into the transaction.
func (b *builder) finish(ctx context.Context, live func(pgx.Tx) error) (err error) {
	if !b.holds {
		if b.tx, err = b.s.conn.Begin(ctx); err != nil {
			return err
		}
	}
	if _, err := b.takeNoted(ctx); err != nil {
		return err
	}
	if b.holds {
		err = b.computeAgain(ctx)
	} else {
		err = b.mend(ctx)
	}
	if err == nil {
		err = b.park(ctx)
	}
	if err == nil {
		err = live(b.tx)
	}
	if err != nil {
		return err
	}
	var fence int64
	err = b.tx.QueryRow(ctx, "SELECT fence FROM walrill.pipelines WHERE pipeline = $1 AND fence = $2 FOR UPDATE", b.s.opts.Pipeline, b.s.fence).Scan(&fence)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errFenced
	}
	if err != nil {
		return err
	}
	return b.tx.Commit(ctx)
}

// mend brings the few rows into the table of a view that is kept up. Noted keys are right: they have been recomputed there.
func (b *builder) mend(ctx context.Context) error {
	if err := tryExec(ctx, b.tx, fmt.Sprintf("DELETE FROM %s v USING %s g WHERE %s AND %s", b.noted.table, goneTable, equal("v", "g", b.def.Key), b.notAgain("v"))); err != nil {
		return err
	}
	_, err := b.bring(ctx, comeTable)
	return err
}

// park sets aside what was refused, and forgets what was set aside before: all of a view that was computed as a whole at the
// end, else what was there at the snapshot.
func (b *builder) park(ctx context.Context) error {
	s := b.s
	if b.mirror == nil {
		forget := fmt.Sprintf("DELETE FROM walrill.parked p USING %s a WHERE p.pipeline = $1 AND p.view = $2 AND p.source = a.source AND p.key = a.key AND p.parked_at = a.parked_at", asideTable)
		if _, err := b.tx.Exec(ctx, forget, s.opts.Pipeline, b.view); err != nil {
			return err
		}
		if b.holds {
			if _, err := b.tx.Exec(ctx, "DELETE FROM walrill.parked WHERE pipeline = $1 AND view = $2 AND source = '' AND parked_at < now()", s.opts.Pipeline, b.view); err != nil {
				return err
			}
		}
	}
	rows, err := b.tx.Query(ctx, "SELECT key::text, error, row::text FROM "+refusedTable)
	if err != nil {
		return err
	}
	type refusal struct {
		Key, Error string
		Row        *string
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[refusal])
	if err != nil {
		return err
	}
	for _, r := range list {
		if err := s.park(ctx, parking{view: b.view, key: r.Key, row: r.Row}, errors.New(r.Error)); err != nil {
			return err
		}
	}
	return nil
}
