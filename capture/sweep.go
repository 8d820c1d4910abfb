package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// Sweeper deletes rows of outboxes once all that their transactions made is durable in the sink. It works in a goroutine and over a
// connection of its own, and keeps no state: as long as a row that it was shown is there, the position that may be confirmed stays
// before the row's commit, so that after a crash Postgres sends the row again. See and Durable are for one goroutine.
type Sweeper struct {
	source *Source
	wake   func()
	kick   chan struct{} // capacity 1
	cancel context.CancelFunc
	done   chan struct{}

	// of See
	rel  *change.Relation
	keys []int // its primary key's columns

	// of the goroutine
	kept map[uint32]bool // tables of which it was told that their rows stay

	mu      sync.Mutex
	rows    []sweepable // those that are there, in the order of their commits; guarded by mu
	size    int         // bytes that they take, about; guarded by mu
	left    bool        // some were too many, and stay; guarded by mu
	durable change.LSN  // guarded by mu
	err     error       // that ends it; guarded by mu
}

// sweepable is a row that may go.
type sweepable struct {
	rel    *change.Relation
	commit change.LSN
	xid    uint32   // of its transaction
	key    []string // values of the primary key's columns
}

const (
	sweepRows      = 1000                   // in one statement
	sweepMemory    = 64 << 20               // for rows that wait
	sweepOverhead  = 80                     // bytes of a row beside its key
	sweepLock      = "5s"                   // how long a statement waits for a row that somebody has locked
	sweepUnseen    = 100 * time.Millisecond // until it is looked again whether a transaction is visible
	firstSweepWait = 500 * time.Millisecond
	lastSweepWait  = 30 * time.Second
)

// Sweep starts a Sweeper. It calls wake when more may be confirmed, or when Err has an error. Close ends it.
func (s *Source) Sweep(wake func()) *Sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Sweeper{source: s, wake: wake, kick: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), kept: map[uint32]bool{}}
	go w.run(ctx)
	return w
}

// Close ends the Sweeper, whatever is left, and waits for its goroutine.
func (w *Sweeper) Close() {
	w.cancel()
	<-w.done
}

// Err is why it has given up; nil as long as it has not.
func (w *Sweeper) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// See is shown a row, of a table with a primary key, that may go once its transaction is durable.
func (w *Sweeper) See(c *change.Change, tx *change.Tx) {
	if w.rel != c.Relation {
		w.rel, w.keys = c.Relation, nil
		for _, name := range c.Relation.PrimaryKey {
			w.keys = append(w.keys, c.Relation.Column(name))
		}
	}
	row := sweepable{rel: c.Relation, commit: tx.CommitLSN, xid: tx.XID, key: make([]string, len(w.keys))}
	size := sweepOverhead
	for i, column := range w.keys {
		row.key[i] = string(c.New[column].Data)
		size += len(row.key[i])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(row.key) == 0 || w.size+size > sweepMemory {
		if !w.left {
			w.left = true
			w.source.opts.Log.Warn("outbox rows stay: too many wait to be deleted, or their table has no primary key", "table", c.Relation.String(), "from", tx.CommitLSN,
				"fix", "delete them by hand when the pipeline has passed them: their events are published")
		}
		return
	}
	w.rows, w.size = append(w.rows, row), w.size+size
	if tx.CommitLSN < w.durable {
		w.look()
	}
}

// look has the goroutine look for rows that may go.
func (w *Sweeper) look() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Durable says that everything that committed before lsn is durable, and returns up to where that may be confirmed: not
// beyond a row that is still there.
func (w *Sweeper) Durable(lsn change.LSN) change.LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rows) == 0 {
		w.durable = max(w.durable, lsn)
		return lsn
	}
	if lsn > w.durable {
		w.durable = lsn
		w.look()
	}
	return min(lsn, w.rows[0].commit)
}

// batch is the rows of one table that may go now, from the first on.
func (w *Sweeper) batch() []sweepable {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.rows) && n < sweepRows && w.rows[n].commit < w.durable && w.rows[n].rel == w.rows[0].rel {
		n++
	}
	return w.rows[:n:n]
}

// gone forgets the first n rows.
func (w *Sweeper) gone(n int) {
	w.mu.Lock()
	for _, row := range w.rows[:n] {
		w.size -= sweepOverhead
		for _, text := range row.key {
			w.size -= len(text)
		}
	}
	w.rows = w.rows[n:]
	if len(w.rows) == 0 {
		w.rows, w.left = nil, false
	}
	w.mu.Unlock()
	w.wake()
}

