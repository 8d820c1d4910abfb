// Package sink puts events into Redis Streams: each exactly once and in order,
// whatever Redis does meanwhile.
//
// It owns the connections to Redis, the batches, what is retried and when, and
// the control keys :meta, :catalogue and :commits. It must not know where events come from,
// how a row became one, or what Postgres has been told: it reports a watermark
// (Durable) and the caller confirms it.
//
// Two goroutines share a Publisher. The caller's run loop fills one batch
// (Append, Mark, Full, Offer) while the publisher's own goroutine has another
// in flight and does all Redis traffic of publishing. There are two batches and
// never more than one in flight, so memory is bounded and the order is that of
// Append.
//
// # Why each partition is always a prefix of one canonical sequence
//
// An entry's ID is its event's position, and the same WAL with the same mapping
// gives the same events at the same positions. Redis refuses an ID that is not
// above the stream's top. So sending an entry again, by this process, the next
// one or a forgotten one that wakes up, adds nothing.
//
// The seq of an entry is its rank in that sequence. AddStream reads the top
// entry's ID and seq; Append skips what is at or below that ID, without
// counting it since the top's seq counts it already, and numbers the rest from there. Each
// publisher's number of an event is therefore the event's rank, whoever writes
// it. When another instance overtakes us, what we have encoded with its numbers stays right: our
// copies are refused where its are, and the first one that is not refused has
// the rank that follows. That is why the counters of the run loop are never
// corrected from what is read later. What is read later is only compared, and a
// difference ends the publisher (ErrDiverged) instead of being published.
//
// Rows that a backfill has read are the exception: another instance cannot count them. They are published only by who
// holds the claim to the streams; see fence.go.
//
// A batch is one MULTI/EXEC (one a slot in a Cluster), so it is applied whole
// or not at all, and it is sent again whole until every entry is there. Nothing
// behind it is sent before. So a partition has no holes.
package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walrill/walrill/event"
)

// Options say where Redis is and how to publish.
type Options struct {
	// URL is redis://, rediss://, unix://, redis+sentinel://h1:p1,h2:p2/master/db or
	// redis+cluster://h1:p1,h2:p2 (rediss+… with TLS), with the query parameters of go-redis's
	// ParseURL; parseURL lists the others.
	//
	// Its user needs +xadd +xinfo|stream +xrevrange +multi +exec +watch +hset +hgetall on the streams and on
	// walrill:{<pipeline>}:*; for a name in CLIENT LIST +client|setname, in a
	// Cluster +cluster|slots, with Durability +wait (or +waitaof and +info)
	// +xgroup|create +xgroup|destroy, for a Trimmer +xtrim +xrange and with KeepUnread +xinfo|groups +xpending.
	URL        string
	Pipeline   string
	Format     event.Format // default fields
	Database   string       // Postgres's, for events that name it
	Durability Durability
	Retention  Retention // for a Trimmer, and for Check

	// A batch is full at either limit. Defaults 1000 and 1 MiB.
	BatchEntries, BatchBytes int

	Log *slog.Logger // default slog.Default
	// Wake is called by the publisher's goroutine whenever a batch was
	// finished, Durable moved, or the sink failed for good. It must not block.
	Wake func()
}

