// Package projector keeps read models in a Postgres view store: events in,
// rows out. It owns the mirrors of source tables, the views that are computed from
// them, their position, and waiting for a view to reach an LSN.
//
// It must not know how events come (a Feed brings them in commit order) nor
// how a backfill is made (Backfills asks for one).
//
// A view is at every moment some committed state of the source: a batch is
// whole source transactions, and the rows of all mirrors and views change in
// one transaction of the store together with the position that it leads to. All
// writes go through the one session that holds the pipeline's advisory lock,
// and each transaction checks the fence, so that a projector that was taken
// over from cannot write.
package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/walrill/walrill/event"
)

// Table is a table of the source whose rows a stream carries.
type Table struct {
	Name    string // such as public.orders
	Stream  string // "" when none carries its rows as they are
	Lacks   string // why not, such as "stream a has rules for it"; "" when no stream takes the table
	Columns []SourceColumn
	Key     []string // columns of the replica identity that name a row; empty when nothing does
	Order   []string // columns that say which partition of the stream has the events of a row
}

// SourceColumn is a column as the source has it.
type SourceColumn struct {
	Name      string
	Type      string   // as format_type prints it, with an empty search path
	Fallbacks []string // for a store that does not know the type: the first of them that it knows. Every store knows the last
	Collation string   // with its schema, quoted; "" for the type's own
	Generated bool     // not in the streams
}

// View is a view as it is configured: a mirror of one table, a query over mirrors, or a table that events are folded into, by
// SQL or by a Go function.
type View struct {
	Name    string
	Mirror  string            // table, such as public.orders; "" for a query
	Include []string          // columns of the mirror; nil for all
	Exclude []string          // and those left out
	Rename  map[string]string // source name to name in the view
	Key     []string
	Query   string
	Affects map[string]string // by the table's name in the query
	Where   string            // place in the configuration, for errors
	ByKey   bool              // it is kept key by key

	Table   []Column    // of a fold, Name and Type
	Fold    []FoldEvent // SQL by type of event
	Streams []string    // that a fold reads; nil for all that carry its events. Apply needs them
	Now     bool        // a fold begins with what comes now; else with the first entries
	// Unmatched takes an UPDATE of a fold that finds no row for one that needs none; else its key is parked.
	Unmatched bool
	// Apply folds events instead of SQL; see Apply. Types are those that it gets, nil for all of the streams, and Version tells
	// one version of the function from another: a new one is a rebuild.
	Apply   Apply
	Types   []string
	Version string
	// Emit is the events that are made when rows of the view change; nil for none.
	Emit *Emit
}

// folds reports whether events are folded into the view.
func (v *View) folds() bool { return v.Fold != nil || v.Apply != nil }

// FoldEvent is the SQL that folds events of a type into a view.
type FoldEvent struct{ Type, SQL, Where string }

// EventType is a type of event that a stream carries.
type EventType struct {
	Type   string // "" when types are the application's: those of an outbox, or of messages
	Stream string
	Table  string
	Fields []EventField // of data; nil when they are not known
	Old    []string     // columns that `old` may have
	Read   bool         // it is made of rows that a backfill reads
	Change bool         // it is made of changes
}

// EventField is a member of an event's data.
type EventField struct {
	Name   string
	Fields []EventField // of an object whose members are known
}

// Options say what a Projector keeps. The functions are called in the goroutine of Run; a Feed is read in another one.
type Options struct {
	Pipeline string
	StoreURL string
	Schema   string // of the views
	Views    []View
	// Tables lists the tables that the streams carry, as the source has them now. It and Backfills are for mirrors and queries.
	Tables func(context.Context) ([]Table, error)
	// Events lists the types of events that the streams carry, for folds. Nil when they are not known: then every fold says
	// which streams it reads.
	Events func(context.Context) ([]EventType, error)
	// Repair names the last time that changes were lost with a slot; "" for never. It may be nil.
	Repair func(context.Context) (string, error)
	// Whole is a *MissingError when the streams do not have their first entries any more. Replay needs it; for folds it may be nil.
	Whole func(ctx context.Context, streams []string) error
	// Epoch is the epoch in force, whether anything was published in it or not, such as consumer.Epoch. When it is nil, what is waited
	// for after `walrill adopt` is answered for the history before until something of the new one has come.
	Epoch func(context.Context) (uint8, error)
	// Nearest is the name that was probably meant, or "". It may be nil.
	Nearest func(got string, names []string) string
	// Open opens a feed of streams behind a position; the zero position is the beginning.
	Open      func(ctx context.Context, streams []string, after event.Position) (Feed, error)
	Watermark func(context.Context) (uint64, error)
	Backfills Backfills
	// Workers, for a Keyed, is how many keep the views together, over all processes. The views are mirrors that emit nothing. It
	// needs the partitions' keys, and a feed of those that choose takes.
	Workers    int
	Partitions func(ctx context.Context, streams []string) ([]string, error)
	OpenSome   func(ctx context.Context, streams []string, after event.Position, choose func(key string) (bool, error)) (Feed, error)
	// Other is what the pipeline's other views are kept under in the store, or were: views come from there that are kept otherwise
	// now, and those of Leaving go there.
	Other   string
	Leaving []string
	// Schemas refuses, by a *SetupError, what the views emit when its data would break consumers. It may be nil.
	Schemas func(context.Context, []event.Schema) error
	Log     *slog.Logger
}