func (w *Sweeper) run(ctx context.Context) {
	defer close(w.done)
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx)) // what it did is committed
		}
	}()
	told, wait := "", firstSweepWait
	var retry <-chan time.Time
	for {
		kick := w.kick
		if retry != nil { // not before its time
			kick = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-kick:
		case <-retry:
		}
		retry = nil
		for rows := w.batch(); len(rows) > 0; rows = w.batch() {
			rows, err := w.visible(ctx, &conn, rows)
			if err == nil {
				err = w.delete(ctx, conn, rows)
			}
			if err == nil && len(rows) == 0 {
				retry = time.After(sweepUnseen)
				break
			}
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				told, wait = "", firstSweepWait
				w.gone(len(rows))
				continue
			case errors.As(err, new(*SetupError)):
				w.mu.Lock()
				w.err = err
				w.mu.Unlock()
				w.wake()
				return
			case err.Error() != told:
				told = err.Error()
				w.source.opts.Log.Warn("outbox rows cannot be deleted now: it is tried again, and their WAL is kept until then", "error", err)
			}
			retry, wait = time.After(wait), min(2*wait, lastSweepWait)
			break
		}
	}
}

// visible are the first of the rows, as many as a statement sees from now on. A transaction can be here, and its events in the sink, before
// others see what it did: a DELETE would find nothing then.
func (w *Sweeper) visible(ctx context.Context, conn **pgx.Conn, rows []sweepable) ([]sweepable, error) {
	if *conn == nil || (*conn).IsClosed() {
		c, err := w.source.connectCancelling(ctx)
		if err != nil {
			return nil, err
		}
		*conn = c
		if _, err := c.Exec(ctx, "SET lock_timeout = '"+sweepLock+"'"); err != nil {
			return nil, fmt.Errorf("delete outbox rows: %w", err)
		}
	}
	snap, err := currentSnapshot(ctx, *conn)
	if err != nil {
		return nil, err
	}
	n := 0
	for n < len(rows) && snap.sees(rows[n].xid) {
		n++
	}
	return rows[:n], nil
}

