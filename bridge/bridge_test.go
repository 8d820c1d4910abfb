package bridge

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStream plays items; then it is idle until it is woken.
type fakeStream struct {
	items     chan change.Item
	woken     chan struct{}
	confirmed chan change.LSN
	beats     chan struct{} // closed by the second beat
	beatOnce  sync.Once
	beaten    int
	item      change.Item
	err       error // what Next returns when the items are used up
}

func newFakeStream(items ...change.Item) *fakeStream {
	s := &fakeStream{items: make(chan change.Item, len(items)), woken: make(chan struct{}, 1),
		confirmed: make(chan change.LSN, 100), beats: make(chan struct{})}
	for _, item := range items {
		s.items <- item
	}
	return s
}

func (s *fakeStream) Next() (*change.Item, error) {
	select {
	case s.item = <-s.items:
		return &s.item, nil
	default:
	}
	if s.err != nil {
		return nil, s.err
	}
	<-s.woken
	s.item = change.Item{Kind: change.ItemIdle}
	return &s.item, nil
}

func (s *fakeStream) Confirm(lsn change.LSN) { s.confirmed <- lsn }
func (s *fakeStream) Start() change.LSN      { return 100 }
func (s *fakeStream) Close() error           { return nil }
func (s *fakeStream) Abort()                 {}
func (s *fakeStream) Beat() error {
	if s.beaten++; s.beaten == 2 {
		s.beatOnce.Do(func() { close(s.beats) })
	}
	return nil
}
func (s *fakeStream) Wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// fakeMapper makes one event of each change.
type fakeMapper struct {
	stream *event.Stream
	err    error
}

func (m fakeMapper) Begin(change.Tx) {}
func (m fakeMapper) Map(*change.Change) ([]event.Event, error) {
	return []event.Event{{Stream: m.stream}}, m.err
}
func (m fakeMapper) Outboxes() []string                                  { return []string{"public.outbox"} }
func (m fakeMapper) Consumed(c *change.Change) bool                      { return c.Op == change.Insert }
func (m fakeMapper) Commit() []event.Event                               { return nil }
func (m fakeMapper) Schemas([]*change.Relation) ([]*event.Schema, error) { return nil, nil }
func (m fakeMapper) Check(*change.Relation) ([]*event.Stream, error) {
	return []*event.Stream{m.stream}, nil
}

func (m fakeMapper) SetBlocked(event.Blocked) {}
func (m fakeMapper) Retry(*event.Parked, *change.Relation) ([]event.Event, error) {
	return []event.Event{{Stream: m.stream}}, m.err
}
func (m fakeMapper) Resolve(*event.Parked) ([]event.Event, error) {
	return []event.Event{{Stream: m.stream}}, nil
}

// fakePublisher has room for one entry at a time; open lets it take the next batch.
type fakePublisher struct {
	mu       sync.Mutex
	wake     func()
	blocked  bool
	appended int
	rewound  uint64
	drained  bool
	marked   uint64
	durable  uint64
	err      error
}

func (p *fakePublisher) Connect(context.Context) (event.Meta, uint64, error) {
	return event.Meta{}, 0, nil
}
func (p *fakePublisher) Claim(context.Context) error                { return nil }
func (p *fakePublisher) SaveMeta(context.Context, event.Meta) error { return nil }
func (p *fakePublisher) AddStream(context.Context, *event.Stream) (event.Position, error) {
	return event.Position{}, nil
}
func (p *fakePublisher) Catalogue(context.Context) ([]event.Schema, error)       { return nil, nil }
func (p *fakePublisher) ClaimSchema(context.Context, *event.Schema) (int, error) { return 1, nil }
func (p *fakePublisher) Flushed() bool                                           { return p.appended == 0 }
func (p *fakePublisher) Start(context.Context)                                   {}
func (p *fakePublisher) Rewind(commit uint64)                                    { p.rewound = commit }
func (p *fakePublisher) Append(*event.Event)                                     { p.appended++ }
func (p *fakePublisher) Mark(w uint64, _ time.Time)                              { p.marked = w }
func (p *fakePublisher) Full() bool                                              { return p.appended > 0 }
func (p *fakePublisher) Pending() bool                                           { return p.appended > 0 || p.marked > p.Durable() }
func (p *fakePublisher) Drain(context.Context) error                             { p.drained = true; p.Offer(); return p.Err() }
func (p *fakePublisher) Durable() uint64                                         { p.mu.Lock(); defer p.mu.Unlock(); return p.durable }
func (p *fakePublisher) Err() error                                              { p.mu.Lock(); defer p.mu.Unlock(); return p.err }

