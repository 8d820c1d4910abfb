// Package bridge is the run loop: it joins a source of changes, a mapper and
// a publisher, and knows what state they are in. It names what it needs of them as
// interfaces and imports none of them.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Stream is an open replication stream. Only Wake may be called from another goroutine.
type Stream interface {
	Next() (*change.Item, error)
	Confirm(change.LSN)
	Beat() error
	Wake()
	Start() change.LSN
	Close() error
	Abort()
}

// Mapper turns changes into events. The events are valid until the next call.
type Mapper interface {
	Begin(change.Tx)
	Map(*change.Change) ([]event.Event, error)
	// Consumed reports whether the row of a change is to be deleted when the events that were made of it are durable.
	Consumed(*change.Change) bool
	// Outboxes are the tables whose rows are events already.
	Outboxes() []string
	// Commit ends a transaction. Its events are those that need all of it.
	Commit() []event.Event
	// SetBlocked hands over the keys whose changes are parked. Map parks theirs, and adds to them.
	SetBlocked(event.Blocked)
	// Retry maps a parked change of a table at the present place; Resolve tells :parked what became of a key.
	Retry(*event.Parked, *change.Relation) ([]event.Event, error)
	Resolve(*event.Parked) ([]event.Event, error)
	Check(*change.Relation) ([]*event.Stream, error)
	// Schemas are those of the events that changes of tables make, without versions.
	Schemas([]*change.Relation) ([]*event.Schema, error)
}

// Sweeper deletes rows of outboxes whose events are durable, beside the run loop, whose goroutine alone calls it.
type Sweeper interface {
	// See is shown a row that may go once its transaction is durable.
	See(c *change.Change, tx *change.Tx)
	// Durable says that what committed before a position is durable, and returns up to where that may be confirmed: as long as a
	// row is there, not beyond its commit.
	Durable(change.LSN) change.LSN
	Err() error
	Close()
}

// Publisher puts events into Redis Streams, in order and exactly once. Its
// methods are called by the run loop's goroutine.
type Publisher interface {
	Connect(context.Context) (event.Meta, uint64, error)
	SaveMeta(context.Context, event.Meta) error
	// Claim says that this publisher is the one that writes now; before AddStream.
	Claim(context.Context) error
	// AddStream returns the highest position that is in any of its partitions.
	AddStream(context.Context, *event.Stream) (event.Position, error)
	// ClaimSchema returns the version that the catalogue has for the schema, a new one if need be.
	ClaimSchema(context.Context, *event.Schema) (version int, err error)
	// Catalogue reads the versions that there are.
	Catalogue(context.Context) ([]event.Schema, error)
	Start(context.Context)
	Append(*event.Event)
	// Rewind takes back what was appended of the transaction that commits at this clock, as far
	// as it was not offered. Only Drain may follow.
	Rewind(commit uint64)
	Mark(watermark uint64, t time.Time)
	Full() bool
	Pending() bool
	Offer() bool
	Flushed() bool
	Durable() uint64
	Err() error
	Drain(context.Context) error
}

// Source is what Postgres has to say before streaming starts.
type Source struct {
	SystemID    string
	Timeline    int32
	History     map[int32]change.LSN // where each earlier timeline was left
	SlotCreated bool                 // the slot was missing and was made now
	SlotUsed    bool                 // Postgres remembers MarkUsed
	Tables      []*change.Relation
}

// Known is what the streams say of where they come from; zero when nothing is known.
type Known struct {
	System   string
	Timeline int32
	Complete change.LSN // what committed before is in the streams; 0 when they have not begun
	Repair   string     // of the last repair of a lost slot
}

