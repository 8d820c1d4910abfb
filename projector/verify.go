package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// How verify comes to a verdict while both sides change.
//
// First each side is read in ranges of the key, a count and a sum of hashes each. Where those differ, the keys and hashes
// of the range are read, and the keys that differ are suspects: nothing more, because the two sides were read at different
// moments. A key that was equal is done with.
//
// A mirror's suspects are then looked at in rounds:
//
//  1. A marker is written to the source's WAL, at L0.
//  2. Every transaction that holds a lock by which it may have written to the table is waited for: what is in the WAL
//     below L0 is now visible. Without this a commit that waits for a standby would be in the view and not yet visible.
//  3. The rows are read on the source, and another marker is written, at L1.
//  4. When the view has reached L1, the rows are read in the store, and then the watermark W in Redis.
//  5. The streams say which keys had an event from L0 up to W.
//
// The source's read shows every transaction below L0, perhaps some up to L1, and none that comes later; the view shows every one
// below L1, perhaps some up to W, and none that comes later. A key without an event from L0 to W is the same in all of them,
// so if the two reads differ, the mirror is wrong, and else it is right. A key that had an event goes to the next round.
//
// For a query nothing says which keys an event touches but walrill's own derivation, which is what is to be checked. So the
// source computes the same SQL. A suspect whose row is not what the query gives over the mirrors, both in one snapshot of the
// store, is wrong. Otherwise it must show the same difference in three rounds, each with a marker that the view has
// reached, with the same version of the row in the store and the same result on the source.
//
// What is not settled in time is said to be so, and never counts as equal.

// VerifyOptions say what is compared and how.
type VerifyOptions struct {
	Options     // Log, Backfills and Views are not used
	SourceURL   string
	Publication string // of the source; "" for none: its row filters count
	View        string // "" for all
	ChunkRows   int    // rows in a range
	Patience    time.Duration
	Hidden      func(table, column string) bool // whose values are not shown
	Progress    func(name string, done, total int64)
	// Refresh has rows of a table, chosen by an SQL condition, published again, and returns when that is done; needed for repairs only.
	Refresh func(ctx context.Context, table, where string) error
	Repair  bool
}

// Comparison is what was found about one mirror or view.
type Comparison struct {
	View        string       `json:"view"`            // or the table's name, of a mirror that views are computed from
	Kind        string       `json:"kind"`            // mirror or query
	Table       string       `json:"table,omitempty"` // of a mirror
	For         []string     `json:"for,omitempty"`   // the views that are computed from it
	Rows        int64        `json:"rows"`            // of the source that were compared
	Found       int          `json:"found"`           // differences, also those that are not listed
	Differences []Difference `json:"differences"`     // the first of them
	Parked      []Parked     `json:"parked"`          // keys that are set aside
	Unjudged    []Unjudged   `json:"unjudged"`        // keys about which nothing can be said
	Repaired    int          `json:"repaired,omitempty"`
}

// The kinds of a Difference.
const (
	Missing = "missing" // in the view
	Extra   = "extra"   // not in the source
	Differs = "differs"
)

// Difference is a key whose row is not what the source has.
type Difference struct {
	Key     json.RawMessage `json:"key"`
	Kind    string          `json:"kind"`
	Columns []ColumnValues  `json:"columns,omitempty"` // that differ
	Why     string          `json:"why,omitempty"`     // of a query
	key     []string
}

// ColumnValues are the two values of a column, as Postgres's text; nil for NULL.
type ColumnValues struct {
	Column string  `json:"column"`
	View   *string `json:"view"`
	Source *string `json:"source"`
	Hidden bool    `json:"hidden,omitempty"` // the values are not shown
}

// Unjudged is a key that kept changing, or that something kept from being judged.
type Unjudged struct {
	Key json.RawMessage `json:"key"`
	Why string          `json:"why"`
}

// Equal reports whether nothing was found.
func (c *Comparison) Equal() bool { return c.Found == 0 && len(c.Parked) == 0 && len(c.Unjudged) == 0 }

const (
	// maxListed is how many differences of a view are listed.
	maxListed = 1000
	// maxSuspects is how many keys are looked at again together.
	maxSuspects = 1000
)

// Verify compares mirrors and views with the source. It changes nothing but for the markers in the WAL and, with Repair, what it
// finds. The comparisons that were completed come with an error, too.
func Verify(ctx context.Context, o VerifyOptions) ([]*Comparison, error) {
	v, err := openVerifier(ctx, o)
	if err != nil {
		return nil, err
	}
	defer v.close(ctx)
	var list []*Comparison
	for _, t := range v.targets {
		c, err := v.compare(ctx, t)
		if err != nil {
			return list, fmt.Errorf("compare %s: %w", t.name, err)
		}
		list = append(list, c)
		if o.Repair && c.Found > 0 {
			if err := v.repair(ctx, t, c); err != nil {
				return list, fmt.Errorf("repair %s: %w", t.name, err)
			}
		}
	}
	return list, nil
}