func (p *fakePublisher) Offer() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blocked {
		return false
	}
	p.appended, p.durable = 0, p.marked
	return true
}

func (p *fakePublisher) unblock() {
	p.mu.Lock()
	p.blocked = false
	p.mu.Unlock()
	p.wake()
}

func (p *fakePublisher) fail(err error) {
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	p.wake()
}

func options(stream Stream, pub *fakePublisher) Options {
	return Options{
		Prepare: func(context.Context, Known) (Source, error) {
			return Source{SystemID: "7", Timeline: 1, SlotCreated: true, Tables: []*change.Relation{{Name: "t"}}}, nil
		},
		Open:         func(context.Context) (Stream, error) { return stream, nil },
		NewMapper:    func(uint8) (Mapper, error) { return fakeMapper{stream: event.NewStream("t", 1)}, nil },
		NewPublisher: func(wake func()) (Publisher, error) { pub.wake = wake; return pub, nil },
		Parked:       func(context.Context) ([]event.Parked, error) { return nil, nil },
		Unpark:       func(context.Context, []event.Position) error { return nil },
		MarkUsed:     func(context.Context) error { return nil },
		Refresh:      func(context.Context) error { return nil },
		StopTimeout:  time.Second,
		Log:          slog.New(slog.DiscardHandler),
	}
}

// run starts the bridge and returns what ends it.
func run(t *testing.T, o Options) (b *Bridge, stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	b = New(o)
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return b, func() error { cancel(); return <-done }
}

func transaction(end change.LSN) []change.Item {
	return []change.Item{
		{Kind: change.ItemBegin, Tx: change.Tx{CommitLSN: end - 1}},
		{Kind: change.ItemChanges, Changes: []change.Change{{Op: change.Insert}}},
		{Kind: change.ItemCommit, Watermark: end},
	}
}

