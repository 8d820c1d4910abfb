package sink

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

func TestPublish(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	for name, o := range map[string]Options{
		"defaults":      {URL: r.URL()},
		"small batches": {URL: r.URL() + "?db=1", BatchEntries: 7},
		"single ones":   {URL: r.URL() + "?db=2", BatchEntries: 1},
		"by bytes":      {URL: r.SocketURL() + "?db=3", BatchBytes: 1500},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript("orders", 500, 1)
			l := start(t, o, s.stream)
			l.play(s, 0, len(s.events))
			l.settle()
			complete(t, client(t, o.URL), s)
			st := l.p.Status()
			if st.Entries != uint64(len(s.events)) || st.State != StateConnected || st.Durable != s.end() || l.p.Durable() != s.end() {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// A later process continues where an earlier one stopped, and skips what is there.
func TestContinue(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	s := newScript("orders", 300, 2)
	first := start(t, Options{URL: r.URL()}, s.stream)
	first.play(s, 0, 120)
	first.settle()
	first.stop()

	second := start(t, Options{URL: r.URL()}, s.stream)
	second.play(s, 50, len(s.events))
	second.settle()
	complete(t, client(t, r.URL()), s)
	if st := second.p.Status(); st.Skipped != 70 || st.Entries != uint64(len(s.events)-120) {
		t.Errorf("skipped %d, published %d", st.Skipped, st.Entries)
	}
}

// Streams whose last entries were trimmed or deleted are continued too.
func TestContinueWithoutEntries(t *testing.T) {
	noLeaks(t)
	ctx := t.Context()
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	s := newScript("orders", 60, 3)
	first := start(t, Options{URL: r.URL()}, s.stream)
	first.play(s, 0, 40)
	first.settle()
	first.stop()
	want := map[string]uint64{}
	for i, key := range s.stream.Keys {
		want[key] = uint64(c.XLen(ctx, key).Val())
		if i == 0 { // as consumers do that delete what they have handled
			last := c.XRevRangeN(ctx, key, "+", "-", 2).Val()
			c.XDel(ctx, key, last[0].ID, last[1].ID)
		} else {
			c.XTrimMaxLen(ctx, key, 0)
		}
	}
	second := start(t, Options{URL: r.URL()}, s.stream)
	for i := range s.events {
		e := s.events[i]
		second.p.Append(&e)
		if i < 40 {
			continue
		}
		want[s.stream.Keys[e.Partition]]++
		if e.Seq != want[s.stream.Keys[e.Partition]] {
			t.Fatalf("event %d has seq %d, want %d", i, e.Seq, want[s.stream.Keys[e.Partition]])
		}
	}
	second.settle()
	if st := second.p.Status(); st.Skipped != 40 {
		t.Errorf("skipped %d", st.Skipped)
	}
}

func TestMeta(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	l := newLoop(t, Options{URL: r.URL()})
	ctx := t.Context()
	m, w, err := l.p.Connect(ctx)
	if err != nil || !m.IsZero() || w != 0 {
		t.Fatalf("a new pipeline: %+v, %d, %v", m, w, err)
	}
	want := event.Meta{System: "7123", Timeline: 2, Epoch: 3, HTTP: "127.0.0.1:8077", Streams: map[string]int{"orders": 8}}
	if err := l.p.SaveMeta(ctx, want); err != nil {
		t.Fatal(err)
	}
	l.p.Start(ctx)
	l.p.Mark(event.Clock(3, 0x100), time.Now())
	l.settle()
	m, w, err = l.p.Connect(ctx)
	if diff := cmp.Diff(want, m); diff != "" || w != event.Clock(3, 0x100) || err != nil {
		t.Errorf("watermark %x, error %v, meta (-want +got):\n%s", w, err, diff)
	}
	l.stop()
}

// :commits says how many entries lie between two watermarks, has no watermark
// twice, and goes on without entries too.
func TestCommits(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	s := newScript("orders", 40, 4)
	l := start(t, Options{URL: r.URL()}, s.stream)
	at := time.Date(2026, 11, 3, 9, 5, 7, 42_001_999, time.UTC)
	var want []map[string]any
	mark := func(w uint64, events string) {
		l.p.Mark(w, at)
		l.settle()
		want = append(want, map[string]any{"time": "2026-11-03T09:05:07.042001Z", "events": events})
	}
	for i := range 3 {
		e := s.events[i]
		l.p.Append(&e)
	}
	mark(firstLSN+1000, "3")
	mark(firstLSN+1001, "0")
	l.p.Mark(firstLSN+900, at) // late
	if l.p.Pending() {
		t.Error("a mark that does not ascend is pending")
	}
	for i := range 10 { // the first 3 are known
		e := s.events[i]
		l.p.Append(&e)
	}
	l.p.Mark(firstLSN+1002, at)
	e := s.events[10] // not covered by the mark
	l.p.Append(&e)
	l.settle()
	want = append(want, map[string]any{"time": "2026-11-03T09:05:07.042001Z", "events": "7"})
	mark(firstLSN+1003, "1")

	var got []map[string]any
	for _, m := range client(t, r.URL()).XRange(t.Context(), event.CommitsKey("shop"), "-", "+").Val() {
		got = append(got, m.Values)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Watermarks that come faster than :commits should grow are written together,
// and the last one without another push.
func TestCommitsCoalesce(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	l := start(t, Options{URL: r.URL()})
	began := time.Now()
	n := uint64(0)
	for time.Since(began) < 100*time.Millisecond {
		n++
		l.p.Mark(n, began)
		l.offer()
	}
	l.until("the last mark", func() bool { return l.p.Durable() == n })
	took := time.Since(began)
	written := client(t, r.URL()).XLen(t.Context(), event.CommitsKey("shop")).Val()
	if most := int64(took/markInterval) + 2; written > most || written < 2 {
		t.Errorf("%d watermarks written in %v, want 2 to %d; %d were marked", written, took, most, n)
	}
}

// Whatever order they are called in, Start and Drain neither hang nor leak.
func TestLifecycle(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	s := newScript("orders", 10, 5)
	ctx := t.Context()
	t.Run("drained without a start", func(t *testing.T) {
		l := newLoop(t, Options{URL: r.URL()})
		for range 2 {
			if err := l.p.Drain(ctx); err != nil {
				t.Error(err)
			}
		}
		l.p.Start(ctx)
	})
	t.Run("handed over before the start, drained after it", func(t *testing.T) {
		l := newLoop(t, Options{URL: r.URL()})
		if _, err := l.p.AddStream(ctx, s.stream); err != nil {
			t.Fatal(err)
		}
		if _, err := l.p.AddStream(ctx, s.stream); err != nil {
			t.Fatal(err)
		}
		l.play(s, 0, 4)
		if !l.p.Offer() || l.p.Idle() {
			t.Error("the first batch was not taken")
		}
		l.play(s, 4, len(s.events))
		if l.p.Offer() {
			t.Error("a second batch was taken while one is in flight")
		}
		l.p.Start(ctx)
		l.p.Start(ctx)
		for range 2 {
			if err := l.p.Drain(ctx); err != nil {
				t.Error(err)
			}
		}
		complete(t, client(t, r.URL()), s)
	})
	t.Run("the context ends", func(t *testing.T) {
		l := newLoop(t, Options{URL: "redis://127.0.0.1:1"})
		ctx, cancel := context.WithCancel(ctx)
		l.p.Start(ctx)
		l.troubled(t, kindConnection)
		l.p.Mark(1, time.Now())
		l.p.Offer()
		cancel()
		<-l.p.done
		if err := l.p.Drain(context.Background()); err == nil || l.p.Err() != nil {
			t.Errorf("Drain: %v, Err: %v", err, l.p.Err())
		}
	})
	t.Run("Redis stays away", func(t *testing.T) {
		l := newLoop(t, Options{URL: "redis://127.0.0.1:1"})
		l.p.Start(ctx)
		l.p.Mark(1, time.Now())
		soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		mustContain(t, l.p.Drain(soon), "not everything was acknowledged")
	})
	t.Run("Redis is not there to connect to", func(t *testing.T) {
		l := newLoop(t, Options{URL: "redis://127.0.0.1:1"})
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() { _, _, err := l.p.Connect(ctx); done <- err }()
		l.troubled(t, kindConnection)
		cancel()
		mustContain(t, <-done, "connect to Redis", "context canceled", "connection refused")
	})
	t.Run("an unknown stream", func(t *testing.T) {
		l := newLoop(t, Options{URL: r.URL()})
		l.play(s, 0, 1)
		mustContain(t, l.p.Err(), "stream orders", "not added")
	})
}

// One huge row goes through, and its buffer is not kept.
func TestHugeEntry(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	s := newScript("orders", 3, 6)
	s.events[1].Data = make([]byte, 20<<20)
	l := start(t, Options{URL: r.URL()}, s.stream)
	l.play(s, 0, len(s.events))
	l.settle()
	complete(t, client(t, r.URL()), s)
	for _, b := range []*batch{l.p.cur, l.p.other} {
		if cap(b.buf) > keepBytes {
			t.Errorf("a buffer of %d bytes is kept", cap(b.buf))
		}
	}
}

// What was appended of a transaction that is given up is taken back; all before it is published.
func TestRewind(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	s := newScript("orders", 100, 3)
	last := len(s.events) - 1
	commit := s.events[last].Position.Commit
	whole := last
	for whole > 0 && s.events[whole-1].Position.Commit == commit {
		whole--
	}
	for _, from := range []int{0, whole} { // with entries before it in the same batch, and without
		l := start(t, Options{URL: r.URL()}, s.stream)
		l.play(s, 0, from)
		l.settle()
		for i := from; i < last; i++ {
			l.take(s, i)
		}
		if from == whole && whole == last {
			t.Fatal("the last transaction has one event only")
		}
		l.p.Rewind(commit)
		if err := l.p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := &script{stream: s.stream, events: s.events[:whole], ends: s.ends}
		complete(t, c, s)
		if durable := l.p.Durable(); durable != s.ends[whole-1] {
			t.Errorf("durable up to %d, want %d", durable, s.ends[whole-1])
		}
	}
}
