package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/walrill/walrill/event"
)

// directKeeper keeps the documents of a table's rows: events go into Redis without a store between. Where reading goes on, and
// the last seq of each partition, is written with the documents.
type directKeeper struct {
	documents *Documents
	opts      *DocumentOptions
	view      *DocumentView
	store     *docStore

	def   docDefinition
	fold  *fold
	feed  Feed
	pos   position
	fill  string // why documents are read anew; "" when they are not
	ask   string // the backfill that does it
	asked string // the rebuild that somebody waits for
	seqs  map[string]uint64
	dirty map[string]bool
	reads map[string]bool // keys that only a backfill has brought in this batch; nil when nobody asks
	batch batch
	shape int  // the version of the table's columns in the last event
	alter bool // it is another one: the table may have other columns than those that are kept
	diffs int64
	tend  time.Time
}

// Why documents are read anew.
const (
	fillNew     = "new"     // there are none yet, or others are wanted
	fillGap     = "gap"     // events are missing
	fillRebuild = "rebuild" // somebody asked; they stay what they are
)

// docDefinition is what documents depend on. It is in Redis with them, as JSON.
type docDefinition struct {
	Pattern string    `json:"pattern"`
	As      string    `json:"as"`
	From    string    `json:"from,omitempty"`
	Mirror  mirrorDef `json:"mirror,omitzero"`
	Columns []string  `json:"columns,omitempty"` // of a view in the store
	Types   []string  `json:"types,omitempty"`
}

func (k *directKeeper) run(ctx context.Context) error {
	if err := k.prepare(ctx); err != nil {
		return err
	}
	if err := k.documents.lead(ctx, k.view, k.store, false); err != nil {
		return err
	}
	if err := k.load(ctx); err != nil {
		return err
	}
	k.opts.Log.Info("keeping documents", "view", k.view.Name, "position", clock(k.pos.shown), "fill", k.fill)
	k.documents.note(k.view.Name, func(s *DocumentStatus) { s.Running, s.Error = true, "" })
	err := k.open(ctx)
	if err == nil {
		err = k.follow(ctx)
	}
	var missing *MissingError
	var schema *SchemaError
	if errors.As(err, &missing) || errors.As(err, &schema) {
		return k.breakOff(ctx, err)
	}
	return err
}

