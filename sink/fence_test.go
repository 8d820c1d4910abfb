package sink

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// claiming starts a publisher as the one that writes.
func claiming(t *testing.T, o Options, s *event.Stream) *loop {
	t.Helper()
	l := newLoop(t, o)
	if err := l.p.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.start(t.Context(), s)
	t.Cleanup(l.stop)
	return l
}

// reads makes the events from index from up to to rows that a backfill read.
func (s *script) reads(from, to int) {
	for i := from; i < to; i++ {
		s.events[i].Op = 'r'
	}
}

// An instance that was away comes back with rows of a backfill when another has taken over: with a batch that
// had been sent and not arrived, and with one that had not been sent. Neither may be taken: its seqs are those
// that the other has begun to use for something else.
func TestFencedBatch(t *testing.T) {
	t.Run("sent", func(t *testing.T) {
		t.Parallel()
		r := harness.NewRedis(t, harness.RedisOptions{})
		proxy := harness.StartProxy(t, r.Addr())
		takeOver(t, client(t, r.URL()), r.URL(), proxy.Through(r.URL()), proxy)
	})
	t.Run("not sent", func(t *testing.T) {
		t.Parallel()
		r := harness.NewRedis(t, harness.RedisOptions{})
		takeOver(t, client(t, r.URL()), r.URL(), r.URL(), nil)
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		nodes := newCluster(t)
		c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr()}})
		t.Cleanup(func() { c.Close() })
		takeOver(t, c, "redis+cluster://"+nodes[0].Addr(), "redis+cluster://"+nodes[1].Addr(), nil)
	})
}

// takeOver has an instance be away with a batch, and another take over.
func takeOver(t *testing.T, c redis.UniversalClient, direct, through string, proxy *harness.Proxy) {
	t.Helper()
	s, other := newScript("orders", 300, 7), newScript("orders", 300, 7)
	s.reads(100, 300)
	old := claiming(t, Options{URL: through}, s.stream)
	old.play(s, 0, 200)
	old.settle()
	for i := 200; i < 300; i++ {
		old.take(s, i)
	}
	if proxy != nil {
		proxy.Stall(harness.ToServer)
		before := proxy.Accepted()
		old.offer()
		defer func() {
			if n := proxy.Accepted(); n != before+1 { // the batch was held and refused, it is after that that a new connection is made
				t.Errorf("%d connections were made, want one", n-before)
			}
		}()
	}
	fresh := claiming(t, Options{URL: direct}, other.stream)
	if proxy != nil {
		proxy.Resume()
	} else {
		old.offer()
	}
	var fenced ErrFenced
	if err := old.fails(); !errors.As(err, &fenced) {
		t.Fatalf("the old one ended with %v", err)
	}
	fresh.play(other, 250, 300) // it has read other rows, further on
	fresh.settle()
	if n := contiguous(t, c, s.stream); n != 250 {
		t.Errorf("%d entries are there, want 200 of the old one and 50 of the new one", n)
	}
}

// contiguous checks the seqs of all partitions and counts their entries.
func contiguous(t *testing.T, c redis.UniversalClient, s *event.Stream) (n int) {
	t.Helper()
	for _, key := range s.Keys {
		entries, err := c.XRange(t.Context(), key, "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if e.Values["seq"] != fmt.Sprint(i+1) {
				t.Errorf("%s: entry %s has seq %v, it is the %d.", key, e.ID, e.Values["seq"], i+1)
			}
		}
		n += len(entries)
	}
	return n
}

// A later claim cannot be undone by an earlier publisher that adds a stream.
func TestClaimTerms(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t)
	url := "redis+cluster://" + nodes[0].Addr()
	one, two := newLoop(t, Options{URL: url}), newLoop(t, Options{URL: url})
	for _, l := range []*loop{one, two} {
		if err := l.p.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.stop)
	}
	two.start(t.Context(), event.NewStream("orders", 2))
	var fenced ErrFenced
	if _, err := one.p.AddStream(t.Context(), event.NewStream("orders", 2)); !errors.As(err, &fenced) {
		t.Errorf("an earlier publisher has claimed a stream again: %v", err)
	}
	if err := one.p.Claim(t.Context()); !errors.As(err, &fenced) {
		t.Errorf("an earlier publisher has claimed everything again: %v", err)
	}
}

func TestPartitionWriterKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"orders", "orders:0", "a{b}c", "x{y"} {
		if fence := event.PartitionWriterKey("shop", key); slotOf(fence) != slotOf(key) || !strings.HasSuffix(fence, ":shop") {
			t.Errorf("%s of %s is in another slot", fence, key)
		}
	}
}
