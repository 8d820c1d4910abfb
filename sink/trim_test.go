package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// nodeEntries is how many entries a node of the tests' streams has: only whole nodes are trimmed.
const nodeEntries = 10

// filled publishes the first n events of a script to a new Redis, with the :meta that a trimmer reads.
func filled(t *testing.T, n, all int) (*harness.Redis, *redis.Client, *loop, *script) {
	t.Helper()
	r := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"stream-node-max-entries": fmt.Sprint(nodeEntries)}})
	s := newScript("orders", all, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	if err := l.p.SaveMeta(t.Context(), event.Meta{System: "1", Timeline: 1, Streams: map[string]int{"orders": 3}}); err != nil {
		t.Fatal(err)
	}
	l.play(s, 0, n)
	l.settle()
	return r, client(t, r.URL()), l, s
}

func newTrimmer(t *testing.T, url string, r Retention) *Trimmer {
	t.Helper()
	trimmer, err := NewTrimmer(Options{URL: url, Retention: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trimmer.Close)
	return trimmer
}

// everything is the scope of a pipeline of which all is confirmed.
var everything = TrimScope{Pipeline: "shop", Confirmed: event.MaxLSN}

// pass makes a pass that is to meet no error.
func pass(t failer, trimmer *Trimmer, now time.Time, scope TrimScope) TrimReport {
	t.Helper()
	report, err := trimmer.Trim(t.(interface{ Context() context.Context }).Context(), now, scope)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// seqs are those of the entries that a partition has.
func seqs(t failer, c ranger, key string) []uint64 {
	t.Helper()
	entries, err := c.XRange(context.Background(), key, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	var list []uint64
	for _, m := range entries {
		seq, ok := event.ParseSeq(m.Values)
		if !ok {
			t.Fatalf("%s: entry %s has no seq", key, m.ID)
		}
		list = append(list, seq)
	}
	return list
}

// Whatever the limits, the groups and what is confirmed: what goes is a beginning of each partition, each entry of it is beyond a limit,
// confirmed and read, and all of that goes but for part of a node.
func TestTrim(t *testing.T) {
	_, c, _, s := filled(t, 600, 600)
	r := c.Options().Addr
	dump := map[string]string{}
	for _, key := range s.stream.Keys {
		dump[key] = c.Dump(t.Context(), key).Val()
	}
	byKey := map[string][]event.Event{}
	for i := range s.events {
		key := s.stream.Keys[s.events[i].Partition]
		byKey[key] = append(byKey[key], s.events[i])
	}
	rapid.Check(t, func(t *rapid.T) {
		ctx := t.Context()
		for key, content := range dump {
			if err := c.RestoreReplace(ctx, key, 0, content).Err(); err != nil {
				t.Fatal(err)
			}
		}
		event1, eventN := s.events[0], s.events[len(s.events)-1]
		limits := Retention{KeepUnread: rapid.Bool().Draw(t, "keep unread")}
		if rapid.Bool().Draw(t, "by age") {
			limits.MaxAge = time.Duration(rapid.Int64Range(1, int64(eventN.Time.Sub(event1.Time))).Draw(t, "max age"))
		}
		if rapid.Bool().Draw(t, "by number") {
			limits.MaxEntries = rapid.Uint64Range(1, 250).Draw(t, "max entries")
		}
		scope := everything
		if rapid.Bool().Draw(t, "some confirmed") {
			scope.Confirmed = rapid.Uint64Range(event1.Position.Commit, eventN.Position.Commit).Draw(t, "confirmed")
		}
		needed := map[string]int{} // the first entry that a group needs yet
		for key, events := range byKey {
			needed[key] = len(events)
			for g := range rapid.IntRange(0, 2).Draw(t, "groups") {
				group := fmt.Sprint("g", g)
				read := rapid.IntRange(0, len(events)).Draw(t, "read")
				c.XGroupCreate(ctx, key, group, "0")
				first := read
				if read > 0 {
					got, err := c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: "c", Streams: []string{key, ">"}, Count: int64(read)}).Result()
					if err != nil || len(got[0].Messages) != read {
						t.Fatalf("read %d: %v", read, err)
					}
					first = rapid.IntRange(0, read).Draw(t, "acknowledged")
					for _, m := range got[0].Messages[:first] {
						c.XAck(ctx, key, group, m.ID)
					}
				}
				needed[key] = min(needed[key], first)
			}
		}
		trimmer, err := NewTrimmer(Options{URL: "redis://" + r, Retention: limits})
		if err != nil {
			t.Fatal(err)
		}
		defer trimmer.Close()
		report := pass(t, trimmer, eventN.Time, scope)
		if len(report.Refused) > 0 {
			t.Fatal(report.Refused)
		}
		gone := 0
		for key, events := range byKey {
			may := 0 // entries that may go
			for i, e := range events[:len(events)-1] {
				beyond := limits.MaxAge > 0 && eventN.Time.Sub(e.Time) > limits.MaxAge || limits.MaxEntries > 0 && uint64(len(events)-i) > limits.MaxEntries
				if !beyond || e.Position.Commit >= scope.Confirmed || limits.KeepUnread && i >= needed[key] {
					break
				}
				may++
			}
			left := seqs(t, c, key)
			want := make([]uint64, len(left))
			for i := range want {
				want[i] = uint64(len(events) - len(left) + i + 1)
			}
			if !slices.Equal(left, want) {
				t.Fatalf("%s is not the end of what it was: %v", key, left)
			}
			went := len(events) - len(left)
			slack := nodeEntries + int(limits.MaxEntries/100) // the first margin, too
			if limits.MaxAge > 0 {
				slack += len(events)/100 + 2
			}
			if went > may || may-went > slack {
				t.Fatalf("%s: %d of %d entries went, of %d that may", key, went, len(events), may)
			}
			gone += went
		}
		if stream := report.Streams[0]; int(stream.Trimmed) != gone {
			t.Fatalf("the report says %d, and %d went", stream.Trimmed, gone)
		}
	})
}

// The streams go on after a trim with the seq that follows, also by a process that begins only then.
func TestTrimGoesOn(t *testing.T) {
	r, c, l, s := filled(t, 600, 1200)
	trimmer := newTrimmer(t, r.URL(), Retention{MaxEntries: 1, KeepUnread: true})
	now := s.events[len(s.events)-1].Time
	report := pass(t, trimmer, now, everything)
	if report.Streams[0].Trimmed < 500 {
		t.Fatalf("%+v", report)
	}
	l.play(s, 600, 900)
	l.settle()
	l.stop()
	more := newScript("orders", 1200, 1)
	second := start(t, Options{URL: r.URL()}, more.stream)
	second.play(more, 0, len(more.events))
	second.settle()
	for part, key := range more.stream.Keys {
		var want uint64
		for i := range more.events {
			if more.events[i].Partition == part {
				want++
			}
		}
		left := seqs(t, c, key)
		for i := range left[1:] {
			if left[i+1] != left[i]+1 {
				t.Fatalf("%s: %d follows %d", key, left[i+1], left[i])
			}
		}
		if left[len(left)-1] != want || left[0] == 1 {
			t.Errorf("%s has %d to %d, want what follows a trim up to %d", key, left[0], left[len(left)-1], want)
		}
	}
	// What is there now is counted: how many are gone, and how old the rest is.
	report = pass(t, newTrimmer(t, r.URL(), Retention{MaxEntries: 1 << 40}), now, everything)
	var gone uint64
	oldest := now
	for _, key := range more.stream.Keys {
		gone += seqs(t, c, key)[0] - 1
	}
	for i := range more.events {
		if first := seqs(t, c, more.stream.Keys[more.events[i].Partition])[0]; first == rank(more, i) && more.events[i].Time.Before(oldest) {
			oldest = more.events[i].Time
		}
	}
	if got := report.Streams[0]; got.Gone != gone || got.Trimmed != 0 || !got.Oldest.Equal(oldest) {
		t.Errorf("%+v, want %d gone and the oldest of %v", got, gone, oldest)
	}
}

// rank is the seq of an event of a script.
func rank(s *script, i int) (n uint64) {
	for _, e := range s.events[:i+1] {
		if e.Partition == s.events[i].Partition {
			n++
		}
	}
	return n
}

// A group that holds trimming back is named; a partition that is not ours, or that may not be trimmed, keeps no other from being trimmed.
func TestTrimHeldAndRefused(t *testing.T) {
	r, c, _, s := filled(t, 600, 600)
	ctx := t.Context()
	all := map[string]int{}
	for _, key := range s.stream.Keys {
		all[key] = len(seqs(t, c, key))
	}
	if err := c.XGroupCreate(ctx, "orders:0", "dead", "0").Err(); err != nil {
		t.Fatal(err)
	}
	trimmer := newTrimmer(t, r.URL(), Retention{MaxEntries: 50, KeepUnread: true})
	now := s.events[len(s.events)-1].Time
	report := pass(t, trimmer, now, everything)
	if len(report.Held) != 1 || len(seqs(t, c, "orders:0")) != all["orders:0"] {
		t.Fatalf("%+v", report)
	}
	if h := report.Held[0]; h.Stream != "orders" || h.Key != "orders:0" || h.Group != "dead" || int(h.Unread) != all["orders:0"] || !h.Overdue || !h.Oldest.Equal(s.events[slices.IndexFunc(s.events, func(e event.Event) bool { return e.Partition == 0 })].Time) {
		t.Errorf("%+v", h)
	}
	for _, key := range s.stream.Keys[1:] {
		if n := len(seqs(t, c, key)); n < 50 || n > 50+nodeEntries {
			t.Errorf("%s has %d entries", key, n)
		}
	}
	// One that has read some, and one that has acknowledged less.
	c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "dead", Consumer: "c", Streams: []string{"orders:0", ">"}, Count: 100, NoAck: true})
	report = pass(t, trimmer, now, everything)
	if left := seqs(t, c, "orders:0"); left[0] != 101 || len(report.Held) != 1 || int(report.Held[0].Unread) != all["orders:0"]-100 {
		t.Errorf("it begins with %d; %+v", left[0], report.Held)
	}
	c.XGroupDestroy(ctx, "orders:0", "dead")
	// A group that is behind by less than the limits holds nothing.
	c.XGroupCreate(ctx, "orders:1", "live", "$")
	report = pass(t, trimmer, now, everything)
	if left := seqs(t, c, "orders:0"); len(left) > 50+nodeEntries || len(report.Held) > 0 {
		t.Errorf("%d are left; %+v", len(left), report.Held)
	}
	c.Rename(ctx, "orders:0", "kept")
	c.Set(ctx, "orders:0", "x", 0)
	c.XAdd(ctx, &redis.XAddArgs{Stream: "orders:2", ID: "*", Values: []any{"a", "b"}})
	report = pass(t, newTrimmer(t, r.URL(), Retention{MaxEntries: 5}), now, everything)
	if n := len(seqs(t, c, "orders:1")); len(report.Refused) != 2 || n < 5 || n > 5+nodeEntries {
		t.Errorf("orders:1 has %d entries; %v", n, report.Refused)
	}
	mustContain(t, errors.Join(report.Refused...), "XINFO orders:0: WRONGTYPE", "read stream orders:2: the stream was written or changed by something else", "XDEL")
}