// delete deletes rows of one table. What Postgres refuses for good about single rows is told, and they stay.
func (w *Sweeper) delete(ctx context.Context, conn *pgx.Conn, rows []sweepable) error {
	if len(rows) == 0 {
		return nil
	}
	rel := rows[0].rel
	table, err := sweptName(ctx, conn, rel)
	if err != nil || table == "" { // dropped, and its rows with it
		return err
	}
	columns := make([][]string, len(rows[0].key))
	for _, row := range rows {
		for i := range columns {
			columns[i] = append(columns[i], row.key[i])
		}
	}
	args := make([]any, len(columns))
	for i := range columns {
		args[i] = columns[i]
	}
	tag, err := conn.Exec(ctx, sweepSQL("DELETE FROM", table, "USING", rel), args...)
	switch code := pgCode(err); {
	case err == nil && tag.RowsAffected() < int64(len(rows)) && !w.kept[rel.OID]:
		return w.tellKept(ctx, conn, table, rel, args)
	case err == nil:
		return nil
	case code == codeInsufficientPrivilege:
		return &SetupError{Problem: fmt.Sprintf("rows of the outbox %s cannot be deleted by the role in source.url", rel), Err: err,
			Fix: fmt.Sprintf("GRANT SELECT, DELETE ON %s TO %s;", pgx.Identifier{rel.Namespace, rel.Name}.Sanitize(), quote(w.source.config.User))}
	case !refusesRows(code):
		return fmt.Errorf("delete rows of the outbox %s: %w", rel, err)
	case len(rows) > 1: // the others may go
		for i := range rows {
			if err := w.delete(ctx, conn, rows[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	w.source.opts.Log.Warn("an outbox row stays: Postgres refuses to delete it; its event is published", "table", rel.String(), "key", strings.Join(rows[0].key, "/"), "error", err)
	return nil
}

// tellKept says once of a table that its rows stay although they were deleted: a trigger has said so. Others were deleted before by somebody else.
func (w *Sweeper) tellKept(ctx context.Context, conn *pgx.Conn, table string, rel *change.Relation, args []any) error {
	var n int
	if err := conn.QueryRow(ctx, sweepSQL("SELECT count(*) FROM", table, ",", rel), args...).Scan(&n); err != nil {
		return fmt.Errorf("look for rows of the outbox %s that stayed: %w", rel, err)
	}
	if n > 0 {
		w.kept[rel.OID] = true
		w.source.opts.Log.Warn("outbox rows stay: a trigger on the table keeps them from being deleted, and their events are published", "table", rel.String(), "rows", n,
			"fix", "have the BEFORE DELETE trigger RETURN OLD, or leave `delete: consumed` out")
	}
	return nil
}

// refusesRows reports whether a statement fails by what the rows or their table are, and not by what passes: a constraint, an exception of a trigger,
// a column of the key that was renamed.
func refusesRows(code string) bool {
	return len(code) == 5 && (code[:2] == "23" || code[:2] == "42" || code[:2] == "P0")
}

// sweptName is the table's name now, for a DELETE; empty when it is no more. Children of an inheritance are tables of their own.
func sweptName(ctx context.Context, conn *pgx.Conn, rel *change.Relation) (name string, err error) {
	err = conn.QueryRow(ctx, `SELECT format('%s%I.%I', CASE relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, nspname, relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1`, rel.OID).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up the outbox %s: %w", rel, err)
	}
	return name, nil
}

// sweepSQL is a statement about the rows whose keys are given as texts, an array for each column: do stands before the table, and beside before the keys.
func sweepSQL(do, table, beside string, rel *change.Relation) string {
	var arrays, names, equal []string
	for i, name := range rel.PrimaryKey {
		arrays = append(arrays, fmt.Sprintf("$%d::text[]::%s[]", i+1, rel.Columns[rel.Column(name)].TypeName))
		names = append(names, fmt.Sprintf("k%d", i))
		equal = append(equal, fmt.Sprintf("t.%s = k.k%d", quote(name), i))
	}
	return fmt.Sprintf("%s %s t %s unnest(%s) k(%s) WHERE %s", do, table, beside, strings.Join(arrays, ", "), strings.Join(names, ", "), strings.Join(equal, " AND "))
}

// sweepProblems are what keeps consumed rows of these tables from being deleted.
func (s *Source) sweepProblems(ctx context.Context, conn *pgx.Conn, selection Selection, tables []table) ([]*SetupError, error) {
	var problems []*SetupError
	for _, t := range tables {
		if selection.Consumed == nil || !selection.Consumed(t.Relation) {
			continue
		}
		name := pgx.Identifier{t.Namespace, t.Name}.Sanitize()
		if len(t.PrimaryKey) == 0 {
			problems = append(problems, &SetupError{Problem: fmt.Sprintf("table %s: consumed rows cannot be deleted: it has no primary key to find them by", t),
				Fix: fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (id); -- or leave `delete: consumed` out", name)})
			continue
		}
		var usage, rights, hidden bool
		var role string
		err := conn.QueryRow(ctx, `SELECT has_schema_privilege(relnamespace, 'USAGE'), has_table_privilege(c.oid, 'DELETE') AND has_table_privilege(c.oid, 'SELECT'),
			row_security_active(c.oid), current_user::text FROM pg_class c WHERE c.oid = $1`, t.OID).Scan(&usage, &rights, &hidden, &role)
		switch {
		case errors.Is(err, pgx.ErrNoRows): // dropped meanwhile
		case err != nil:
			return nil, fmt.Errorf("look at the rights on outbox %s: %w", t, err)
		case !usage || !rights:
			fix := fmt.Sprintf("GRANT SELECT, DELETE ON %s TO %s;", name, quote(role))
			if !usage {
				fix = fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; ", quote(t.Namespace), quote(role)) + fix
			}
			problems = append(problems, &SetupError{Problem: fmt.Sprintf("table %s: role %s may not delete its consumed rows", t, role), Fix: fix})
		case hidden:
			problems = append(problems, &SetupError{Problem: fmt.Sprintf("table %s: row level security hides consumed rows from role %s: they would never be deleted", t, role),
				Fix: fmt.Sprintf("ALTER ROLE %s BYPASSRLS; -- or ALTER TABLE %s DISABLE ROW LEVEL SECURITY", quote(role), name)})
		}
	}
	return problems, nil
}

// checkSweep is the first of the sweepProblems.
func (s *Source) checkSweep(ctx context.Context, conn *pgx.Conn, selection Selection, tables []table) error {
	problems, err := s.sweepProblems(ctx, conn, selection, tables)
	if err != nil || len(problems) == 0 {
		return err
	}
	return problems[0]
}
