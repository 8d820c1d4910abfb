package sink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// Each trouble sets in while a script is played, is reported under its kind and
// logged once, and ends. Then everything is there, in order.
func TestTroubleThatPasses(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{
		"save": "3600 1", "enable-protected-configs": "yes", "repl-diskless-sync-delay": "0"}})
	c := client(t, r.URL())
	run := func(do func(context.Context, ...any) interface{ Err() error }, args ...any) {
		t.Helper()
		if err := do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do := func(ctx context.Context, args ...any) interface{ Err() error } { return c.Do(ctx, args...) }
	tests := []struct {
		kind       kind
		text       string
		begin, end func()
	}{
		{kindOOM, "used memory",
			func() { run(do, "CONFIG", "SET", "maxmemory", "1mb") },
			func() { run(do, "CONFIG", "SET", "maxmemory", "0") }},
		{kindReadonly, "read only replica",
			func() { run(do, "REPLICAOF", "127.0.0.1", "1") },
			func() { run(do, "REPLICAOF", "NO", "ONE") }},
		{kindMisconf, "unable to persist",
			func() { breakSave(t, do) },
			func() { mendSave(t, do, r.Dir()) }},
		{kindNoPerm, "has no permissions to access",
			func() { run(do, "ACL", "SETUSER", "default", "resetkeys", "~walrill:*") },
			func() { run(do, "ACL", "SETUSER", "default", "allkeys") }},
		{kindNoPerm, "'multi' command", // all others are executed, one by one, and must not count
			func() { run(do, "ACL", "SETUSER", "default", "-multi") },
			func() { run(do, "ACL", "SETUSER", "default", "+multi") }},
		{kindNoPerm, ":commits",
			func() { run(do, "ACL", "SETUSER", "default", "resetkeys", "~orders*") },
			func() { run(do, "ACL", "SETUSER", "default", "allkeys") }},
		{kindNoReplicas, "Not enough good replicas",
			func() { run(do, "CONFIG", "SET", "min-replicas-to-write", "1") },
			func() { run(do, "CONFIG", "SET", "min-replicas-to-write", "0") }},
	}
	for _, tc := range tests {
		t.Run(string(tc.kind)+" "+tc.text, func(t *testing.T) {
			run(do, "FLUSHALL")
			s := newScript("orders", 300, 1)
			l := start(t, Options{URL: r.URL(), BatchEntries: 50}, s.stream)
			l.play(s, 0, 100)
			l.settle()
			tc.begin()
			l.play(s, 100, 120)
			l.offer()
			l.troubled(t, tc.kind)
			if st := l.p.Status(); !strings.Contains(st.Error, tc.text) {
				t.Errorf("error %q, want %q in it", st.Error, tc.text)
			}
			harness.Eventually(t, patience, "several attempts", func() bool { return l.p.Status().Errors[string(tc.kind)] > 3 })
			if l.p.Durable() >= s.end() {
				t.Error("it counts as durable")
			}
			tc.end()
			l.play(s, 120, len(s.events))
			l.settle()
			complete(t, c, s)
			if n := l.log.count("trying again until it does"); n != 1 {
				t.Errorf("logged %d times:\n%s", n, &l.log.b)
			}
			if l.p.Status().State != StateConnected || l.log.count("takes what it is sent again") != 1 {
				t.Errorf("it has not recovered: %+v\n%s", l.p.Status(), &l.log.b)
			}
		})
	}
}

