package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// suspect is a key that differed at some moment.
type suspect struct {
	key       []string
	here      found // as read last, of a query
	there     found
	confirmed int    // rounds in which it showed the same difference
	why       string // it could not be judged in the last round
}

const (
	// stableRounds is how often a query's suspect must show the same difference.
	stableRounds = 3
	// betweenRounds is the pause before keys are looked at again, so that what changes them may end.
	betweenRounds = 100 * time.Millisecond
	// leastWait is how long open transactions are waited for at least, also when the patience is at its end: most are short.
	leastWait = 500 * time.Millisecond
)

// settle looks at suspects again until each is judged or the patience is at its end.
func (v *verifier) settle(ctx context.Context, t *target, c *Comparison, keys [][]string) error {
	open := make([]*suspect, len(keys))
	for i, key := range keys {
		open[i] = &suspect{key: key, why: "it kept changing"}
	}
	for deadline := time.Now().Add(v.Patience); ; {
		var err error
		if t.mirror != nil {
			open, err = v.mirrorRound(ctx, t, c, open, deadline)
		} else {
			open, err = v.queryRound(ctx, t, c, open, deadline)
		}
		if err != nil {
			return err
		}
		if len(open) == 0 || time.Now().After(deadline) {
			break
		}
		if err := pause(ctx, betweenRounds); err != nil {
			return err
		}
	}
	left := make([][]string, len(open))
	for i, s := range open {
		left[i] = s.key
	}
	names, err := v.name(ctx, t, left)
	if err != nil {
		return err
	}
	for i, s := range open {
		c.Unjudged = append(c.Unjudged, Unjudged{names[i], s.why})
	}
	return v.sortParked(ctx, t, c)
}

