package sink

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/goleak"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// testing.TB and *rapid.T have this much in common.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// noLeaks fails the test when goroutines outlive it. It comes first in tests
// that do not run in parallel with others.
func noLeaks(t testing.TB) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// script is what a source has to say: events in commit order, and where each
// transaction ends. The same seed gives the same script.
type script struct {
	stream *event.Stream
	events []event.Event
	ends   map[int]uint64 // watermark after the event of that index
}

const firstLSN = 0x16B3748

// newScript writes a script of about n events for a stream with 3 partitions.
func newScript(name string, n int, seed uint64) *script {
	s := &script{stream: event.NewStream(name, 3), ends: map[int]uint64{}}
	r := rand.New(rand.NewPCG(seed, 0))
	for lsn := uint64(firstLSN); len(s.events) < n; lsn += 100 {
		for i := range 1 + r.IntN(4) {
			e := event.Event{Stream: s.stream, Position: event.Position{Commit: lsn, Ordinal: uint64(i + 1)},
				Type: "order.changed", Key: strconv.AppendInt(nil, r.Int64N(1000), 10), Op: 'u', Table: "public.orders",
				Time: time.UnixMicro(int64(lsn) * 1e6), Tx: uint32(lsn)}
			e.Partition = s.stream.Partition(e.Key)
			e.Data = fmt.Appendf(nil, `{"n": %d}`, len(s.events))
			s.events = append(s.events, e)
		}
		s.ends[len(s.events)-1] = lsn + 50
	}
	return s
}

// end is the last watermark.
func (s *script) end() uint64 { return s.ends[len(s.events)-1] }

// loop is a run loop over a publisher.
type loop struct {
	t    failer
	p    *Publisher
	wake chan struct{}
	log  *logBuffer
}

func newLoop(t failer, o Options) *loop {
	t.Helper()
	l := &loop{t: t, wake: make(chan struct{}, 1), log: &logBuffer{}}
	o.Pipeline = cmp.Or(o.Pipeline, "shop")
	o.Log = slog.New(slog.NewTextHandler(l.log, nil))
	o.Wake = func() { signal(l.wake) }
	var err error
	if l.p, err = New(o); err != nil {
		t.Fatal(err)
	}
	l.p.firstDelay = 2 * time.Millisecond
	return l
}

// start connects, adds the stream and starts; the publisher ends with the test.
func start(t testing.TB, o Options, streams ...*event.Stream) *loop {
	t.Helper()
	l := newLoop(t, o)
	l.start(t.Context(), streams...)
	t.Cleanup(l.stop)
	return l
}

func (l *loop) start(ctx context.Context, streams ...*event.Stream) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, _, err := l.p.Connect(ctx); err != nil {
		l.t.Fatal(err)
	}
	for _, s := range streams {
		if _, err := l.p.AddStream(ctx, s); err != nil {
			l.t.Fatal(err)
		}
	}
	l.p.Start(context.Background())
}

// stop ends the publisher at once.
func (l *loop) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.p.Drain(ctx)
}

// play appends the events from index from up to to, as a run loop does.
func (l *loop) play(s *script, from, to int) {
	l.t.Helper()
	for i := from; i < to; i++ {
		l.take(s, i)
		if l.p.Full() {
			l.offer()
		}
	}
}

// take appends one event, however full the batch is.
func (l *loop) take(s *script, i int) {
	e := s.events[i]
	l.p.Append(&e)
	if w := s.ends[i]; w != 0 {
		l.p.Mark(w, e.Time)
	}
}

// offer hands the batch over, waiting for its turn.
func (l *loop) offer() {
	l.t.Helper()
	l.until("offer", l.p.Offer)
}

// settle waits until everything is published.
func (l *loop) settle() {
	l.t.Helper()
	l.until("settle", func() bool { l.p.Offer(); return l.p.Idle() })
}

// until waits for a condition that the publisher's goroutine brings about.
func (l *loop) until(what string, cond func() bool) {
	l.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !cond() {
		if err := l.p.Err(); err != nil {
			l.t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-l.wake:
		case <-deadline.C:
			l.t.Fatalf("%s: not within %v; status %+v", what, patience, l.p.Status())
		}
	}
}

// troubled waits until the publisher retries for a reason of this kind.
func (l *loop) troubled(t testing.TB, k kind) {
	t.Helper()
	harness.Eventually(t, patience, "retrying, "+string(k), func() bool {
		s := l.p.Status()
		return s.State == StateRetrying && s.ErrorKind == string(k)
	})
}

// fails waits until the sink has failed for good and returns why.
func (l *loop) fails() error {
	l.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for l.p.Err() == nil {
		select {
		case <-l.wake:
		case <-deadline.C:
			l.t.Fatalf("it has not failed within %v; status %+v", patience, l.p.Status())
		}
	}
	return l.p.Err()
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), text)
}

// client is an independent client, for the judge. It makes no connection when
// the test is over.
func client(t testing.TB, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.Protocol, o.DisableIdentity = 2, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// ranger is what the judge needs of a client.
type ranger interface {
	XRange(ctx context.Context, stream, start, stop string) *redis.XMessageSliceCmd
}

// published reads a stream back and fails unless every partition is a
// contiguous prefix of the script with the right seq. It returns how many
// entries there are, of all.
func published(t failer, c ranger, s *script) int {
	t.Helper()
	total := 0
	for part, key := range s.stream.Keys {
		entries, err := c.XRange(context.Background(), key, "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		total += len(entries)
		i := 0
		for _, want := range s.events {
			if want.Partition != part || i == len(entries) {
				continue
			}
			got, err := event.ParseEntry(entries[i].ID, entries[i].Values)
			if err != nil {
				t.Fatal(err)
			}
			i++
			if got.Position != want.Position || got.Seq != uint64(i) || !bytes.Equal(got.Data, want.Data) {
				t.Fatalf("%s, entry %d: position %v seq %d data %s, want position %v data %s",
					key, i, got.Position, got.Seq, got.Data, want.Position, want.Data)
			}
		}
		if i < len(entries) {
			t.Fatalf("%s has %d entries, and the script only %d", key, len(entries), i)
		}
	}
	return total
}

// complete fails unless the whole script is published and its end is in :commits.
func complete(t failer, c *redis.Client, s *script) {
	t.Helper()
	if n := published(t, c, s); n != len(s.events) {
		t.Fatalf("%d entries are there, want %d", n, len(s.events))
	}
	top, err := c.XRevRangeN(context.Background(), event.CommitsKey("shop"), "+", "-", 1).Result()
	if err != nil || len(top) != 1 {
		t.Fatalf("top of :commits: %v, %v", top, err)
	}
	if want := fmt.Sprintf("%d-0", s.end()); top[0].ID != want {
		t.Fatalf("the top of :commits is %s, want %s", top[0].ID, want)
	}
}

func mustContain(t failer, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Fatalf("error %v, want one with %q", err, part)
		}
	}
}

func isTailLost(err error) bool {
	var lost ErrTailLost
	return errors.As(err, &lost)
}