// Memory runs out in the middle of batches that follow each other closely: what
// is there is a prefix, and it grows again when there is room.
func TestOOMInTheMiddle(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	ctx := t.Context()
	s := newScript("orders", 20_000, 1)
	l := start(t, Options{URL: r.URL(), BatchEntries: 300}, s.stream)
	l.play(s, 0, 1000)
	l.settle()
	played := make(chan struct{})
	c.Do(ctx, "CONFIG", "SET", "maxmemory", usedMemory(t, c)+400_000)
	go func() { l.play(s, 1000, len(s.events)); close(played) }()
	for range 3 {
		l.troubled(t, kindOOM)
		if n := published(t, c, s); n == len(s.events) {
			t.Error("nothing was held back")
		}
		c.Do(ctx, "CONFIG", "SET", "maxmemory", usedMemory(t, c)+200_000)
	}
	c.Do(ctx, "CONFIG", "SET", "maxmemory", 0)
	<-played
	l.settle()
	complete(t, c, s)
}

func usedMemory(t *testing.T, c *redis.Client) int {
	t.Helper()
	_, rest, _ := strings.Cut(c.Info(t.Context(), "memory").Val(), "used_memory:")
	text, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// breakSave makes a background save fail: its directory is gone.
func breakSave(t *testing.T, do func(context.Context, ...any) interface{ Err() error }) {
	t.Helper()
	dir, err := os.MkdirTemp("", "walrill-sink")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]any{{"CONFIG", "SET", "dir", dir}, {"BGSAVE"}} {
		if args[0] == "BGSAVE" {
			os.RemoveAll(dir)
		}
		if err := do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, patience, "MISCONF", func() bool {
		err := do(t.Context(), "SET", "x", "1").Err()
		return err != nil && strings.HasPrefix(err.Error(), "MISCONF")
	})
}

func mendSave(t *testing.T, do func(context.Context, ...any) interface{ Err() error }, dir string) {
	t.Helper()
	if err := do(t.Context(), "CONFIG", "SET", "dir", dir).Err(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "a save", func() bool {
		do(t.Context(), "BGSAVE")
		return do(t.Context(), "SET", "x", "1").Err() == nil
	})
}

// A key that something else uses stops its stream until it is gone: before the
// stream was added, and when it was never written to.
func TestWrongType(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	ctx := t.Context()
	s := newScript("orders", 100, 1)
	l := newLoop(t, Options{URL: r.URL()})
	t.Cleanup(l.stop)
	c.Set(ctx, "orders:1", "mine", 0)
	added := make(chan error)
	go func() { _, err := l.p.AddStream(ctx, s.stream); added <- err }()
	l.troubled(t, kindWrongType)
	c.Del(ctx, "orders:1")
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	c.Set(ctx, "orders:1", "mine again", 0)
	l.p.Start(ctx)
	l.play(s, 0, 60)
	l.offer()
	l.troubled(t, kindWrongType)
	if st := l.p.Status(); !strings.Contains(st.Error, "orders:1") {
		t.Errorf("error %q does not name the stream", st.Error)
	}
	c.Del(ctx, "orders:1")
	l.play(s, 60, len(s.events))
	l.settle()
	complete(t, c, s)
}

// A key is replaced while its stream is at work: the neighbours in the
// transaction are published, and when the key is gone, so is what was acknowledged.
func TestWrongTypeInTheMiddle(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	ctx := t.Context()
	s := newScript("orders", 100, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	l.play(s, 0, 50)
	l.settle()
	c.Set(ctx, "orders:1", "mine", 0)
	l.play(s, 50, 80)
	l.offer()
	l.troubled(t, kindWrongType)
	c.Del(ctx, "orders:1")
	var lost ErrTailLost
	if err := l.fails(); !errors.As(err, &lost) || lost.Key != "orders:1" || !lost.Found.IsZero() {
		t.Fatal(err)
	}
}

func TestLogin(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"requirepass": "s3cret/%"}})
	s := newScript("orders", 30, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	l.play(s, 0, len(s.events))
	l.settle()
	complete(t, client(t, r.URL()), s)
	if names := client(t, r.URL()).ClientList(t.Context()).Val(); !strings.Contains(names, "name=walrill ") {
		t.Errorf("no connection is named walrill:\n%s", names)
	}
	for _, url := range []string{"redis://:wr0ng@" + r.Addr(), "redis://" + r.Addr()} {
		l := newLoop(t, Options{URL: url})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { _, _, err := l.p.Connect(ctx); done <- err }()
		l.troubled(t, kindNoAuth)
		cancel()
		if err := <-done; err == nil || strings.Contains(err.Error(), "wr0ng") || l.log.count("wr0ng") > 0 {
			t.Errorf("%v\n%s", err, &l.log.b)
		}
	}
}