// A full Redis can be trimmed: that is a way to make room.
func TestTrimFullRedis(t *testing.T) {
	r, c, l, s := filled(t, 600, 700)
	if err := c.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	l.play(s, 600, len(s.events))
	l.p.Offer()
	l.troubled(t, kindOOM)
	if report := pass(t, newTrimmer(t, r.URL(), Retention{MaxEntries: 5}), time.Now(), everything); report.Streams[0].Trimmed < 500 {
		t.Errorf("%+v", report)
	}
	c.ConfigSet(t.Context(), "maxmemory", "0")
	l.settle()
}

// A transaction of any size is trimmed within.
func TestTrimOneTransaction(t *testing.T) {
	r, c, l, s := filled(t, 30, 30)
	next := s.end() + 100
	for i := range 25_000 {
		e := event.Event{Stream: s.stream, Partition: 1, Position: event.Position{Commit: next, Ordinal: uint64(i + 1)}, Type: "order.changed", Op: 'u', Time: time.UnixMicro(int64(next) * 1e6)}
		l.p.Append(&e)
		if l.p.Full() {
			l.offer()
		}
	}
	l.p.Mark(next+50, time.Now())
	l.settle()
	before := seqs(t, c, "orders:1")
	last := before[len(before)-1]
	trimmer, passes := newTrimmer(t, r.URL(), Retention{MaxEntries: 1000}), 1
	for pass(t, trimmer, time.Now(), everything).More {
		passes++
	}
	if passes != 2 { // Redis looks at a hundred nodes in a call
		t.Errorf("%d passes", passes)
	}
	left := seqs(t, c, "orders:1")
	if left[len(left)-1] != last || len(left) < 1000 || len(left) > 1000+nodeEntries {
		t.Errorf("it has %d entries from %d to %d", len(left), left[0], left[len(left)-1])
	}
}

