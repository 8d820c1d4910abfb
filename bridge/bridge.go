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
	Check(*change.Relation) ([]*event.Stream, error)
}

// Publisher puts events into Redis Streams, in order and exactly once. Its
// methods are called by the run loop's goroutine.
type Publisher interface {
	Connect(context.Context) (event.Meta, uint64, error)
	SaveMeta(context.Context, event.Meta) error
	AddStream(context.Context, *event.Stream) error
	Start(context.Context)
	Append(*event.Event)
	Mark(watermark uint64, t time.Time)
	Full() bool
	Pending() bool
	Offer() bool
	Durable() uint64
	Err() error
	Drain(context.Context) error
}

// Source is what Postgres has to say before streaming starts.
type Source struct {
	SystemID    string
	Timeline    int32
	SlotCreated bool // the slot was missing and was made now
	Tables      []*change.Relation
}

// Options join the parts.
type Options struct {
	// Prepare brings Postgres up to date. Before it makes a slot that is missing, it
	// calls Register.
	Prepare      func(context.Context) (Source, error)
	Open         func(context.Context) (Stream, error)
	NewMapper    func(epoch uint8) (Mapper, error)
	NewPublisher func(wake func()) (Publisher, error)
	HTTP         string // the daemon's own address, for :meta
	StopTimeout  time.Duration
	Log          *slog.Logger
}

// Bridge runs a pipeline.
type Bridge struct {
	opts   Options
	status tracker
	replay uint64 // the source has to go back to this clock; 0 when it need not
}

// New returns a bridge that Run starts.
func New(opts Options) *Bridge { return &Bridge{opts: opts} }

// Errors say by these methods what is to be done about them.
type (
	permanent interface{ Permanent() bool } // trying again is of no use
	standby   interface{ Standby() bool }   // another instance is at work
	// tailLost: entries are gone that were acknowledged. With a clock other than 0 the source must go
	// back that far to replace them; with 0 the top of :commits tells how far.
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
		streamed, err := b.session(ctx)
		if streamed {
			delay = firstRetry
		}
		switch {
		case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
			b.status.enter(StateStopped, nil)
			return nil
		case isPermanent(err) || ctx.Err() != nil:
			b.status.enter(StateFailed, err)
			return err
		}
		var lost tailLost
		if errors.As(err, &lost) {
			b.replay = lost.ReplayFrom()
		}
		b.status.enter(StateRetrying, err)
		b.opts.Log.Warn("the pipeline was interrupted and starts over", "error", err, "retry_in", delay)
		if !sleep(ctx, jitter(delay)) {
			return nil
		}
		delay = min(2*delay, lastRetry)
	}
}

// Register comes before a slot that is missing is made. It records a new pipeline
// in Redis, so that from then on a slot without a record tells that Redis has
// lost it, and refuses a slot that a known pipeline could not go on with (see
// checkLineage). It waits for Redis until ctx ends.
func (b *Bridge) Register(ctx context.Context, source Source) error {
	pub, err := b.opts.NewPublisher(func() {})
	if err != nil {
		return err
	}
	b.status.attach(pub)
	defer b.status.detach()
	meta, watermark, err := pub.Connect(ctx)
	if err != nil {
		return err
	}
	source.SlotCreated = true
	if meta, err = checkLineage(meta, watermark, source, 0); err != nil {
		return err
	}
	return pub.SaveMeta(ctx, meta)
}

// session connects everything, streams until something fails or ctx ends, and
// says whether it came to streaming.
func (b *Bridge) session(ctx context.Context) (streamed bool, err error) {
	b.status.enter(StateConnecting, nil)
	source, err := b.opts.Prepare(ctx)
	if err != nil {
		return false, err
	}
	stream, err := b.acquire(ctx)
	if err != nil {
		return false, err
	}
	s := &session{bridge: b, source: source, stream: stream, kick: make(chan struct{}, 1)}
	// The publisher outlives ctx, so that it can finish what is in flight.
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if err = s.start(ctx, background); err == nil {
		streamed = true
		err = s.run(ctx)
	}
	b.status.detach()
	if err != nil || ctx.Err() == nil {
		stream.Abort()
		return streamed, err
	}
	if err := stream.Close(); err != nil {
		b.opts.Log.Warn("Postgres did not take the last position; what it repeats is not published twice", "error", err)
	}
	return streamed, nil
}

// acquire opens the stream, as a standby for as long as another instance has the slot.
func (b *Bridge) acquire(ctx context.Context) (Stream, error) {
	waiting := false
	for {
		stream, err := b.opts.Open(ctx)
		if err == nil && waiting {
			b.opts.Log.Info("the slot is free: taking over")
		}
		if !isStandby(err) {
			return stream, err
		}
		if !waiting {
			b.opts.Log.Info("standing by: another instance is streaming", "reason", err)
			waiting = true
		}
		b.status.enter(StateStandby, err)
		if !sleep(ctx, jitter(standbyPoll)) {
			return nil, ctx.Err()
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