// prepare plans the view: which columns of which table, from which stream.
func (k *directKeeper) prepare(ctx context.Context) error {
	tables, err := k.opts.Tables(ctx)
	if err != nil {
		return err
	}
	if k.def, err = planDirect(k.view, tables); err != nil {
		return err
	}
	k.fold = newFold(k.def.Mirror.Columns, k.def.Mirror.Key)
	for {
		w, err := k.opts.Watermark(ctx)
		if err != nil || w > 0 {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func planDirect(v *DocumentView, tables []Table) (docDefinition, error) {
	table := v.Table
	table.Name, table.Where = v.Name, v.Where
	d, err := (&planner{tables: tables}).planMirror(&table)
	if err != nil {
		return docDefinition{}, err
	}
	m := d.Mirrors[0]
	for _, name := range v.columns() {
		if contains(d.Columns, name) && !contains(d.Key, name) {
			return docDefinition{}, v.fault("", "the pattern %s names %s, which is not of the key of %s (%s): Postgres does not say its old value when it changes",
				v.pattern(), name, m.Source, strings.Join(d.Key, ", "))
		}
	}
	return docDefinition{Pattern: v.pattern(), As: v.form(), Mirror: m}, v.check(d.Columns, d.Key)
}

// load reads how far the documents are, and begins to fill them when that is of no use.
func (k *directKeeper) load(ctx context.Context) error {
	st, err := k.store.load(ctx)
	if err != nil {
		return err
	}
	if k.pos.shown, err = decimal(st["position"]); err == nil {
		k.pos.read, err = decimal(st["read"])
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", k.store.state, err)
	}
	k.pos.gap, k.fill, k.ask, k.asked = st["gap"], st["fill"], st["backfill"], st["asked"]
	k.seqs, k.dirty = map[string]uint64{}, map[string]bool{}
	for name, value := range st {
		if key, ok := strings.CutPrefix(name, "seq:"); ok {
			if k.seqs[key], err = decimal(value); err != nil {
				return fmt.Errorf("read %s: %s: %w", k.store.state, name, err)
			}
		}
	}
	var had docDefinition
	_ = json.Unmarshal([]byte(st["definition"]), &had) // what cannot be read is another
	switch {
	case st["definition"] == "":
		return k.begin(ctx, fillNew, "")
	case st["torn"] != "":
		return k.begin(ctx, fillGap, "a large transaction was written in part")
	case !sameJSON(had, k.def):
		return k.begin(ctx, fillNew, "")
	}
	k.tell()
	return nil
}

// begin begins to read the table anew. What is there stays, row by row, until the new has come.
func (k *directKeeper) begin(ctx context.Context, why, gap string) error {
	var err error
	if why == fillGap {
		// What comes from here on, and a backfill that is asked for behind it, is all there is.
		if k.pos.read, err = k.opts.Watermark(ctx); err != nil {
			return err
		}
		k.forgetSeqs()
	}
	if k.ask, err = k.request(ctx, why); err != nil {
		return err
	}
	k.fill, k.pos.gap, k.diffs = why, gap, 0
	definition, err := json.Marshal(k.def)
	if err != nil {
		return err
	}
	state, flags := stateFilling, docBegin+docNothing
	if why == fillRebuild {
		state, flags = stateLive, docBegin
	}
	fields := append(k.stateFields(state), "definition", string(definition), "fill", k.fill, "backfill", k.ask, "gap", gap)
	if _, err = k.store.write(ctx, docCall{fields: fields, flags: flags}); err != nil {
		return err
	}
	k.tell()
	return nil
}

// request asks for the backfill that brings all rows. At the pipeline's beginning the stream itself has, or will have, every row.
func (k *directKeeper) request(ctx context.Context, why string) (string, error) {
	if why == fillNew && k.pos.read == 0 {
		b, err := k.opts.Backfills.Look(ctx, k.def.Mirror.Source)
		if err != nil || b.Known && b.Whole && b.Error == "" {
			return "", err
		}
	}
	k.opts.Log.Info("asking for a backfill, to fill documents", "view", k.view.Name, "table", k.def.Mirror.Source, "why", why)
	return k.opts.Backfills.Request(ctx, k.def.Mirror.Source)
}

// forgetSeqs is for when the streams are read from another place.
func (k *directKeeper) forgetSeqs() {
	for key := range k.seqs {
		k.dirty[key] = true
	}
	clear(k.seqs)
}

// stateFields are those that say how far reading is.
func (k *directKeeper) stateFields(state string) []string {
	fields := []string{"state", state, "read", fmt.Sprint(k.pos.read)}
	for key := range k.dirty {
		value := ""
		if n, known := k.seqs[key]; known {
			value = fmt.Sprint(n)
		}
		fields = append(fields, "seq:"+key, value)
	}
	return fields
}

func (k *directKeeper) open(ctx context.Context) (err error) {
	after := event.Position{}
	if k.pos.read > 0 {
		after = event.Position{Commit: k.pos.read - 1, Ordinal: ^uint64(0)}
	}
	feed, err := k.opts.Open(ctx, []string{k.def.Mirror.Stream}, after)
	if k.feed, err = steadily(feed, k.opts.Log, err); err != nil {
		return err
	}
	return k.beginStream(ctx)
}

// beginStream notes from which event on each partition is read, when its stream is read for the first time.
func (k *directKeeper) beginStream(ctx context.Context) error {
	fresh, err := begun(ctx, k.feed, []string{k.def.Mirror.Stream}, k.seqs)
	if err != nil || len(fresh) == 0 {
		return err
	}
	for key, seq := range fresh {
		k.seqs[key], k.dirty[key] = seq, true
	}
	state := stateFilling
	if k.live() {
		state = stateLive
	}
	if _, err = k.store.write(ctx, docCall{fields: k.stateFields(state)}); err == nil {
		clear(k.dirty)
	}
	return err
}

// breakOff notes that what was read cannot be relied on: the table is read anew, and its documents stay what they are until then.
func (k *directKeeper) breakOff(ctx context.Context, cause error) error {
	k.opts.Log.Error("documents cannot follow any more: all are read anew", "view", k.view.Name, "error", cause)
	k.fold.reset()
	if err := k.begin(ctx, fillGap, cause.Error()); err != nil {
		return err
	}
	return errAgain
}

// tell makes the state known.
func (k *directKeeper) tell() {
	var p *Progress
	if k.live() && k.pos.gap == "" && k.pos.shown > 0 {
		p = &Progress{Clock: k.pos.shown, Seqs: maps.Clone(k.seqs), Live: map[string][]string{k.view.Name: {k.def.Mirror.Stream}}}
	}
	k.documents.note(k.view.Name, func(s *DocumentStatus) {
		s.Progress = p
		s.State, s.Clock = stateLive, k.pos.shown
		if k.fill == fillNew || k.fill == fillGap {
			s.State = stateFilling
		}
		s.Error = k.pos.gap
	})
}