// Publisher publishes to one Redis. Its methods are the run loop's, one
// goroutine's at a time, unless they say otherwise.
type Publisher struct {
	o      Options
	target *target

	firstDelay time.Duration // of a retry
	idleAfter  time.Duration // after so long without an exchange a server may have closed the connection
	pingAfter  time.Duration // after so long with nothing to send Redis is asked whether it is there

	// The run loop's.
	streams  map[*event.Stream][]*partition
	byKey    map[string]*partition
	lastOf   *event.Stream // the stream that was looked up last, and its partitions
	last     []*partition
	cur      *batch
	other    *batch // the publisher's while busy
	marked   uint64 // highest watermark of Mark
	appended uint64 // entries since New, for :commits
	epoch    uint8  // of :meta

	name atomic.Pointer[string] // our claim; nil before Claim
	// catalogue is :catalogue as last read.
	catalogue []event.Schema
	parsed    map[string]event.Schema // what texts in the catalogue say

	// Between the two.
	work     chan *batch   // capacity 1; a batch is handed over only when nothing is in flight
	poke     chan struct{} // capacity 1; a mark was handed over, or Drain was called
	progress chan struct{} // capacity 1; something was finished, for Drain
	busy     atomic.Bool   // a batch is handed over and not finished
	draining atomic.Bool   // write marks at once
	durable  atomic.Uint64
	skipped  atomic.Uint64
	failure  atomic.Pointer[error]
	marks    markSlot

	mu         sync.Mutex
	parts      []*partition   // all known; guarded by mu
	generation uint64         // of parts; guarded by mu
	schemas    []event.Schema // that entries are published with; guarded by mu

	// The publisher goroutine's.
	session session

	publishing health // what the publisher goroutine meets
	control    health // what Connect, SaveMeta and AddStream meet
	counters   counters

	life    sync.Mutex
	started bool               // guarded by life
	cancel  context.CancelFunc // guarded by life
	closed  bool               // guarded by life
	done    chan struct{}      // closed when the goroutine has ended or will never start
}

// New makes a publisher from its options. It talks to no server. Errors never
// contain a password.
func New(o Options) (*Publisher, error) {
	t, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Pipeline == "" {
		return nil, errors.New("sink: the pipeline has no name")
	}
	if o.Durability.Replicas < 0 || o.Durability.Timeout < 0 {
		return nil, errors.New("sink: durability: replicas and timeout cannot be negative")
	}
	o.Durability.Timeout = cmp.Or(o.Durability.Timeout, defaultTimeout)
	o.BatchEntries = cmp.Or(max(o.BatchEntries, 0), 1000)
	o.BatchBytes = cmp.Or(max(o.BatchBytes, 0), 1<<20)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Wake == nil {
		o.Wake = func() {}
	}
	writer := event.NewWriter(o.Format, o.Pipeline, o.Database)
	p := &Publisher{
		parsed: map[string]event.Schema{},
		o:      o,
		target: t,

		firstDelay: firstDelay,
		idleAfter:  time.Minute,
		pingAfter:  5 * time.Second,

		streams:  map[*event.Stream][]*partition{},
		byKey:    map[string]*partition{},
		cur:      newBatch(writer, o.BatchEntries, o.BatchBytes),
		other:    newBatch(writer, o.BatchEntries, o.BatchBytes),
		work:     make(chan *batch, 1),
		poke:     make(chan struct{}, 1),
		progress: make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	p.session.commits = newPartition(event.CommitsKey(o.Pipeline))
	p.publishing.init(o.Log)
	p.control.init(o.Log)
	p.counters.init()
	return p, nil
}

// Start starts the publisher's goroutine. It ends with ctx, with Drain, or when
// the sink fails for good. Starting twice, or after Drain, does nothing.
func (p *Publisher) Start(ctx context.Context) {
	p.life.Lock()
	defer p.life.Unlock()
	if p.started || p.closed {
		return
	}
	p.started = true
	ctx, p.cancel = context.WithCancel(ctx)
	go p.run(ctx)
}

// Drain publishes what is in flight and what was appended and marked, and ends
// the publisher. When ctx ends first, it gives up what is left and says so;
// nothing is lost by that, since Durable never claimed it. It tolerates a
// publisher that was never started, that has failed, or that is drained already.
func (p *Publisher) Drain(ctx context.Context) error {
	if !p.begun() {
		return p.Err()
	}
	defer p.end()
	p.draining.Store(true)
	signal(p.poke)
	for p.Err() == nil && !p.Idle() {
		p.Offer()
		select {
		case <-p.progress:
		case <-p.done:
			if p.Err() == nil && !p.Idle() {
				return errors.New("drain sink: it was stopped before everything was acknowledged")
			}
		case <-ctx.Done():
			return fmt.Errorf("drain sink: not everything was acknowledged: %w", context.Cause(ctx))
		}
	}
	return p.Err()
}

// begun reports whether the goroutine was ever started; if not, it never will be.
func (p *Publisher) begun() bool {
	p.life.Lock()
	defer p.life.Unlock()
	if !p.started && !p.closed {
		close(p.done)
	}
	p.closed = true
	return p.started
}

// end stops the goroutine and waits for it: its connections are closed at once.
func (p *Publisher) end() {
	p.cancel()
	<-p.done
}

// Durable is the highest watermark such that everything below it is
// acknowledged to the durability asked for and the watermark is written to
// :commits. It is 0 until the first one of this process. Any goroutine may call it.
func (p *Publisher) Durable() uint64 { return p.durable.Load() }

// Err is why the sink cannot go on: ErrTailLost, ErrDiverged or ErrFenced; nil as long as
// it can. Any goroutine may call it.
func (p *Publisher) Err() error {
	if e := p.failure.Load(); e != nil {
		return *e
	}
	return nil
}

// fail ends the sink for good. The first error stays.
func (p *Publisher) fail(err error) {
	p.failure.CompareAndSwap(nil, &err)
	signal(p.progress)
	p.o.Wake()
}

// run is the publisher's goroutine.
func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	defer p.session.close()
	err := p.deliver(ctx, nil, mark{}) // connects
	for err == nil {
		b, m, ok := p.next(ctx)
		if !ok {
			return
		}
		if err = p.deliver(ctx, b, m); err == nil && (b != nil || !m.isZero()) {
			p.finish(b, m)
		}
	}
	if ctx.Err() == nil {
		p.fail(err)
	}
}

