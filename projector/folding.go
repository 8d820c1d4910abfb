package projector

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/event"
)

// Tx is the transaction of the store that a batch of events is applied in.
type Tx interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// Apply folds events, in their order, into a view's table, which goes by its plain name. What it does with tx, and with tx only,
// is committed together with the position behind the events, once and whole source transactions at a time, by a session
// that nobody has taken over from. While the view is filled the same name is another table. The events are its to keep.
//
// An error takes the whole transaction back and has the events come again, later. When the events are at fault, which is for Refuse and
// for Postgres's errors about values, it is called again with fewer of them, until one is found that fails alone: the
// key of that one is parked, with all that follow it.
type Apply func(ctx context.Context, tx Tx, events []event.Event) error

// folding is a fold at work: the one that is kept, or one that is filled beside it.
type folding struct {
	pipeline, view string
	name           string // in the tables of what is parked
	def            *definition
	path           string // under which its SQL finds its table
	restore        string // the path of the session
	apply          Apply
	log            *slog.Logger
	statements     map[string]*foldStatement // by type of event

	emits bool   // its table has a trigger that wants to know the place of each event
	floor uint64 // no place is below

	aside  map[string]bool // keys that are parked
	apart  *apart          // of one that is folded again: what it leaves out; nil of a view that is kept
	events []event.Event   // gathered
	bytes  int
}

// newFolding prepares a fold in a session of the store whose path is restore, outside of a transaction.
func newFolding(ctx context.Context, conn *pgx.Conn, o *Options, view string, def *definition, schema, restore string) (*folding, error) {
	f := &folding{pipeline: o.Pipeline, view: view, name: view, def: def, path: foldPath(schema), restore: restore, log: o.Log, statements: map[string]*foldStatement{}}
	if i := slices.IndexFunc(o.Views, func(v View) bool { return v.Name == view }); i >= 0 && def.Kind == "code" {
		f.apply = o.Views[i].Apply
	}
	if err := setPath(ctx, conn, f.path); err != nil {
		return nil, err
	}
	for i, e := range def.Fold.Events {
		sql, params, err := parseFold(e.SQL, nil)
		if err != nil {
			return nil, err
		}
		st := &foldStatement{name: fmt.Sprintf("fold %s %d", view, i), params: params}
		if _, err := st.prepare(ctx, conn, sql); err != nil {
			return nil, fmt.Errorf("prepare view %s: %s: %w", view, e.Type, err)
		}
		f.statements[e.Type] = st
	}
	return f, setPath(ctx, conn, f.restore)
}

func setPath(ctx context.Context, conn *pgx.Conn, path string) error {
	_, err := conn.Exec(ctx, "SET search_path = "+path)
	if err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	return nil
}

// wants reports whether an event is for the view.
func (f *folding) wants(e *event.Event) bool {
	if f.def.Kind == "code" {
		return slices.Contains(f.def.Fold.Streams, e.Stream.Name) && (f.def.Fold.Types == nil || slices.Contains(f.def.Fold.Types, e.Type))
	}
	for i := range f.def.Fold.Events {
		if x := &f.def.Fold.Events[i]; x.Type == e.Type && slices.Contains(x.Streams, e.Stream.Name) {
			return true
		}
	}
	return false
}

// take gathers an event, if it is for the view.
func (f *folding) take(e *event.Event) {
	if f.wants(e) && !f.apart.leavesOut(e) {
		f.events = append(f.events, *e)
		f.bytes += len(e.Key) + len(e.Data) + len(e.Old) + 200
	}
}

func (f *folding) full() bool { return f.bytes > maxFold }

// flush applies what is gathered, in the session's transaction: events of keys that are parked go behind those. Carefully, events that
// are refused are found and parked; else the first refusal is the error.
func (f *folding) flush(ctx context.Context, conn *pgx.Conn, carefully bool) error {
	events := f.events
	f.events, f.bytes = nil, 0
	if carefully {
		return f.runCarefully(ctx, conn, events)
	}
	events, err := f.keepAside(ctx, conn, events)
	if err != nil || len(events) == 0 {
		return err
	}
	return f.run(ctx, conn, events)
}

// run applies events in one round trip.
func (f *folding) run(ctx context.Context, conn *pgx.Conn, events []event.Event) error {
	if f.def.Kind == "code" {
		return f.runCode(ctx, conn, events)
	}
	b := &pgx.Batch{}
	b.Queue("SET LOCAL search_path = " + f.path)
	place := ""
	for i := range events {
		st := f.statements[events[i].Type]
		args, err := st.args(&events[i])
		if err != nil {
			return err
		}
		if at := f.place(&events[i]); f.emits && at != place {
			b.Queue(setPlace, at)
			place = at
		}
		b.Queue(st.name, args...).Exec(f.check)
	}
	if f.emits {
		b.Queue(setPlace, "")
	}
	b.Queue("SET LOCAL search_path = " + f.restore)
	return conn.SendBatch(ctx, b).Close()
}

// check refuses an event whose UPDATE finds no row: what it changes is not there, so something is missing.
func (f *folding) check(tag pgconn.CommandTag) error {
	if f.def.Fold.Unmatched || !tag.Update() || tag.RowsAffected() > 0 {
		return nil
	}
	return refuse("its UPDATE finds no row: the streams have no event that makes it; `unmatched: ignore` in the view leaves such events out")
}

func (f *folding) runCode(ctx context.Context, conn *pgx.Conn, events []event.Event) error {
	if _, err := conn.Exec(ctx, "SET LOCAL search_path = "+f.path); err != nil {
		return err
	}
	if err := f.call(ctx, conn, events); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, "SET LOCAL search_path = "+f.restore)
	return err
}

// call hands events to the function; to one whose view emits, a source transaction at a time.
func (f *folding) call(ctx context.Context, conn *pgx.Conn, events []event.Event) error {
	if !f.emits {
		return f.apply(ctx, conn, events)
	}
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Position.Commit == events[0].Position.Commit {
			n++
		}
		if _, err := conn.Exec(ctx, setPlace, f.place(&events[0])); err != nil {
			return err
		}
		if err := f.apply(ctx, conn, events[:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	_, err := conn.Exec(ctx, setPlace, "")
	return err
}

func (f *folding) place(e *event.Event) string {
	return placeOf(e.Position.Commit, f.floor, e.Time, e.Tx)
}

// runCarefully applies events in halves, until those are found that are refused alone. They are parked.
func (f *folding) runCarefully(ctx context.Context, conn *pgx.Conn, events []event.Event) error {
	events, err := f.keepAside(ctx, conn, events)
	if err != nil || len(events) == 0 {
		return err
	}
	refused, err := carefully(ctx, conn, func() error { return f.run(ctx, conn, events) })
	if err != nil || refused == nil {
		return err
	}
	if len(events) == 1 {
		return f.park(ctx, conn, &events[0], refused)
	}
	half := len(events) / 2
	if err := f.runCarefully(ctx, conn, events[:half]); err != nil {
		return err
	}
	return f.runCarefully(ctx, conn, events[half:])
}