// Options join the parts.
type Options struct {
	// Prepare brings Postgres up to date. It touches nothing when it is another system than the
	// streams come from, if that is known.
	Prepare func(context.Context, Known) (Source, error)
	Open    func(context.Context) (Stream, error)
	// BeginRepair begins to repair a slot that is lost; nil when that ends the process instead.
	BeginRepair func(context.Context) (Repair, error)
	// MarkUsed notes in Postgres that the slot is streamed from; it is called once a session.
	MarkUsed func(context.Context) error
	// Lost says that entries behind this position may be gone from the streams, though not from all of them. What is
	// not in the WAL has to be read again.
	Lost func(change.LSN)
	// Refresh takes tables in that have come since Prepare; it is called every
	// few seconds while streaming, from a goroutine of its own.
	Refresh   func(context.Context) error
	NewMapper func(epoch uint8) (Mapper, error)
	// Sweep starts a Sweeper, once a session; nil when there is nothing to sweep. It calls wake when more may be confirmed.
	Sweep func(wake func()) Sweeper
	// Key is the key of a data subject, made when there is none; nil without an error when it was destroyed.
	Key          func(ctx context.Context, subject string) ([]byte, error)
	NewPublisher func(wake func()) (Publisher, error)
	// Parked reads the stream :parked, and Unpark removes entries of it.
	Parked   func(context.Context) ([]event.Parked, error)
	Unpark   func(context.Context, []event.Position) error
	Pipeline string // whose requests about parked changes are answered
	Mapping  string // a record of what NewMapper maps by
	// Entries are those of a recorded mapping that take a table, as text that can be compared; empty when none does. It reports
	// false for a mapping whose tables cannot be looked at one by one.
	Entries     func(mapping string, table *change.Relation) (string, bool)
	HTTP        string // the daemon's own address, for :meta
	StopTimeout time.Duration
	Log         *slog.Logger
}

// Bridge runs a pipeline.
type Bridge struct {
	opts   Options
	status tracker
	begun  bool   // this process has streamed: Redis has known the pipeline
	stale  uint64 // the transaction that a session was started anew for, so that its tables are announced again
	replay uint64 // how far back entries go that Redis has lost; 0 when none are known to be

	reload    atomic.Pointer[reload]  // waits for its moment
	streaming atomic.Pointer[session] // the one whose run loop runs
}

// New returns a bridge that Run starts.
func New(opts Options) *Bridge { return &Bridge{opts: opts} }

// Errors say by these methods what is to be done about them.
type (
	permanent interface{ Permanent() bool }  // trying again is of no use
	standby   interface{ Standby() bool }    // another instance is at work
	recovery  interface{ InRecovery() bool } // there is no primary yet, only a standby
	slotLost  interface{ SlotLost() bool }   // changes are missing from the streams, and Postgres cannot send them again
	// needsKey: a mapper goes on with the change once it was given a subject's key.
	needsKey interface {
		NeedsKey() string
		Give(key []byte) error
	}
	stale interface{ Stale() bool } // a change may fit when its table is announced again
	// tailLost: entries are gone that were acknowledged, those behind this clock. It is 0 when
	// the top of :commits went back with them and so tells the same.
	tailLost interface{ ReplayFrom() uint64 }
)

func isPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p) && p.Permanent()
}

func isStandby(err error) bool {
	var s standby
	return errors.As(err, &s) && s.Standby()
}

func isRecovery(err error) bool {
	var r recovery
	return errors.As(err, &r) && r.InRecovery()
}

func isSlotLost(err error) bool {
	var l slotLost
	return errors.As(err, &l) && l.SlotLost()
}

const (
	standbyPoll = 500 * time.Millisecond
	firstRetry  = 100 * time.Millisecond
	lastRetry   = 5 * time.Second
)

