package projector

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// tape is a stream of one partition: what is on it, and how far it is complete.
type tape struct {
	stream *event.Stream

	mu        sync.Mutex
	events    []event.Event
	watermark uint64
	held      bool          // the events are handed out, and their watermark not yet
	moved     chan struct{} // closed when anything changes
	taken     int           // events that were handed out by all feeds
}

func newTape() *tape {
	return &tape{stream: event.NewStream("s", 1), watermark: 1, moved: make(chan struct{})}
}

// record puts n events of one transaction on the tape.
func (l *tape) record(n int, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range n {
		l.events = append(l.events, event.Event{Stream: l.stream, Position: event.Position{Commit: l.watermark, Ordinal: uint64(i + 1)}, Seq: uint64(len(l.events) + 1),
			Type: "t", Key: []byte("k"), Op: 'c', Data: []byte("{}")})
	}
	l.watermark++
	l.turn(held)
}

func (l *tape) turn(held bool) {
	l.held = held
	close(l.moved)
	l.moved = make(chan struct{})
}

// release lets the watermark follow.
func (l *tape) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(false)
}

func (l *tape) open(_ context.Context, _ []string, after event.Position) (Feed, error) {
	return &tapeFeed{tape: l, after: after}, nil
}

// tapeFeed reads a tape behind a position.
type tapeFeed struct {
	*tape
	after   event.Position
	next    int
	reached uint64
}

func (f *tapeFeed) Watermark() uint64 { return f.reached }

func (f *tapeFeed) Ranks(context.Context) (map[string]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := slices.IndexFunc(f.events, func(e event.Event) bool { return e.Position.Compare(f.after) > 0 })
	if n < 0 {
		n = len(f.events)
	}
	return map[string]uint64{"s": uint64(n)}, nil
}

func (f *tapeFeed) Step(ctx context.Context) (event.Event, bool, error) {
	for {
		f.mu.Lock()
		moved := f.moved
		for ; f.next < len(f.events); f.next++ {
			if e := f.events[f.next]; e.Position.Compare(f.after) > 0 {
				f.next++
				f.taken++
				f.mu.Unlock()
				return e, true, nil
			}
		}
		if !f.held && f.reached < f.watermark {
			f.reached = f.watermark
			f.mu.Unlock()
			return event.Event{}, false, nil
		}
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return event.Event{}, false, ctx.Err()
		}
	}
}

// counter is a view that counts the events of a tape, and tells when a batch has been read.
func counter(l *tape, pipeline, url string) *Projector {
	view := View{Name: "n_" + identifier(pipeline), Key: []string{"k"}, Table: []Column{{Name: "k", Type: "text"}, {Name: "n", Type: "bigint"}}, Streams: []string{"s"}, Version: "1",
		Apply: func(ctx context.Context, tx Tx, events []event.Event) error {
			_, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %[1]s VALUES ('k', $1) ON CONFLICT (k) DO UPDATE SET n = %[1]s.n + excluded.n", "n_"+identifier(pipeline)), len(events))
			return err
		}}
	return New(Options{Pipeline: pipeline, StoreURL: url, Schema: "public", Views: []View{view}, Open: l.open, Log: slog.New(slog.DiscardHandler),
		Watermark: func(context.Context) (uint64, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.watermark, nil
		}})
}

// start runs a projector until the function that it returns is called.
func start(t *testing.T, p *Projector) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

const patience = 60 * time.Second

