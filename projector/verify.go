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
	"github.com/redis/go-redis/v9"
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
	Options     // Log and Backfills are not used; without a StoreURL there are documents of tables only
	SourceURL   string
	Publication string // of the source; "" for none: its row filters count
	View        string // "" for all
	Documents   []DocumentView
	Redis       redis.UniversalClient // that has them
	ChunkRows   int                   // rows in a range
	Patience    time.Duration
	Hidden      func(table, column string) bool      // whose values are not shown; for folds alone it may be nil, as SourceURL and Tables may
	Progress    func(name string, done, total int64) // may be nil
	// Refresh has rows of a table, chosen by an SQL condition, published again, and returns when that is done; needed for repairs only.
	Refresh func(ctx context.Context, table, where string) error
	Repair  bool
}

// Comparison is what was found about one mirror or view.
type Comparison struct {
	View        string       `json:"view"`                 // or the table's name, of a mirror that views are computed from
	Kind        string       `json:"kind"`                 // mirror, query, fold, code or document
	Table       string       `json:"table,omitempty"`      // of a mirror, and of documents of a table
	For         []string     `json:"for,omitempty"`        // the views that are computed from it
	Rows        int64        `json:"rows"`                 // of the source that were compared; of a fold, those that its events give
	Events      int64        `json:"events,omitempty"`     // of its streams, that a fold was folded again from
	Found       int          `json:"found"`                // differences, also those that are not listed
	Differences []Difference `json:"differences"`          // the first of them
	Parked      []Parked     `json:"parked"`               // keys that are set aside
	Unjudged    []Unjudged   `json:"unjudged"`             // keys about which nothing can be said
	NotJudged   string       `json:"not_judged,omitempty"` // why nothing could be compared at all
	ByDesign    bool         `json:"by_design,omitempty"`  // the configuration says so itself: `start: now` leaves nothing to compare with
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
	Why     string          `json:"why,omitempty"`     // of a query or fold
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

func newComparison(t *target) *Comparison {
	c := &Comparison{View: t.name, Kind: t.kind, Differences: []Difference{}, Parked: t.parked, Unjudged: []Unjudged{}, NotJudged: t.not}
	if c.Parked == nil {
		c.Parked = []Parked{}
	}
	if t.mirror != nil {
		c.Table = t.mirror.Source
		if !t.mirror.View {
			c.For = t.usedBy
		}
	}
	return c
}

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

// verifier has a session on each side, as far as it needs them.
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
	not    string     // why it cannot be compared; "" when it can be
	doc    *docTarget // of documents
	mirror *mirror    // of a mirror, and of documents of a table
	query  *query     // of a query; of a fold, its table
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

func (t *target) folds() bool { return t.def.folds() }

func openVerifier(ctx context.Context, o VerifyOptions) (*verifier, error) {
	v := &verifier{VerifyOptions: o}
	if v.Progress == nil {
		v.Progress = func(string, int64, int64) {}
	}
	err := v.findTargets(ctx)
	if err == nil && slices.ContainsFunc(v.targets, (*target).needsSource) {
		err = v.openSource(ctx)
	}
	for _, t := range v.targets {
		if err == nil && t.not == "" {
			if err = v.prepare(ctx, t); err != nil {
				err = fmt.Errorf("compare %s: %w", t.name, err)
			}
		}
	}
	if err != nil {
		v.close(ctx)
		return nil, err
	}
	return v, nil
}

// needsSource reports whether the target is compared with the source's tables.
func (t *target) needsSource() bool {
	return t.not == "" && !t.folds() && (t.doc == nil || t.doc.view.From == "")
}

func (v *verifier) openSource(ctx context.Context) (err error) {
	if v.tables, err = v.Tables(ctx); err != nil {
		return err
	}
	if v.source, err = v.session(ctx, v.SourceURL); err != nil {
		return fmt.Errorf("the source: %w", err)
	}
	return nil
}

// session opens one whose values can be compared by their text, so that it must not hang on settings, and from which no policy hides rows.
func (v *verifier) session(ctx context.Context, url string) (*pgx.Conn, error) {
	conn, err := connect(ctx, url, "verify")
	if err != nil {
		return nil, err
	}
	if _, err = conn.Exec(ctx, "SET lc_monetary = 'C'; SET bytea_output = 'hex'; SET xmloption = 'content'; SET row_security = off; SET synchronous_commit = local",
		pgx.QueryExecModeSimpleProtocol); err != nil {
		conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // err says what is wrong
		return nil, fmt.Errorf("set up a session: %w", err)
	}
	return conn, nil
}

func (v *verifier) close(ctx context.Context) {
	for _, conn := range []*pgx.Conn{v.source, v.store} {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
		}
	}
}

// findTargets lists what is to be compared: the mirrors in use, each once, behind them the queries and the folds, and then the documents.
func (v *verifier) findTargets(ctx context.Context) error {
	isDocument := false
	for i := range v.Documents {
		if d := &v.Documents[i]; v.View == "" || v.View == d.Name {
			isDocument = v.View != ""
			t := &target{name: d.Name, kind: "document"}
			t.doc = &docTarget{target: t, v: v, view: d, store: newDocStore(v.Redis, v.Pipeline, d)}
			v.targets = append(v.targets, t)
		}
	}
	if v.StoreURL == "" || isDocument && v.targets[0].doc.view.From == "" {
		return nil
	}
	documents := v.targets
	v.targets = nil
	err := v.findInStore(ctx, isDocument)
	v.targets = append(v.targets, documents...)
	return err
}