// next waits for something to send: a batch, with the mark that is due by then,
// or the mark alone. When nothing comes for a while it returns neither, so that Redis is asked whether it is there.
func (p *Publisher) next(ctx context.Context) (*batch, mark, bool) {
	for {
		wait, pending := p.marks.wait(time.Now(), p.draining.Load())
		if !pending {
			wait = p.pingAfter
		}
		select {
		case <-ctx.Done():
			return nil, mark{}, false
		case b := <-p.work:
			return b, p.marks.ride(time.Now()), true
		case <-time.After(wait):
			if !pending {
				return nil, mark{}, true
			}
			return nil, p.marks.get(), true
		case <-p.poke:
		}
	}
}

// deliver sends a batch, a mark or both until Redis has them. Either may be
// absent; with neither it sees to it that there is a connection. It returns an error only when ctx
// ended or the sink cannot go on.
func (p *Publisher) deliver(ctx context.Context, b *batch, m mark) error {
	started := time.Now()
	for attempt := 0; ; attempt++ {
		err := p.attempt(ctx, b, m)
		if err == nil {
			p.publishing.recovered()
			if b != nil {
				p.counters.acknowledged(b, time.Since(started))
			}
			return nil
		}
		// Whatever went wrong, the way back is one: connect again, compare the
		// tops, send the whole batch again.
		idle := time.Since(p.session.used) > p.idleAfter
		p.session.close()
		if fatal(err) || ctx.Err() != nil {
			return err
		}
		if attempt == 0 && idle && !p.session.used.IsZero() && kindOf(err) == kindConnection {
			continue // it was closed for idleness: no trouble, and no reason to wait
		}
		p.publishing.failed(err)
		if !p.backoff(ctx, attempt) {
			return ctx.Err()
		}
	}
}

// finish hands the batch's buffer back and says what is durable now.
func (p *Publisher) finish(b *batch, m mark) {
	if !m.isZero() {
		p.durable.Store(max(p.durable.Load(), m.watermark)) // before Idle can say so
		p.marks.written(m, time.Now())
	}
	if b != nil {
		if !b.mark.isZero() {
			p.marks.put(b.mark, b.full(), time.Now())
		}
		b.reset()
		p.busy.Store(false)
	}
	signal(p.progress)
	p.o.Wake()
}

// signal leaves a note in a channel of capacity 1.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