func TestRunConfirmsWhatIsDurable(t *testing.T) {
	stream, pub := newFakeStream(transaction(200)...), &fakePublisher{}
	_, stop := run(t, options(stream, pub))
	for lsn := range stream.confirmed {
		if lsn > 200 {
			t.Fatalf("confirmed %d, the last commit ends at 200", lsn)
		}
		if lsn == 200 {
			break
		}
		stream.Wake()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// While the publisher takes nothing, Postgres is not read, hears from us, and
// is confirmed nothing.
// atCommit makes its events when the transaction ends.
type atCommit struct{ fakeMapper }

func (m atCommit) Map(*change.Change) ([]event.Event, error) { return nil, nil }
func (m atCommit) Commit() []event.Event                     { return []event.Event{{Stream: m.stream}} }

// markedLast notes whether an event came behind the mark of its transaction.
type markedLast struct {
	*fakePublisher
	events, late int
}

func (p *markedLast) Append(e *event.Event) {
	if p.events++; p.marked >= 200 {
		p.late++
	}
	p.fakePublisher.Append(e)
}

// What a transaction makes of all its changes is published before it is marked as complete; confirming it comes after both.
func TestRunPublishesWhatTheCommitMakes(t *testing.T) {
	stream, pub := newFakeStream(transaction(200)...), &markedLast{fakePublisher: &fakePublisher{}}
	o := options(stream, pub.fakePublisher)
	o.NewMapper = func(uint8) (Mapper, error) { return atCommit{fakeMapper{stream: event.NewStream("t", 1)}}, nil }
	o.NewPublisher = func(wake func()) (Publisher, error) { pub.wake = wake; return pub, nil }
	_, stop := run(t, o)
	for lsn := range stream.confirmed {
		if lsn >= 200 {
			break
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if pub.events != 1 || pub.late != 0 {
		t.Errorf("%d events, %d behind the mark: want one, before it", pub.events, pub.late)
	}
}

// twoAtCommit makes two events when the transaction ends, one of them of a stream that nobody has seen yet.
type twoAtCommit struct{ atCommit }

func (m twoAtCommit) Commit() []event.Event {
	return []event.Event{{Stream: m.stream}, {Stream: event.NewStream("late", 1)}}
}

// neverAdds waits for ever when it is told of the stream late.
type neverAdds struct {
	*fakePublisher
	asked chan struct{}
}

func (p neverAdds) AddStream(ctx context.Context, s *event.Stream) (event.Position, error) {
	if s.Name != "late" {
		return event.Position{}, nil
	}
	close(p.asked)
	<-ctx.Done()
	return event.Position{}, ctx.Err()
}

// An end between two events that a commit makes takes back the first.
func TestRunEndsAmidWhatTheCommitMakes(t *testing.T) {
	stream, pub := newFakeStream(transaction(200)...), neverAdds{&fakePublisher{}, make(chan struct{})}
	o := options(stream, pub.fakePublisher)
	o.NewMapper = func(uint8) (Mapper, error) {
		return twoAtCommit{atCommit{fakeMapper{stream: event.NewStream("t", 1)}}}, nil
	}
	o.NewPublisher = func(wake func()) (Publisher, error) { pub.wake = wake; return pub, nil }
	_, stop := run(t, o)
	<-pub.asked
	if err := stop(); err != nil {
		t.Error(err)
	}
	if pub.rewound != 199 {
		t.Errorf("taken back from %d on, want 199", pub.rewound)
	}
}

func TestRunBlockedPublisher(t *testing.T) {
	stream, pub := newFakeStream(transaction(200)...), &fakePublisher{blocked: true}
	_, stop := run(t, options(stream, pub))
	<-stream.beats
	if n := len(stream.items); n == 0 {
		t.Error("everything was read though the publisher is full")
	}
	if n := len(stream.confirmed); n != 0 {
		t.Errorf("%d positions were confirmed", n)
	}
	pub.unblock()
	stream.Wake()
	for lsn := range stream.confirmed {
		if lsn == 200 {
			break
		}
		stream.Wake()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Where Postgres cannot go on, what it sent as committed is published first, and nothing of the transaction that it was in.
func TestRunPublishesWhatIsBeforeAPlaceWherePostgresEnds(t *testing.T) {
	broken := errors.New("no text")
	stream, pub := newFakeStream(append(transaction(200), transaction(300)[:2]...)...), &fakePublisher{}
	stream.err = fatal{broken}
	if err := New(options(stream, pub)).Run(t.Context()); !errors.Is(err, broken) || !isPermanent(err) {
		t.Errorf("ended with %v", err)
	}
	if !pub.drained || pub.rewound != 299 || pub.durable != 200 {
		t.Errorf("drained %t, taken back from %d on, durable up to %d", pub.drained, pub.rewound, pub.durable)
	}

	stream, pub = newFakeStream(transaction(200)...), &fakePublisher{}
	stream.err = fatal{broken}
	if err := New(options(stream, pub)).Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("ended with %v", err)
	}
	if !pub.drained || pub.rewound != 0 || pub.durable != 200 {
		t.Errorf("between two transactions: drained %t, taken back from %d on, durable up to %d", pub.drained, pub.rewound, pub.durable)
	}
}

// A change that cannot be mapped ends the pipeline after what was committed before it
// is published, and without what its own transaction did before.
func TestRunPublishesWhatIsBeforeARefusedChange(t *testing.T) {
	broken := errors.New("no such column")
	stream, pub := newFakeStream(append(transaction(200), transaction(300)...)...), &fakePublisher{}
	o := options(stream, pub)
	o.NewMapper = func(uint8) (Mapper, error) {
		return &failingMapper{fakeMapper{stream: event.NewStream("t", 1)}, 2, broken}, nil
	}
	if err := New(o).Run(t.Context()); !errors.Is(err, broken) || !isPermanent(err) {
		t.Errorf("ended with %v", err)
	}
	if !pub.drained || pub.rewound != 299 || pub.durable != 200 {
		t.Errorf("drained %t, taken back from %d on, durable up to %d", pub.drained, pub.rewound, pub.durable)
	}
}

// A change that does not fit its table as announced is tried once more, with the table announced again.
func TestRunEndsInsideATransaction(t *testing.T) {
	stream, pub := newFakeStream(append(transaction(200), transaction(300)[:2]...)...), &fakePublisher{}
	_, stop := run(t, options(stream, pub))
	eventually(t, "the transaction is read as far as it has come", func() bool { return len(stream.items) == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if pub.rewound != 299 || !pub.drained {
		t.Errorf("taken back from %d on, drained %v; want 299, true", pub.rewound, pub.drained)
	}
}

func TestRunAnnouncesTablesAgain(t *testing.T) {
	first, second := newFakeStream(transaction(200)...), newFakeStream(transaction(200)...)
	streams := []Stream{first, second}
	for _, sessions := range []int{1, 2} { // in which it does not fit
		pub := &fakePublisher{}
		o := options(nil, pub)
		n := 0
		o.Open = func(context.Context) (Stream, error) { n++; return streams[n-1], nil }
		o.NewMapper = func(uint8) (Mapper, error) {
			m := &failingMapper{fakeMapper{stream: event.NewStream("t", 1)}, 1, staleError{}}
			if n > sessions {
				m.n = 0
			}
			return m, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- New(o).Run(ctx) }()
		if sessions == 1 {
			for range second.confirmed {
				break
			}
			cancel()
		}
		if err := <-done; errors.Is(err, staleError{}) != (sessions == 2) {
			t.Errorf("it does not fit in %d sessions: ended with %v", sessions, err)
		}
		cancel()
		first, second = newFakeStream(transaction(200)...), newFakeStream(transaction(200)...)
		streams = []Stream{first, second}
	}
}

type staleError struct{}

func (staleError) Error() string { return "more attributes than known" }
func (staleError) Stale() bool   { return true }

// Ended before anything was streamed, it has stopped as it was told, whatever the statement that was cancelled says.
func TestRunEndedBeforeStreaming(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := options(nil, &fakePublisher{})
	o.Prepare = func(context.Context, Known) (Source, error) {
		cancel()
		return Source{}, errors.New("canceling statement due to user request")
	}
	if err := New(o).Run(ctx); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// failingMapper fails at the nth change.
type failingMapper struct {
	fakeMapper
	n   int
	err error
}

func (m *failingMapper) Map(c *change.Change) ([]event.Event, error) {
	if m.n--; m.n == 0 {
		return nil, m.err
	}
	return m.fakeMapper.Map(c)
}

func TestRunEndsOnPermanentErrors(t *testing.T) {
	broken := errors.New("no such column")
	for what, change := range map[string]func(*Options){
		"prepare": func(o *Options) {
			o.Prepare = func(context.Context, Known) (Source, error) { return Source{}, fatal{broken} }
		},
		"mapper": func(o *Options) {
			o.NewMapper = func(uint8) (Mapper, error) {
				return fakeMapper{stream: event.NewStream("t", 1), err: broken}, nil
			}
		},
	} {
		o := options(newFakeStream(transaction(200)...), &fakePublisher{})
		change(&o)
		b := New(o)
		if err := b.Run(t.Context()); !errors.Is(err, broken) {
			t.Errorf("%s: ended with %v", what, err)
		}
		if s := b.Status(); s.State != StateFailed || s.Error == "" {
			t.Errorf("%s: status is %+v", what, s)
		}
	}
}

type busyError struct{}

func (busyError) Error() string { return "slot in use" }
func (busyError) Standby() bool { return true }

func TestRunStandsByAndTakesOver(t *testing.T) {
	stream, pub := newFakeStream(transaction(200)...), &fakePublisher{}
	o := options(stream, pub)
	tries := 0
	o.Open = func(context.Context) (Stream, error) {
		if tries++; tries == 1 {
			return nil, busyError{}
		}
		return stream, nil
	}
	_, stop := run(t, o)
	<-stream.confirmed
	if err := stop(); err != nil {
		t.Error(err)
	}
}

type lostError struct{ from uint64 }

func (lostError) Error() string        { return "tail lost" }
func (e lostError) ReplayFrom() uint64 { return e.from }

// Entries that Redis has lost are replaced from the slot if it is far enough
// behind, and otherwise the loss ends the process.
func TestRunAfterALostTail(t *testing.T) {
	for _, c := range []struct {
		from uint64
		ends bool
	}{{50, true}, {100, false}, {0, false}} {
		first, second := newFakeStream(), newFakeStream(transaction(200)...)
		pubs := []*fakePublisher{{}, {}}
		streams := []Stream{first, second}
		o := options(nil, nil)
		sessions := -1
		o.Open = func(context.Context) (Stream, error) { return streams[sessions], nil }
		o.NewPublisher = func(wake func()) (Publisher, error) {
			sessions++
			pubs[sessions].wake = wake
			return pubs[sessions], nil
		}
		o.MarkUsed = func(context.Context) error { // as good a moment as any
			if sessions == 0 {
				pubs[0].fail(lostError{c.from})
			}
			return nil
		}
		var told change.LSN
		o.Lost = func(lsn change.LSN) { told = lsn }
		b := New(o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		var err error
		if c.ends {
			err = <-done
		} else {
			<-second.confirmed
			cancel()
			err = <-done
		}
		cancel()
		if (err != nil) != c.ends {
			t.Errorf("the slot is at 100 and has to go back to %d: ended with %v", c.from, err)
		}
		if told != change.LSN(c.from) {
			t.Errorf("backfills were told of a loss behind %v, want %d", told, c.from)
		}
	}
}