func TestTrimCluster(t *testing.T) {
	t.Parallel() // it mostly waits
	nodes := newCluster(t)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr()}})
	t.Cleanup(func() { c.Close() })
	s := newScript("orders", 3000, 1)
	s.spread(9)
	l := start(t, Options{URL: "redis+cluster://" + nodes[1].Addr()}, s.stream)
	if err := l.p.SaveMeta(t.Context(), event.Meta{System: "1", Timeline: 1, Streams: map[string]int{"orders": 9}}); err != nil {
		t.Fatal(err)
	}
	l.play(s, 0, len(s.events))
	l.settle()
	if err := c.XGroupCreate(t.Context(), "orders:4", "slow", "0").Err(); err != nil {
		t.Fatal(err)
	}
	trimmer := newTrimmer(t, "redis+cluster://"+nodes[2].Addr(), Retention{MaxEntries: 10, KeepUnread: true})
	report := pass(t, trimmer, time.Now(), everything)
	if len(report.Held) != 1 || report.Held[0].Key != "orders:4" {
		t.Errorf("%+v", report.Held)
	}
	short := func(key string) bool { n := len(seqs(t, c, key)); return n >= 10 && n <= 110 }
	for i, key := range s.stream.Keys {
		if short(key) == (i == 4) {
			t.Errorf("%s has %d entries", key, len(seqs(t, c, key)))
		}
	}
	// A node that was away is found again.
	if err := nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := trimmer.Trim(t.Context(), time.Now(), everything); err == nil {
		t.Error("it has trimmed without a node")
	}
	if err := nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	clusterReady(t, nodes)
	c.XGroupDestroy(t.Context(), "orders:4", "slow")
	harness.Eventually(t, patience, "the last partition to be trimmed", func() bool {
		_, err := trimmer.Trim(t.Context(), time.Now(), everything)
		return err == nil && short("orders:4")
	})
}
