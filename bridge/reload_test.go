package bridge

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// noted is a mapper that notes what it is asked to map, under its name.
type noted struct {
	fakeMapper
	name string
	list *notes
}

type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) add(s string) { n.mu.Lock(); n.list = append(n.list, s); n.mu.Unlock() }
func (n *notes) all() string  { n.mu.Lock(); defer n.mu.Unlock(); return strings.Join(n.list, " ") }

func (m noted) Begin(tx change.Tx) { m.list.add(m.name + tx.CommitLSN.String()) }

func (n *notes) mapper(name string, stream *event.Stream) func(uint8) (Mapper, error) {
	return func(uint8) (Mapper, error) { return noted{fakeMapper{stream: stream}, name, n}, nil }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		<-time.After(time.Millisecond)
	}
}

// reloading calls Reload, which may wait.
func reloading(b *Bridge, r Reload) <-chan error {
	done := make(chan error, 1)
	go func() { done <- b.Reload(context.Background(), r) }()
	return done
}

func TestReloadWaitsForTheEndOfATransactionAndForItsAcknowledgement(t *testing.T) {
	n, stream, pub := &notes{}, newFakeStream(), &fakePublisher{}
	stream.items = make(chan change.Item, 10)
	o := options(stream, pub)
	o.NewMapper = n.mapper("a", event.NewStream("t", 1))
	b, stop := run(t, o)
	eventually(t, "streams", func() bool { return b.Status().State == StateStreaming })
	first, second := transaction(200), transaction(300)
	send := func(items ...change.Item) {
		for _, item := range items {
			stream.items <- item
		}
		stream.Wake()
	}
	pub.mu.Lock()
	pub.blocked = true // Redis takes nothing
	pub.mu.Unlock()
	send(first[0])
	eventually(t, "begins", func() bool { return n.all() == "a0/C7" })
	inForce := make(chan uint64, 1)
	done := reloading(b, Reload{NewMapper: n.mapper("b", event.NewStream("t", 1)), Tables: []*change.Relation{{Name: "t"}},
		InForce: func() { inForce <- pub.Durable() }})
	eventually(t, "the reload waits", func() bool { return b.reload.Load() != nil })
	send(first[2])
	send(second...)
	eventually(t, "it waits for Redis", func() bool { return b.reload.Load() == nil })
	select {
	case <-inForce:
		t.Error("in force before everything was acknowledged")
	case <-stream.beats: // Postgres hears from us
	}
	pub.unblock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if durable := <-inForce; durable != 200 {
		t.Errorf("in force when %d was durable, want 200", durable)
	}
	eventually(t, "the next is mapped", func() bool { return n.all() == "a0/C7 b0/12B" })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// toppedPublisher has an entry of an earlier session at its top.
type toppedPublisher struct {
	*fakePublisher
	top uint64
}

func (p toppedPublisher) Connect(context.Context) (event.Meta, uint64, error) {
	return event.Meta{System: "7", Timeline: 1, Baseline: 50, Mapping: "new", Streams: map[string]int{"t": 1}}, 150, nil
}

func (p toppedPublisher) AddStream(context.Context, *event.Stream) (event.Position, error) {
	return event.Position{Commit: p.top, Ordinal: 1}, nil
}

// What an earlier session has published without its watermark was mapped by the mapping before, and is mapped by it again.
func TestReloadComesBehindWhatWasPublishedBefore(t *testing.T) {
	n, stream, pub := &notes{}, newFakeStream(), &fakePublisher{}
	stream.items = make(chan change.Item, 10)
	o := options(stream, pub)
	o.NewMapper, o.Mapping = n.mapper("a", event.NewStream("t", 1)), "new"
	o.NewPublisher = func(wake func()) (Publisher, error) { pub.wake = wake; return toppedPublisher{pub, 250}, nil }
	o.Prepare = func(context.Context, Known) (Source, error) {
		return Source{SystemID: "7", Timeline: 1, SlotUsed: true, Tables: []*change.Relation{{Name: "t"}}}, nil
	}
	b := New(o)
	done := reloading(b, Reload{NewMapper: n.mapper("b", event.NewStream("t", 1)), InForce: func() { n.add("swap") }}) // before it streams
	eventually(t, "the reload waits", func() bool { return b.reload.Load() != nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	for _, tx := range [][]change.Item{transaction(200), transaction(251), transaction(300)} {
		for _, item := range tx {
			stream.items <- item
		}
		stream.Wake()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are mapped", func() bool { return n.all() == "a0/C7 a0/FA swap b0/12B" })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A mapping that is refused leaves everything as it was.
func TestReloadRefused(t *testing.T) {
	n, stream, pub := &notes{}, newFakeStream(), &fakePublisher{}
	stream.items = make(chan change.Item, 10)
	o := options(stream, pub)
	o.NewMapper = n.mapper("a", event.NewStream("t", 1))
	b, stop := run(t, o)
	tables := []*change.Relation{{Name: "t"}}
	inForce := func() { t.Error("in force") }
	err := <-reloading(b, Reload{NewMapper: n.mapper("b", event.NewStream("t", 2)), Tables: tables, InForce: inForce})
	if err == nil || !strings.Contains(err.Error(), "stream t has 1 partitions in Redis, the configuration says 2") {
		t.Errorf("error %v", err)
	}
	broken := errors.New("no such column")
	err = <-reloading(b, Reload{NewMapper: func(uint8) (Mapper, error) { return nil, broken }, Tables: tables, InForce: inForce})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	for _, item := range transaction(200) {
		stream.items <- item
	}
	stream.Wake()
	eventually(t, "the mapping is the one before", func() bool { return n.all() == "a0/C7" })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Who asks may stop to wait.
func TestReloadGivenUp(t *testing.T) {
	b := New(options(newFakeStream(), &fakePublisher{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Reload(ctx, Reload{}); !errors.Is(err, context.Canceled) || b.reload.Load() != nil {
		t.Errorf("error %v", err)
	}
}

// Stopping gives up a reload that waits for Redis to take what comes before it, whoever sees first that it is over.
func TestReloadGivenUpWhileItWaitsForRedis(t *testing.T) {
	for range 300 {
		giveUpWhileItWaitsForRedis(t)
	}
}

func giveUpWhileItWaitsForRedis(t *testing.T) {
	t.Helper()
	n, stream, pub := &notes{}, newFakeStream(), &fakePublisher{}
	stream.items = make(chan change.Item, 10)
	o := options(stream, pub)
	o.NewMapper = n.mapper("a", event.NewStream("t", 1))
	b := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	eventually(t, "streams", func() bool { return b.Status().State == StateStreaming })
	pub.mu.Lock()
	pub.blocked = true
	pub.mu.Unlock()
	tx := transaction(200)
	stream.items <- tx[0]
	stream.Wake()
	eventually(t, "begins", func() bool { return n.all() == "a0/C7" })
	done := make(chan error, 1)
	go func() { done <- b.Reload(ctx, Reload{InForce: func() { t.Error("in force") }}) }()
	eventually(t, "the reload waits for the transaction's end", func() bool { return b.reload.Load() != nil })
	stream.items <- tx[2]
	stream.Wake()
	eventually(t, "it waits for Redis", func() bool { return b.reload.Load() == nil })
	cancel()
	for what, c := range map[string]<-chan error{"Reload": done, "Run": ended} {
		select {
		case err := <-c:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s waits on", what)
		}
	}
}

// An instance that takes over from one that had reloaded goes on by the same file at once.
func TestReloadOfTheInstanceBefore(t *testing.T) {
	n, stream, pub := &notes{}, newFakeStream(transaction(200)...), &fakePublisher{}
	o := options(stream, pub)
	o.NewMapper, o.Mapping = n.mapper("a", event.NewStream("t", 1)), "old"
	o.NewPublisher = func(wake func()) (Publisher, error) { pub.wake = wake; return toppedPublisher{pub, 180}, nil }
	o.Prepare = func(context.Context, Known) (Source, error) {
		return Source{SystemID: "7", Timeline: 1, SlotUsed: true, Tables: []*change.Relation{{Name: "t"}}}, nil
	}
	b := New(o)
	done := reloading(b, Reload{NewMapper: n.mapper("b", event.NewStream("t", 1)), Mapping: "new", InForce: func() { n.add("swap") }})
	eventually(t, "the reload waits", func() bool { return b.reload.Load() != nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is there in part is mapped by it", func() bool { return n.all() == "swap b0/C7" })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