// A projector that is stopped in the middle of a transaction goes on with it, and finds nothing missing.
func TestStopInATransaction(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	l := newTape()
	l.record(1, false)
	p := counter(l, "p", url)
	stop := start(t, p)
	harness.Eventually(t, patience, "the view is live", func() bool { return harness.Try(url, "SELECT walrill.wait('n_p', '0/2', '1ms')") == nil })
	const many = 5*portionEvents + 1 // more than are read ahead
	l.mu.Lock()
	before := l.taken
	l.mu.Unlock()
	l.record(many, true)
	harness.Eventually(t, patience, "the events are read", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.taken >= before+many })
	stop()
	l.release()
	p = counter(l, "p", url)
	var log bytes.Buffer
	p.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
	stop = start(t, p)
	harness.Eventually(t, patience, "it has followed", func() bool { return harness.Try(url, "SELECT walrill.wait('n_p', '0/3', '1ms')") == nil })
	stop()
	if strings.Contains(log.String(), "ERROR") {
		t.Errorf("it found that something is missing:\n%s", &log)
	}
	if n := harness.Value(t, url, "SELECT n FROM n_p"); n != fmt.Sprint(many+1) {
		t.Errorf("%s events were counted; want %d", n, many+1)
	}
}

// Two pipelines of one source stand at the same position most of the time, and may have the same store.
func TestTwoPipelinesAtOnePosition(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	l := newTape()
	l.record(1, false)
	p, q := counter(l, "p", url), counter(l, "q", url)
	start(t, p)
	start(t, q)
	for _, view := range []string{"n_p", "n_q"} {
		harness.Eventually(t, patience, view+" is live", func() bool { return harness.Try(url, "SELECT walrill.wait('"+view+"', '0/2', '1ms')") == nil })
	}
	l.record(0, false) // a position that moves without changes
	for _, view := range []string{"n_p", "n_q"} {
		harness.Exec(t, url, "SELECT walrill.wait('"+view+"', '0/3', '20s')")
	}
	l.record(1, false)
	for _, view := range []string{"n_p", "n_q"} {
		harness.Exec(t, url, "SELECT walrill.wait('"+view+"', '0/4', '20s')")
	}
}

// A projector that is frozen while it fills a fold holds rows of that. The one that takes over does not wait for it.
func TestFrozenFiller(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	l := newTape()
	l.record(1, false)
	frozen := counter(l, "p", url)
	reached, wake := make(chan bool), make(chan bool)
	count := frozen.opts.Views[0].Apply
	frozen.opts.Views[0].Apply = func(ctx context.Context, tx Tx, events []event.Event) error {
		err := count(ctx, tx, events)
		select {
		case reached <- true:
		case <-wake:
		}
		<-wake
		return err
	}
	start(t, frozen)
	<-reached
	start(t, counter(l, "p", url))
	t.Cleanup(func() { close(wake) }) // before the projectors are stopped
	harness.Exec(t, url, fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = %d AND granted", lockClass))
	harness.Eventually(t, patience, "the other has filled the view", func() bool { return harness.Try(url, "SELECT walrill.wait('n_p', '0/2', '1ms')") == nil })
}

// Who is frozen in the middle of what it sends to the store is not idle for Postgres.
func TestFrozenWhileItSends(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	conn, err := connect(ctx, url, "p")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // a test
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1, hashtext('p')), pg_advisory_lock_shared(1)", lockClass); err != nil {
		t.Fatal(err)
	}
	conn.PgConn().Frontend().SendParse(&pgproto3.Parse{Query: "SELECT 1"})
	if err := conn.PgConn().Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	l := newTape()
	l.record(1, false)
	other := &session{projector: counter(l, "p", url)}
	other.opts = &other.projector.opts
	if other.conn, err = connect(ctx, url, "p"); err != nil {
		t.Fatal(err)
	}
	defer other.conn.Close(ctx) //nolint:errcheck // a test
	harness.Eventually(t, patience, "its session is ended", func() bool {
		if _, _, err := other.watchHolder(ctx, 1, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		ok, err := other.tryLock(ctx)
		return ok && err == nil
	})
}

// Two pipelines whose names differ in a sign would share a schema.
func TestPipelinesOfOneSchema(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	l := newTape()
	l.record(1, false)
	start(t, counter(l, "shop-eu", url))
	harness.Eventually(t, patience, "the view is live", func() bool { return harness.Try(url, "SELECT walrill.wait('n_shop_eu', '0/2', '1ms')") == nil })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := counter(l, "shop.eu", url).Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "pipeline shop-eu has the schema walrill_shop_eu of the view store already") {
		t.Errorf("got %v", err)
	}
}