// mirrorRound is one round of the proof above. It returns the suspects that are still open.
func (v *verifier) mirrorRound(ctx context.Context, t *target, c *Comparison, open []*suspect, deadline time.Time) ([]*suspect, error) {
	from, err := v.mark(ctx)
	if err != nil {
		return nil, err
	}
	if holder, err := v.awaitWriters(ctx, t, deadline); err != nil || holder != "" {
		return tell(open, holder), err
	}
	keys := keysOf(open)
	here, err := t.onSource.rows(ctx, keys, "''")
	if err != nil {
		return nil, err
	}
	behind, err := v.mark(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.reach(ctx, t, behind); err != nil {
		return nil, err
	}
	there, err := t.onStore.rows(ctx, keys, "''")
	if err != nil {
		return nil, err
	}
	touched, all, err := v.touched(ctx, t, from)
	if err != nil {
		return nil, err
	}
	var left []*suspect
	for _, s := range open {
		key := joinKey(s.key)
		d := t.difference(s.key, here, there)
		switch {
		case d == nil:
		case all || touched[key]:
			s.why = "it kept changing"
			left = append(left, s)
		default:
			if err := v.record(ctx, t, c, d); err != nil {
				return nil, err
			}
		}
	}
	return left, nil
}

// queryRound looks at a query's suspects once.
func (v *verifier) queryRound(ctx context.Context, t *target, c *Comparison, open []*suspect, deadline time.Time) ([]*suspect, error) {
	if holder, err := v.awaitWriters(ctx, t, deadline); err != nil || holder != "" {
		return tell(open, holder), err
	}
	keys := keysOf(open)
	here, err := t.onSource.rows(ctx, keys, "''")
	if err != nil {
		return nil, t.explainFailure(err)
	}
	behind, err := v.mark(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.reach(ctx, t, behind); err != nil {
		return nil, err
	}
	there, computed, err := v.recomputed(ctx, t, keys)
	if err != nil {
		return nil, err
	}
	var left []*suspect
	for _, s := range open {
		if d := t.difference(s.key, computed, there); d != nil {
			d.Why = "it is not what the query gives over walrill's mirrors"
			if err := v.record(ctx, t, c, d); err != nil {
				return nil, err
			}
			continue
		}
		d := t.difference(s.key, here, there)
		if d == nil {
			continue
		}
		if s.again(here[joinKey(s.key)], there[joinKey(s.key)]) < stableRounds {
			s.why = "it kept changing"
			left = append(left, s)
			continue
		}
		d.Why = "it is what the query gives over walrill's mirrors, and not what it gives on the source"
		if err := v.record(ctx, t, c, d); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// again counts in how many rounds in a row a suspect was the same on both sides. In the store a row that was written and is
// equal again does not count as the same.
func (s *suspect) again(here, there found) int {
	same := s.confirmed > 0 && here.same(s.here) && there.same(s.there) && there.version == s.there.version
	if !same {
		s.confirmed = 0
	}
	s.here, s.there = here, there
	s.confirmed++
	return s.confirmed
}

// recomputed reads the rows of a view and those that its query gives over the mirrors, in one snapshot.
func (v *verifier) recomputed(ctx context.Context, t *target, keys [][]string) (there, computed map[string]found, err error) {
	err = pgx.BeginTxFunc(ctx, v.store, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(pgx.Tx) error {
		var err error
		if there, err = t.onStore.rows(ctx, keys, "t.xmin::text || t.ctid::text"); err != nil {
			return err
		}
		query := t.onStore
		query.from = t.query.source + " t"
		computed, err = query.rows(ctx, keys, "''")
		return err
	})
	return there, computed, err
}

func tell(open []*suspect, why string) []*suspect {
	for _, s := range open {
		s.why = why
	}
	return open
}

func keysOf(open []*suspect) [][]string {
	keys := make([][]string, len(open))
	for i, s := range open {
		keys[i] = s.key
	}
	return keys
}

// difference compares a row; nil when it is the same on both sides, or on neither.
func (t *target) difference(key []string, here, there map[string]found) *Difference {
	a, inSource := here[joinKey(key)]
	b, inView := there[joinKey(key)]
	d := &Difference{key: key}
	switch {
	case !inSource && !inView, inSource && inView && a.same(b):
		return nil
	case !inSource:
		d.Kind = Extra
	case !inView:
		d.Kind = Missing
	default:
		d.Kind = Differs
		for i, name := range t.columns {
			x, y := b.values[i], a.values[i]
			if x == y || x != nil && y != nil && *x == *y {
				continue
			}
			values := ColumnValues{Column: name, View: x, Source: y}
			if t.hidden[i] {
				values = ColumnValues{Column: name, Hidden: true}
			}
			d.Columns = append(d.Columns, values)
		}
	}
	return d
}

// record adds a difference to what was found.
func (v *verifier) record(ctx context.Context, t *target, c *Comparison, d *Difference) error {
	c.Found++
	if len(c.Differences) >= maxListed {
		return nil
	}
	names, err := v.name(ctx, t, [][]string{d.key})
	if err != nil {
		return err
	}
	d.Key = names[0]
	c.Differences = append(c.Differences, *d)
	return nil
}

// name gives keys as the JSON that `walrill parked` shows, too.
func (v *verifier) name(ctx context.Context, t *target, keys [][]string) ([]json.RawMessage, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var parts []string
	args := make([]any, len(t.key))
	columns := make([]string, len(t.key))
	for i, k := range t.key {
		texts := make([]string, len(keys))
		for j := range keys {
			texts[j] = keys[j][i]
		}
		args[i], columns[i] = texts, fmt.Sprintf("$%d::text[]", i+1)
		parts = append(parts, fmt.Sprintf("%s, u.k%d::%s", literal(k), i, t.onStore.keyTypes[i]))
	}
	names := make([]string, len(t.key))
	for i := range names {
		names[i] = fmt.Sprintf("k%d", i)
	}
	rows, err := v.store.Query(ctx, fmt.Sprintf("SELECT jsonb_build_object(%s)::text FROM unnest(%s) WITH ORDINALITY u(%s, n) ORDER BY n",
		strings.Join(parts, ", "), strings.Join(columns, ", "), strings.Join(names, ", ")), args...)
	if err != nil {
		return nil, fmt.Errorf("name keys: %w", err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("name keys: %w", err)
	}
	list := make([]json.RawMessage, len(texts))
	for i, text := range texts {
		list[i] = json.RawMessage(text)
	}
	return list, nil
}

// sortParked takes the keys that are set aside, and differ for that, out of the differences. What is set aside is read again:
// it may have come since.
func (v *verifier) sortParked(ctx context.Context, t *target, c *Comparison) error {
	var err error
	if c.Parked, err = ListParked(ctx, v.store, v.Pipeline, t.name); err != nil {
		return err
	}
	before := len(c.Differences)
	c.Differences = slices.DeleteFunc(c.Differences, func(d Difference) bool {
		return slices.ContainsFunc(c.Parked, func(p Parked) bool { return string(p.Key) == string(d.Key) })
	})
	c.Found -= before - len(c.Differences)
	return nil
}

// mark writes a marker to the source's WAL and returns a position behind it. Everything that a statement before it could see is below.
func (v *verifier) mark(ctx context.Context) (uint64, error) {
	// In two statements: the position is taken behind the first one's commit.
	if _, err := v.source.Exec(ctx, "SELECT pg_logical_emit_message(true, $1, '')", "walrill.verify."+v.Pipeline); err != nil {
		return 0, fmt.Errorf("write a marker: %w", err)
	}
	var lsn int64
	if err := v.source.QueryRow(ctx, "SELECT (pg_current_wal_lsn() - '0/0')::bigint").Scan(&lsn); err != nil {
		return 0, fmt.Errorf("read the position of a marker: %w", err)
	}
	return uint64(lsn), nil
}

// writersSQL lists who may have written to tables, or to partitions of them, and has not ended. A transaction keeps its locks until others can see it.
const writersSQL = `SELECT DISTINCT virtualtransaction || ' ' || coalesce('process ' || pid, 'a prepared transaction') FROM pg_locks
	WHERE locktype = 'relation' AND granted AND pid IS DISTINCT FROM pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
	AND relation IN (SELECT p.relid FROM unnest($1::text[]) t, pg_partition_tree(t::regclass) p UNION ALL SELECT p.relid FROM unnest($1::text[]) t, pg_partition_ancestors(t::regclass) p
		UNION ALL SELECT t::regclass FROM unnest($1::text[]) t)`

// awaitWriters waits until all have ended that may have written to the target's tables by now. holder says who has not in time.
func (v *verifier) awaitWriters(ctx context.Context, t *target, deadline time.Time) (holder string, err error) {
	var tables []string
	for _, m := range t.uses {
		schema, name, _ := strings.Cut(m.Source, ".")
		tables = append(tables, qualified(schema, name))
	}
	if least := time.Now().Add(leastWait); deadline.Before(least) {
		deadline = least
	}
	var waiting []string
	for first := true; ; first = false {
		rows, err := v.source.Query(ctx, writersSQL, tables)
		if err != nil {
			return "", fmt.Errorf("look for open transactions: %w", err)
		}
		now, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return "", fmt.Errorf("look for open transactions: %w", err)
		}
		if first {
			waiting = now
		}
		waiting = slices.DeleteFunc(waiting, func(w string) bool { return !slices.Contains(now, w) })
		if len(waiting) == 0 {
			return "", nil
		}
		if time.Now().After(deadline) {
			_, who, _ := strings.Cut(waiting[0], " ")
			return "a transaction that may have written to its table has not ended: " + who, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// touched are the keys of a mirror that had an event since a position, by joinKey; all, when the table was emptied. It is asked
// after the store was read, so the watermark is above the position that was read there.
func (v *verifier) touched(ctx context.Context, t *target, since uint64) (keys map[string]bool, all bool, err error) {
	watermark, err := v.Watermark(ctx)
	if err != nil {
		return nil, false, err
	}
	epoch, _ := event.SplitClock(watermark)
	feed, err := v.open(ctx, []string{t.mirror.Stream}, event.Position{Commit: event.Clock(epoch, since) - 1, Ordinal: ^uint64(0)})
	if err != nil {
		return nil, false, err
	}
	names := map[string]bool{}
	for {
		e, ok, err := feed.Step(ctx)
		if err != nil {
			return nil, false, err
		}
		if !ok && feed.Watermark() >= watermark || ok && e.Position.Commit >= watermark {
			break
		}
		if !ok || e.Table != t.mirror.Source {
			continue
		}
		if e.Op == 't' {
			return nil, true, nil
		}
		if err := t.mirror.fold.touches(&e, names); err != nil {
			return nil, false, err
		}
	}
	if len(names) == 0 {
		return nil, false, nil
	}
	values := make([][]byte, 0, len(names))
	for name := range names {
		values = append(values, []byte(name))
	}
	texts := make([]string, len(t.key))
	for i, k := range t.key {
		texts[i] = "i." + quoteIdent(k) + "::text"
	}
	conn, input := v.store, t.mirror.input(t.key)
	if t.doc != nil {
		conn, input = v.source, "input AS (SELECT * FROM json_to_recordset($1::json)"+t.doc.as+")"
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("WITH %s SELECT ARRAY[%s] FROM input i", input, strings.Join(texts, ", ")), string(array(values)))
	if err != nil {
		return nil, false, fmt.Errorf("read the keys of events: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	if err != nil {
		return nil, false, fmt.Errorf("read the keys of events: %w", err)
	}
	keys = map[string]bool{}
	for _, key := range list {
		keys[joinKey(key)] = true
	}
	return keys, false, nil
}

// touches adds the keys that an event is about: the row's and, when it had another before, that one.
func (f *fold) touches(e *event.Event, keys map[string]bool) error {
	switch e.Op {
	case 'c', 'r', 'u', 'd':
	default:
		return nil // a logical message
	}
	values, err := f.parse(e, e.Data, false)
	if err != nil {
		return err
	}
	keys[string(f.keyOf(values))] = true
	old, err := f.oldKey(e, values, nil)
	if err == nil && old != nil {
		keys[string(old)] = true
	}
	return err
}