// The rights in these lists are all that a publisher needs.
func TestLeastRights(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	ctx := t.Context()
	err := c.Do(ctx, "ACL", "SETUSER", "cdc", "on", ">pw", "~orders*", "~walrill:{shop}:*",
		"+xadd", "+xinfo|stream", "+xrevrange", "+exec", "+watch", "+hset", "+hgetall", "+client|setname").Err()
	if err != nil {
		t.Fatal(err)
	}
	s := newScript("orders", 30, 1)
	without := newLoop(t, Options{URL: "redis://cdc:pw@" + r.Addr()})
	without.p.Start(ctx)
	without.troubled(t, kindNoPerm)
	without.stop()
	if n := without.p.Status().Errors[string(kindNoPerm)]; n == 0 || c.DBSize(ctx).Val() != 0 {
		t.Error("something was written without MULTI")
	}
	if err := c.Do(ctx, "ACL", "SETUSER", "cdc", "+multi").Err(); err != nil {
		t.Fatal(err)
	}
	l := start(t, Options{URL: "redis://cdc:pw@" + r.Addr()}, s.stream)
	if err := l.p.SaveMeta(ctx, event.Meta{System: "1"}); err != nil {
		t.Fatal(err)
	}
	if v, err := l.p.ClaimSchema(ctx, &event.Schema{Stream: "orders", Table: "public.orders"}); v != 1 || err != nil {
		t.Errorf("schema version %d, %v", v, err)
	}
	l.play(s, 0, len(s.events))
	l.settle()
	complete(t, c, s)
	l.stop()

	// And these for durability. What is there already is waited for, in vain.
	if err := c.Do(ctx, "ACL", "SETUSER", "cdc", "+wait", "+xgroup|create", "+xgroup|destroy").Err(); err != nil {
		t.Fatal(err)
	}
	l = start(t, Options{URL: "redis://cdc:pw@" + r.Addr(), Durability: Durability{Replicas: 1, Timeout: time.Millisecond}}, s.stream)
	l.play(s, 0, len(s.events))
	l.offer()
	l.troubled(t, kindNoReplicas)
}

// A server that keeps what it acknowledged is killed again and again while
// entries come in.
func TestKill(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"appendonly": "yes", "appendfsync": "always"}})
	s := newScript("orders", 5000, 1)
	l := start(t, Options{URL: r.URL(), BatchEntries: 20}, s.stream)
	killed := make(chan error)
	go func() {
		for round := range uint64(5) {
			harness.Eventually(t, patience, "entries", func() bool { return l.p.Status().Entries > 900*round })
			if err := errors.Join(r.Kill(), r.Start(t.Context())); err != nil {
				killed <- err
				return
			}
		}
		killed <- nil
	}()
	l.play(s, 0, len(s.events))
	l.settle()
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	l.p.Mark(s.end()+1, time.Now())
	l.settle()
	if n := published(t, client(t, r.URL()), s); n != len(s.events) {
		t.Errorf("%d entries, want %d", n, len(s.events))
	}
	if l.p.Status().Errors[string(kindConnection)] == 0 {
		t.Error("no kill was noticed")
	}
}