// verifier has a session on each side.
type verifier struct {
	VerifyOptions
	source, store *pgx.Conn
	tables        []Table
	targets       []*target
}

// target is one mirror or view to compare.
type target struct {
	name   string
	kind   string
	mirror *mirror // of a mirror
	query  *query  // of a query
	def    *definition
	uses   []mirrorDef // whose tables it depends on
	wait   string      // a live view that stands where it stands
	usedBy []string
	path   string // for the query on the source, to find its tables
	parked []Parked

	onSource, onStore side
	key               []string // names in the store
	columns           []string // that are compared, names in the store
	hidden            []bool
}

func openVerifier(ctx context.Context, o VerifyOptions) (*verifier, error) {
	v := &verifier{VerifyOptions: o}
	var err error
	if v.tables, err = o.Tables(ctx); err != nil {
		return nil, err
	}
	if v.store, err = connect(ctx, o.StoreURL, "verify"); err != nil {
		return nil, err
	}
	if v.source, err = connect(ctx, o.SourceURL, "verify"); err != nil {
		v.close(ctx)
		return nil, fmt.Errorf("the source: %w", err)
	}
	for _, conn := range []*pgx.Conn{v.source, v.store} {
		// Values are compared by their text, so it must not hang on settings; and a policy must not hide rows.
		if _, err = conn.Exec(ctx, "SET lc_monetary = 'C'; SET bytea_output = 'hex'; SET xmloption = 'content'; SET row_security = off; SET synchronous_commit = local",
			pgx.QueryExecModeSimpleProtocol); err != nil {
			v.close(ctx)
			return nil, fmt.Errorf("set up a session: %w", err)
		}
	}
	if err = v.findTargets(ctx); err != nil {
		v.close(ctx)
		return nil, err
	}
	return v, nil
}

func (v *verifier) close(ctx context.Context) {
	for _, conn := range []*pgx.Conn{v.source, v.store} {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
		}
	}
}

// findTargets lists what is to be compared: the mirrors in use, each once, and behind them the queries.
func (v *verifier) findTargets(ctx context.Context) error {
	s := &session{opts: &v.Options, conn: v.store}
	err := s.loadViews(ctx)
	if noViewsYet(err) || err == nil && len(s.views) == 0 {
		return fmt.Errorf("pipeline %s keeps no views in this store yet: start `walrill run` first", v.Pipeline)
	}
	if err != nil {
		return err
	}
	mirrors, err := s.loadMirrors(ctx)
	if err != nil {
		return err
	}
	chosen, err := v.chosen(ctx, s.views)
	if err != nil {
		return err
	}
	var queries []*target
	for _, view := range chosen {
		if view.def.Kind == "query" {
			queries = append(queries, &target{name: view.name, kind: "query", query: newQuery(&v.Options, view.name, view.def), def: view.def, uses: view.def.Mirrors, wait: view.name})
		}
	}
	for _, m := range mirrors {
		t := &target{name: m.Name, kind: "mirror", mirror: m, uses: []mirrorDef{m.mirrorDef}}
		for _, view := range chosen {
			if slices.ContainsFunc(view.def.Mirrors, func(d mirrorDef) bool { return d.id() == m.id() }) {
				t.wait, t.usedBy = view.name, append(t.usedBy, view.name)
			}
		}
		if t.wait != "" && !m.filling {
			v.targets = append(v.targets, t)
		}
	}
	v.targets = append(v.targets, queries...)
	for _, t := range v.targets {
		if err := v.prepare(ctx, t); err != nil {
			return fmt.Errorf("compare %s: %w", t.name, err)
		}
	}
	return nil
}

// chosen are the views that are asked for, which must be live.
func (v *verifier) chosen(ctx context.Context, views map[string]*viewRow) ([]*viewRow, error) {
	if row := views[v.View]; v.View != "" && (row == nil || row.state == stateStopped) {
		return nil, fmt.Errorf("pipeline %s keeps no view %s in this store; `walrill status` lists its views", v.Pipeline, v.View)
	}
	var gap string
	if err := v.store.QueryRow(ctx, "SELECT coalesce(gap, '') FROM walrill.pipelines WHERE pipeline = $1", v.Pipeline).Scan(&gap); err != nil {
		return nil, fmt.Errorf("read the position of the views: %w", err)
	}
	if gap != "" {
		return nil, fmt.Errorf("the views are being filled anew, and cannot be compared until then: %s", gap)
	}
	var chosen []*viewRow
	for _, name := range sortedKeys(views) {
		row := views[name]
		if row.state == stateStopped || v.View != "" && v.View != name {
			continue
		}
		i := slices.IndexFunc(v.Views, func(w View) bool { return w.Name == name })
		if row.def.folds() || i >= 0 && v.Views[i].folds() {
			if v.View != "" {
				return nil, fmt.Errorf("view %s is a fold, of events, and there is no table that it could be compared with: `walrill rebuild %s` says how many of its rows differ from what the events give", name, name)
			}
			continue
		}
		if row.def.folds() {
			if v.View == name || len(views) == 1 {
				return nil, fmt.Errorf("view %s is a fold: the source has no events to compare it with; `walrill rebuild %s` folds them again and says how many rows differed", name, name)
			}
			continue
		}
		if row.state != stateLive {
			return nil, fmt.Errorf("view %s is %s: it can be compared when it is complete; `walrill status` shows how far it is", name, row.state)
		}
		chosen = append(chosen, row)
	}
	if len(chosen) == 0 {
		return nil, errors.New("there is no mirror and no query to compare: folds are compared by a rebuild")
	}
	return chosen, nil
}