// Run works until ctx ends, and then finishes what is in flight and returns
// nil. It starts over after every error that may pass, and returns the others.
func (b *Bridge) Run(ctx context.Context) error {
	delay := firstRetry
	for {
		progressed, err := b.session(ctx)
		if progressed {
			delay = firstRetry
		}
		switch {
		case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
			b.status.enter(StateStopped, nil)
			return nil
		case isSlotLost(err):
			b.status.enter(StateSlotLost, err)
			return err
		case isPermanent(err) || ctx.Err() != nil:
			b.status.enter(StateFailed, err)
			return err
		case isStandby(err):
			b.status.enter(StateStandby, err)
			delay = firstRetry
			if !sleep(ctx, jitter(standbyPoll)) {
				return nil
			}
			continue
		case isRecovery(err):
			if b.status.enter(StateInRecovery, err) {
				b.opts.Log.Info("Postgres is a standby: waiting for a primary", "reason", err)
			}
			delay = firstRetry
			if !sleep(ctx, jitter(standbyPoll)) {
				return nil
			}
			continue
		}
		var lost tailLost
		if errors.As(err, &lost) {
			b.replay = lost.ReplayFrom()
			if _, lsn := event.SplitClock(b.replay); lsn != 0 && b.opts.Lost != nil {
				b.opts.Lost(change.LSN(lsn))
			}
		}
		b.status.enter(StateRetrying, err)
		b.opts.Log.Warn("the pipeline was interrupted and starts over", "error", err, "retry_in", delay)
		if !sleep(ctx, jitter(delay)) {
			return nil
		}
		delay = min(2*delay, lastRetry)
	}
}

// session connects everything, streams until something fails or ctx ends, and
// says whether anything became durable.
func (b *Bridge) session(ctx context.Context) (progressed bool, err error) {
	b.status.connecting()
	s := &session{bridge: b, kick: make(chan struct{}, 1), look: make(chan struct{}, 1), checked: map[string]bool{}}
	defer b.status.detach()
	// Redis first: a slot that nobody can stream from makes Postgres keep WAL for nothing.
	if err := s.connect(ctx); err != nil {
		return false, beforehand(ctx, err)
	}
	defer s.unlock()
	source, err := s.prepare(ctx)
	if err != nil {
		return false, beforehand(ctx, err)
	}
	stream, waited, err := b.acquire(ctx)
	if err != nil {
		return false, beforehand(ctx, err)
	}
	s.stream = stream
	if waited {
		// Who had the slot may have gone on for days: what Prepare found is old.
		if source, err = s.again(ctx); err != nil {
			stream.Abort()
			return false, beforehand(ctx, err)
		}
	}
	s.source = source
	// The publisher outlives ctx, so that it can finish what is in flight.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err = beforehand(ctx, s.start(ctx, background)); err == nil {
		err = s.run(ctx)
	}
	progressed = s.told > stream.Start()
	if err != nil || ctx.Err() == nil {
		stream.Abort()
		return progressed, err
	}
	if err := stream.Close(); err != nil {
		b.opts.Log.Warn("Postgres did not take the last position; what it repeats is not published twice", "error", err)
	}
	return progressed, nil
}

// beforehand is an error from before anything was streamed. When ctx has ended, whatever was broken off, in whatever words, is
// of no account.
func beforehand(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && !isPermanent(err) {
		return ctx.Err()
	}
	return err
}

// again is what Prepare finds after a wait.
func (s *session) again(ctx context.Context) (source Source, err error) {
	if err := s.meanwhile(ctx, func(ctx context.Context) (err error) { s.meta, s.top, err = s.pub.Connect(ctx); return err }); err != nil {
		return source, err
	}
	return s.bridge.opts.Prepare(ctx, s.origin())
}

// acquire opens the stream, as a standby for as long as another instance has the slot.
func (b *Bridge) acquire(ctx context.Context) (stream Stream, waiting bool, err error) {
	for {
		stream, err := b.opts.Open(ctx)
		if err == nil && waiting {
			b.opts.Log.Info("the slot is free: taking over")
		}
		if !isStandby(err) {
			return stream, waiting, err
		}
		if !waiting {
			b.opts.Log.Info("standing by: another instance is streaming", "reason", err)
			waiting = true
		}
		b.status.enter(StateStandby, err)
		if !sleep(ctx, jitter(standbyPoll)) {
			return nil, waiting, ctx.Err()
		}
	}
}

// sleep waits and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter keeps instances from acting in step: between half and the whole of d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// fatal is an error that trying again does not mend.
type fatal struct{ error }

func (fatal) Permanent() bool { return true }

func (f fatal) Unwrap() error { return f.error }

func fatalf(format string, args ...any) error { return fatal{fmt.Errorf(format, args...)} }