// A server that loses what it acknowledged ends the publisher.
func TestTailLost(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	s := newScript("orders", 100, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	l.play(s, 0, 50)
	l.settle()
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	durable := l.p.Durable()
	l.play(s, 50, len(s.events))
	l.p.Offer()
	var lost ErrTailLost
	if err := l.fails(); !errors.As(err, &lost) {
		t.Fatal(err)
	}
	if !strings.HasPrefix(lost.Key, "orders:") || lost.Acknowledged.IsZero() || !lost.Found.IsZero() || lost.Others != 2 {
		t.Errorf("%+v", lost)
	}
	mustContain(t, lost, "has lost acknowledged entries", lost.Key, lost.Acknowledged.ID(), "it is gone", "2 more partitions")
	if l.p.Durable() != durable || l.p.Status().State != StateFailed {
		t.Errorf("durable %d, was %d; status %+v", l.p.Durable(), durable, l.p.Status())
	}
	if n := client(t, r.URL()).DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written behind the loss", n)
	}
	if err := l.p.Drain(t.Context()); !isTailLost(err) {
		t.Error(err)
	}
}

// What was there before this process counts as acknowledged too: an idle
// publisher notices that it is gone.
func TestTailLostIdle(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	s := newScript("orders", 100, 1)
	first := start(t, Options{URL: r.URL()}, s.stream)
	first.play(s, 0, 50)
	first.settle()
	first.stop()
	second := start(t, Options{URL: r.URL()}, s.stream)
	if err := errors.Join(r.Kill(), r.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	second.p.Mark(s.end(), time.Now())
	second.p.Offer()
	if err := second.fails(); !isTailLost(err) {
		t.Fatal(err)
	}
}

// A watermark that was lost without any entry is written again.
func TestCommitsLost(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	s := newScript("orders", 20, 1)
	more := newScript("more", 20, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	l.play(s, 0, len(s.events))
	l.settle()
	c.Del(t.Context(), event.CommitsKey("shop"))
	if _, err := l.p.AddStream(t.Context(), more.stream); err != nil { // has the publisher look
		t.Fatal(err)
	}
	e := more.events[0]
	l.p.Append(&e)
	l.settle()
	complete(t, c, s)
}

// A replica that has nothing yet is behind; it has lost nothing.
func TestReplicaIsNoLoss(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	empty := harness.NewRedis(t, harness.RedisOptions{})
	replica := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"replicaof": fmt.Sprintf("127.0.0.1 %d", empty.Port())}})
	proxy := proxyTo(t, r.Addr())
	s := newScript("orders", 100, 1)
	l := start(t, Options{URL: "redis://" + proxy.Addr()}, s.stream)
	l.play(s, 0, 50)
	l.settle()
	proxy.SetTarget(replica.Addr())
	proxy.Cut()
	l.play(s, 50, 70)
	l.offer()
	l.troubled(t, kindReadonly)
	proxy.SetTarget(r.Addr())
	l.play(s, 70, len(s.events))
	l.settle()
	complete(t, client(t, r.URL()), s)
}