// compare finds the suspects range by range and settles them.
func (v *verifier) compare(ctx context.Context, t *target) (*Comparison, error) {
	c := &Comparison{View: t.name, Kind: t.kind, Differences: []Difference{}, Parked: t.parked, Unjudged: []Unjudged{}}
	if t.mirror != nil {
		c.Table = t.mirror.Source
		if !t.mirror.View {
			c.For = t.usedBy
		}
	}
	var total int64
	if err := v.store.QueryRow(ctx, "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = $1::regclass", t.table()).Scan(&total); err != nil {
		return nil, fmt.Errorf("look up the size of %s: %w", t.table(), err)
	}
	if err := v.enter(ctx, t); err != nil {
		return nil, err
	}
	limit := v.ChunkRows
	if t.query != nil {
		limit = max(limit, int(total/16)) // a range may cost as much as the whole query
	}
	var after []string
	var suspects [][]string
	for last := false; !last; {
		upto, here, err := t.onSource.next(ctx, after, limit)
		if err != nil {
			return nil, t.explainFailure(err)
		}
		last = upto == nil
		there, err := t.onStore.sum(ctx, after, upto)
		if err != nil {
			return nil, err
		}
		if here != there {
			found, err := t.differing(ctx, after, upto)
			if err != nil {
				return nil, err
			}
			suspects = append(suspects, found...)
		}
		c.Rows += here.rows
		v.Progress(t.name, c.Rows, max(total, c.Rows))
		for len(suspects) >= maxSuspects || last && len(suspects) > 0 {
			n := min(len(suspects), maxSuspects)
			if err := v.settle(ctx, t, c, suspects[:n]); err != nil {
				return nil, err
			}
			suspects = suspects[n:]
		}
		after = upto
	}
	v.Progress(t.name, c.Rows, c.Rows)
	return c, nil
}

// table is the target's table in the store, quoted.
func (t *target) table() string {
	if t.query != nil {
		return t.query.table
	}
	return t.mirror.table
}

// explainFailure says what to do when the source refuses to compute the view's query.
func (t *target) explainFailure(err error) error {
	if t.query == nil || !isDefinitionError(err) {
		return err
	}
	return fmt.Errorf("the source cannot compute the view's query: %s", reason(err))
}

// differing are the keys of a range whose rows are not the same on both sides at the moment.
func (t *target) differing(ctx context.Context, after, upto []string) ([][]string, error) {
	here, err := t.onSource.hashes(ctx, after, upto)
	if err != nil {
		return nil, t.explainFailure(err)
	}
	there, err := t.onStore.hashes(ctx, after, upto)
	if err != nil {
		return nil, err
	}
	var keys [][]string
	for key, hash := range here {
		if other, ok := there[key]; !ok || other != hash {
			keys = append(keys, splitKey(key))
		}
		delete(there, key)
	}
	for key := range there {
		keys = append(keys, splitKey(key))
	}
	slices.SortFunc(keys, slices.Compare[[]string])
	return keys, nil
}

// joinKey makes one text of a key's columns, in which no two keys are the same. splitKey is its inverse.
func joinKey(texts []string) string {
	var b strings.Builder
	for _, text := range texts {
		fmt.Fprintf(&b, "%d:%s", len(text), text)
	}
	return b.String()
}

func splitKey(key string) []string {
	var texts []string
	for key != "" {
		length, rest, _ := strings.Cut(key, ":")
		n, _ := strconv.Atoi(length) // as joinKey wrote it
		texts, key = append(texts, rest[:n]), rest[n:]
	}
	return texts
}

// reach waits until the target's view has reached an LSN.
func (v *verifier) reach(ctx context.Context, t *target, lsn uint64) error {
	_, err := WaitFor(ctx, v.store, t.wait, lsn, v.Patience)
	if w, ok := errors.AsType[*WaitError](err); ok {
		return fmt.Errorf("%s; it can be compared when a daemon keeps it up: see `walrill status`", w.Problem)
	}
	return err
}