// Projector keeps the views of one pipeline.
type Projector struct {
	opts Options

	mu     sync.Mutex
	status Status
	moved  chan struct{} // closed when the status changes
}

// States of a projector.
const (
	StateConnecting = "connecting"
	StateStandby    = "standby"
	StateRunning    = "running"
	StateRetrying   = "retrying"
	StateFailed     = "failed"
	StateStopped    = "stopped"
)

// Status is what a projector is doing.
type Status struct {
	State        string
	Error        string // why it is not running
	Clock        uint64 // everything below is in the live views
	Gap          string // why the views stand still, if they do
	Events       uint64 // applied since the start
	Transactions uint64 // of the store
	Parked       int
	Views        []ViewStatus
	Progress     *Progress // nil as long as no view follows the streams; not to be changed
}

// ViewStatus is the state of one view: filling or live.
type ViewStatus struct {
	Name, Kind, State, Error string
	Parked                   int
}

// New makes a projector; Run runs it.
func New(o Options) *Projector {
	p := &Projector{opts: o, moved: make(chan struct{})}
	p.status.State = StateConnecting
	return p
}

// Status may be asked for by any goroutine.
func (p *Projector) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// note changes the status and wakes those who wait for a change.
func (p *Projector) note(f func(*Status)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.status)
	close(p.moved)
	p.moved = make(chan struct{})
}

// A SetupError is a mistake in the configuration, or something that somebody has to see to.
type SetupError struct {
	Where   string // in the configuration
	View    string
	Problem string
	Fix     string
	Err     error
}

func (e *SetupError) Error() string {
	s := "view " + e.View + ": " + e.Problem
	if e.View == "" {
		s = "views: " + e.Problem
	}
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

func (e *SetupError) Unwrap() error   { return e.Err }
func (e *SetupError) Permanent() bool { return true }

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// Run keeps the views until ctx ends, through every absence of the store. It returns nil then, or a *SetupError.
func (p *Projector) Run(ctx context.Context) error {
	wait := firstBackoff
	careful, ran := false, false
	var until uint64
	for {
		s := &session{projector: p, opts: &p.opts, careful: careful, until: until, failed: map[string]time.Time{}, waits: map[string]bool{}, stop: func() {}}
		if careful {
			s.calm = maxBatch
		}
		began := time.Now()
		err := s.run(ctx)
		if ctx.Err() != nil {
			p.note(func(st *Status) { st.State, st.Error = StateStopped, "" })
			return nil
		}
		// What was right at the start and is not any more, such as a query whose column was dropped, is for somebody to
		// mend while everything else goes on.
		ran = ran || s.ran
		if _, permanent := errors.AsType[*SetupError](err); permanent && !ran {
			p.note(func(st *Status) { st.State, st.Error = StateFailed, err.Error() })
			return err
		}
		if time.Since(began) > lastBackoff {
			wait = firstBackoff
		}
		if errors.Is(err, errAgain) {
			continue
		}
		if careful = !s.careful && isDataError(err); careful {
			until = s.batch.commit
			continue
		}
		p.note(func(st *Status) { st.State, st.Error = StateRetrying, err.Error() })
		p.opts.Log.Warn("the views are not kept up now; trying again", "error", err, "in", wait)
		if pause(ctx, wait) != nil {
			continue
		}
		wait = min(2*wait, lastBackoff)
	}
}

// errAgain ends a session that is to start over at once, with what it has written.
var errAgain = errors.New("start over")

// pause waits between half of d and d.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clock prints the first half of an ID for people.
func clock(c uint64) string {
	epoch, lsn := event.SplitClock(c)
	if epoch > 0 {
		return fmt.Sprintf("%d@%X/%X", epoch, uint32(lsn>>32), uint32(lsn))
	}
	return fmt.Sprintf("%X/%X", uint32(lsn>>32), uint32(lsn))
}