// An entry that is not ours, with an ID above ours, must not make ours count as
// duplicates.
func TestForeignEntry(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	ctx := t.Context()
	s := newScript("orders", 100, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	l.play(s, 0, 50)
	l.settle()
	last := c.XRevRangeN(ctx, "orders:1", "+", "-", 1).Val()[0].ID
	id := c.Do(ctx, "XADD", "orders:1", "*", "hello", "world").Val()
	l.play(s, 50, 70)
	l.offer()
	l.troubled(t, kindForeign)
	mustContain(t, errors.New(l.p.Status().Error), "orders:1", "XSETID")

	// A new process does not take it for ours either.
	l2 := newLoop(t, Options{URL: r.URL()})
	soon, cancel := context.WithCancel(ctx)
	added := make(chan error)
	go func() { _, err := l2.p.AddStream(soon, s.stream); added <- err }()
	l2.troubled(t, kindForeign)
	cancel()
	<-added

	c.XDel(ctx, "orders:1", id.(string))
	if err := c.Do(ctx, "XSETID", "orders:1", last).Err(); err != nil {
		t.Fatal(err)
	}
	l.play(s, 70, len(s.events))
	l.settle()
	complete(t, c, s)
}

// Other entries where ours belong: another instance with another mapping.
func TestDiverged(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	ctx := t.Context()
	s := newScript("orders", 100, 1)
	for name, tc := range map[string]struct {
		ids     []event.Position // of entries that are added to every partition
		connect bool             // the publisher finds them when it connects
		want    string
	}{
		"below all of ours": {[]event.Position{{Commit: 1, Ordinal: 1}}, true, "its seq would be 1"},
		"at one of ours":    {[]event.Position{s.events[50].Position}, false, "we count it as"},
		"between ours, while connected": {[]event.Position{s.events[0].Position, {Commit: s.events[0].Position.Commit, Ordinal: 9}}, false,
			"is there with seq 2"},
	} {
		t.Run(name, func(t *testing.T) {
			c.FlushAll(ctx)
			l := start(t, Options{URL: r.URL()}, s.stream)
			l.p.Mark(1, time.Now())
			l.settle() // it is connected
			for _, key := range s.stream.Keys {
				for i, id := range tc.ids {
					c.Do(ctx, "XADD", key, id.ID(), "seq", i+1)
				}
			}
			if tc.connect {
				c.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			}
			l.play(s, 0, len(s.events))
			l.offer()
			err := l.fails()
			var diverged ErrDiverged
			if !errors.As(err, &diverged) || !strings.Contains(err.Error(), tc.want) {
				t.Fatal(err)
			}
			if n := c.XLen(ctx, diverged.Key).Val(); tc.connect && n != 1 {
				t.Errorf("%d entries were published all the same", n-1)
			}
		})
	}
}

// A server that closes idle connections is no trouble.
func TestIdleConnection(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	s := newScript("orders", 30, 1)
	l := newLoop(t, Options{URL: r.URL()})
	l.p.idleAfter = 0
	t.Cleanup(l.stop)
	l.start(t.Context(), s.stream)
	l.play(s, 0, 20)
	l.settle()
	c.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	l.play(s, 20, len(s.events))
	l.settle()
	complete(t, c, s)
	if st := l.p.Status(); len(st.Errors) > 0 || l.log.count("trying again") > 0 {
		t.Errorf("%+v\n%s", st, &l.log.b)
	}
}

// A server that goes away is noticed while there is nothing to send, and found again.
func TestGoneWhileIdle(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	proxy := harness.StartProxy(t, r.Addr())
	s := newScript("orders", 20, 1)
	l := newLoop(t, Options{URL: "redis://" + proxy.Addr()})
	l.p.pingAfter = 10 * time.Millisecond
	t.Cleanup(l.stop)
	l.start(t.Context(), s.stream)
	l.play(s, 0, len(s.events))
	l.settle()
	is := func(state string) func() bool { return func() bool { return l.p.Status().State == state } }
	for range 2 {
		proxy.Refuse(true)
		proxy.Cut()
		harness.Eventually(t, patience, "it is noticed", is(StateRetrying))
		proxy.Refuse(false)
		harness.Eventually(t, patience, "it is found again", is(StateConnected))
	}
	complete(t, client(t, r.URL()), s)
}

// A server that stops answering is given up and found again.
func TestStall(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	proxy := harness.StartProxy(t, r.Addr())
	s := newScript("orders", 100, 1)
	l := start(t, Options{URL: "redis://" + proxy.Addr() + "?read_timeout=50ms"}, s.stream)
	l.play(s, 0, 30)
	l.settle()
	for i, dir := range []harness.Direction{harness.ToServer, harness.ToClient} {
		proxy.Stall(dir)
		l.play(s, 30+20*i, 50+20*i)
		l.offer()
		l.troubled(t, kindTimeout)
		proxy.Resume()
		l.settle()
	}
	l.play(s, 70, len(s.events))
	l.settle()
	complete(t, client(t, r.URL()), s)
}