// findInStore lists what is to be compared of the views in the store: nothing when documents are asked for.
func (v *verifier) findInStore(ctx context.Context, none bool) (err error) {
	if v.store, err = v.session(ctx, v.StoreURL); err != nil {
		return err
	}
	if none {
		return nil
	}
	s := &session{opts: &v.Options, conn: v.store}
	err = s.loadViews(ctx)
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
	for _, m := range mirrors {
		t := &target{name: m.Name, kind: "mirror", mirror: m, uses: []mirrorDef{m.mirrorDef}}
		for _, view := range chosen {
			if view.state == stateLive && slices.ContainsFunc(view.def.Mirrors, func(d mirrorDef) bool { return d.id() == m.id() }) {
				t.wait, t.usedBy = view.name, append(t.usedBy, view.name)
			}
		}
		if t.wait != "" && !m.filling {
			v.targets = append(v.targets, t)
		}
	}
	for _, view := range chosen {
		switch {
		case view.state != stateLive:
			v.targets = append(v.targets, &target{name: view.name, kind: v.kindOf(view), not: notLive(view)})
		case view.def.Kind != "mirror":
			v.targets = append(v.targets, &target{name: view.name, kind: view.def.Kind, query: newQuery(&v.Options, view.name, view.def), def: view.def, uses: view.def.Mirrors, wait: view.name})
		}
	}
	return nil
}

// kindOf is the kind of a view that may not have been complete yet.
func (v *verifier) kindOf(row *viewRow) string {
	if row.def != nil {
		return row.def.Kind
	}
	i := slices.IndexFunc(v.Views, func(w View) bool { return w.Name == row.name })
	switch {
	case i < 0:
		return ""
	case v.Views[i].Apply != nil:
		return "code"
	case v.Views[i].folds():
		return "fold"
	case v.Views[i].Query != "":
		return "query"
	}
	return "mirror"
}

func notLive(row *viewRow) string {
	if row.problem != "" {
		return fmt.Sprintf("it is %s: %s", row.state, row.problem)
	}
	return fmt.Sprintf("it is %s: it can be compared when it is complete; `walrill status` shows how far it is", row.state)
}

// chosen are the views that are asked for.
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
		if row := views[name]; row.state != stateStopped && (v.View == "" || v.View == name) {
			chosen = append(chosen, row)
		}
	}
	return chosen, nil
}

// compare compares a target.
func (v *verifier) compare(ctx context.Context, t *target) (*Comparison, error) {
	c := newComparison(t)
	switch {
	case t.not != "":
		return c, nil
	case t.doc != nil:
		return c, t.doc.compare(ctx, c)
	case t.folds():
		return c, v.compareFold(ctx, t, c)
	}
	if err := v.enter(ctx, t); err != nil {
		return nil, err
	}
	return c, v.ranges(ctx, t, c)
}

// ranges finds the suspects range by range and settles them.
func (v *verifier) ranges(ctx context.Context, t *target, c *Comparison) error {
	var total int64
	if err := v.store.QueryRow(ctx, "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = $1::regclass", t.table()).Scan(&total); err != nil {
		return fmt.Errorf("look up the size of %s: %w", t.table(), err)
	}
	limit := v.ChunkRows
	if t.kind == "query" {
		limit = max(limit, int(total/16)) // a range may cost as much as the whole query
	}
	var after []string
	var suspects [][]string
	for last := false; !last; {
		upto, here, err := t.onSource.next(ctx, after, limit)
		if err != nil {
			return t.explainFailure(err)
		}
		last = upto == nil
		there, err := t.onStore.sum(ctx, after, upto)
		if err != nil {
			return err
		}
		if here != there {
			found, err := t.differing(ctx, after, upto)
			if err != nil {
				return err
			}
			suspects = append(suspects, found...)
		}
		c.Rows += here.rows
		v.Progress(t.name, c.Rows, max(total, c.Rows))
		for len(suspects) >= maxSuspects || last && len(suspects) > 0 {
			n := min(len(suspects), maxSuspects)
			if err := v.decide(ctx, t, c, suspects[:n]); err != nil {
				return err
			}
			suspects = suspects[n:]
		}
		after = upto
	}
	v.Progress(t.name, c.Rows, c.Rows)
	return nil
}

// decide says what is wrong with suspects.
func (v *verifier) decide(ctx context.Context, t *target, c *Comparison, keys [][]string) error {
	if t.folds() {
		return v.judge(ctx, t, c, keys)
	}
	return v.settle(ctx, t, c, keys)
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
	if t.kind != "query" || !isDefinitionError(err) {
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
	return explainWait(err)
}

func explainWait(err error) error {
	if w, ok := errors.AsType[*WaitError](err); ok {
		return fmt.Errorf("%s; it can be compared when a daemon keeps it up: see `walrill status`", w.Problem)
	}
	return err
}
