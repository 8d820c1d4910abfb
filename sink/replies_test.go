package sink

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// Whatever a server replies in the middle of a batch, the batch is retried
// until it is through, and the reason is known.
func TestReplies(t *testing.T) {
	noLeaks(t)
	is := func(args []string, name string) bool { return args[0] == name }
	isEntry := func(args []string) bool {
		return is(args, "XADD") && strings.HasPrefix(args[1], "orders") && args[3] != "0-0"
	}
	// nth answers the nth entry, counted from 1, and no other.
	nth := func(n int, reply string) func([]string, bool) string {
		seen := 0
		return func(args []string, queued bool) string {
			if isEntry(args) && queued {
				if seen++; seen == n {
					return reply
				}
			}
			return ""
		}
	}
	on := func(name, reply string) func([]string, bool) string {
		return func(args []string, _ bool) string {
			if is(args, name) {
				return reply
			}
			return ""
		}
	}
	tests := map[string]struct {
		intercept func(args []string, queued bool) string
		kind      kind
	}{
		"oom at the third of a transaction": {nth(3, "-OOM command not allowed when used memory > 'maxmemory'.\r\n"), kindOOM},
		"oom at the last":                   {nth(20, "-OOM command not allowed when used memory > 'maxmemory'.\r\n"), kindOOM},
		"moved":                             {nth(1, "-MOVED 1234 127.0.0.1:7001\r\n"), kindMoved},
		"ask":                               {nth(2, "-ASK 1234 127.0.0.1:7001\r\n"), kindMoved},
		"tryagain":                          {nth(2, "-TRYAGAIN Multiple keys request during rehashing of slot\r\n"), kindMoved},
		"clusterdown":                       {nth(1, "-CLUSTERDOWN Hash slot not served\r\n"), kindClusterDown},
		"busy":                              {nth(1, "-BUSY Redis is busy running a script.\r\n"), kindLoading},
		"something new":                     {nth(1, "-WHATEVER it may be\r\n"), kindOther},
		"abort without a word before":       {on("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"), kindOther},
		"abort with its reason":             {on("EXEC", "-EXECABORT Transaction discarded because of: MISCONF Redis is configured to save RDB snapshots\r\n"), kindMisconf},
		"a watched key":                     {on("EXEC", "*-1\r\n"), kindOther},
		"too few results":                   {on("EXEC", "*2\r\n$3\r\n1-1\r\n$3\r\n1-2\r\n"), kindOther},
		"no RESP":                           {nth(4, "HTTP/1.1 400 Bad Request\r\n\r\n"), kindOther},
		"closed at once":                    {nth(5, "close"), kindConnection},
		"loading":                           {on("XINFO", "-LOADING Redis is loading the dataset in memory\r\n"), kindLoading},
		"a replica without its master":      {on("XINFO", "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n"), kindReadonly},
		"too many clients":                  {on("CLIENT", "-ERR max number of clients reached\r\n"), ""},
		"no login":                          {on("MULTI", "-NOAUTH Authentication required.\r\n"), kindNoAuth},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFakeRedis(t)
			s := newScript("orders", 60, 1)
			l := start(t, Options{URL: f.url(), BatchEntries: 20}, s.stream)
			l.play(s, 0, 15)
			l.settle()
			f.behave(tc.intercept)
			f.disconnect() // so that what comes with a new connection is met too
			for i := 15; i < 40; i++ {
				l.take(s, i)
			}
			l.offer()
			harness.Eventually(t, patience, "an error of kind "+string(tc.kind), func() bool {
				return tc.kind == "" || l.p.Status().Errors[string(tc.kind)] > 0
			})
			f.behave(nil)
			l.play(s, 40, len(s.events))
			l.settle()
			f.holds(t, s)
		})
	}
}

// One stream's entries are refused as duplicates and another's with an error, in
// one transaction: the one must not hide the other.
func TestDuplicatesBesideAnError(t *testing.T) {
	noLeaks(t)
	f := newFakeRedis(t)
	s := newScript("orders", 40, 1)
	l := start(t, Options{URL: f.url()}, s.stream)
	another := start(t, Options{URL: f.url()}, s.stream)
	another.play(s, 0, 20)
	another.settle()
	transactions := 0
	f.behave(func(args []string, queued bool) string {
		if args[0] == "EXEC" {
			transactions++
		}
		if args[0] == "XADD" && args[1] == "orders:1" && !queued && transactions == 1 {
			return "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
		}
		return ""
	})
	l.play(s, 0, len(s.events))
	l.settle()
	f.holds(t, s)
}

// A transaction in which one entry fails and a later one of the same stream is
// added has made a hole. No server does that; if one did, it must be loud.
func TestHole(t *testing.T) {
	noLeaks(t)
	f := newFakeRedis(t)
	s := newScript("orders", 20, 1)
	l := start(t, Options{URL: f.url()}, s.stream)
	seen := 0
	f.behave(func(args []string, queued bool) string {
		if args[0] == "XADD" && args[1] == "orders:0" && !queued && args[3] != "0-0" {
			if seen++; seen == 2 {
				return "-ERR Elements are too large to be stored\r\n"
			}
		}
		return ""
	})
	l.play(s, 0, len(s.events))
	l.offer()
	var diverged ErrDiverged
	if err := l.fails(); !errors.As(err, &diverged) || diverged.Key != "orders:0" {
		t.Fatal(err)
	}
	mustContain(t, l.p.Err(), "added though the one before it was refused")
}

// WAIT counts, is repeated alone, and is preceded by a write of its own
// connection when what it is about was written over another.
func TestWait(t *testing.T) {
	noLeaks(t)
	f := newFakeRedis(t)
	s := newScript("orders", 60, 1)
	var replicas = "1"
	wait := func(args []string, _ bool) string {
		if args[0] == "WAIT" {
			return ":" + replicas + "\r\n"
		}
		return ""
	}
	f.behave(wait)
	l := start(t, Options{URL: f.url(), Durability: Durability{Replicas: 2, Timeout: 10 * time.Millisecond}}, s.stream)
	l.play(s, 0, 30)
	l.offer()
	l.troubled(t, kindNoReplicas)
	mustContain(t, errors.New(l.p.Status().Error), "1 of 2 replicas")
	harness.Eventually(t, patience, "WAIT again", func() bool { return f.received("WAIT 2 10") > 3 })
	if n := f.received("EXEC"); l.p.Durable() != 0 || n > 5 {
		t.Errorf("durable %d; %d transactions", l.p.Durable(), n)
	}
	if n := f.received("XGROUP"); n != 0 {
		t.Errorf("%d writes only to be waited for", n)
	}
	// The connection breaks before the replicas have answered. The entries are
	// there then, and a WAIT on a new connection alone would be satisfied at once.
	f.behave(func(args []string, queued bool) string {
		if args[0] == "WAIT" {
			return "close"
		}
		return ""
	})
	l.troubled(t, kindConnection)
	f.mu.Lock()
	replicas, f.intercept = "2", wait
	f.mu.Unlock()
	l.play(s, 30, len(s.events))
	l.settle()
	f.holds(t, s)
	if n := f.received("XGROUP CREATE orders"); n == 0 {
		t.Error("WAIT was not preceded by a write")
	}
	if st := l.p.Status(); st.Durable != s.end() || st.State != StateConnected {
		t.Errorf("%+v", st)
	}
}

// What an earlier process wrote, and this one skips, is waited for as well.
func TestWaitForWhatWasThere(t *testing.T) {
	noLeaks(t)
	f := newFakeRedis(t)
	s := newScript("orders", 30, 1)
	first := start(t, Options{URL: f.url()}, s.stream)
	first.play(s, 0, len(s.events))
	first.settle()
	first.stop()
	second := newLoop(t, Options{URL: f.url(), Durability: Durability{Replicas: 1, Timeout: time.Millisecond}})
	t.Cleanup(second.stop)
	f.behave(func(args []string, _ bool) string {
		if args[0] == "WAIT" {
			return ":0\r\n"
		}
		return ""
	})
	second.start(t.Context(), s.stream)
	second.play(s, 0, len(s.events))
	second.offer()
	second.troubled(t, kindNoReplicas)
	if second.p.Durable() != 0 || f.received("XADD walrill:{shop}:commits MAXLEN") != 1 { // the first one's
		t.Error("it counts as durable")
	}
	f.behave(func(args []string, _ bool) string {
		if args[0] == "WAIT" {
			return ":1\r\n"
		}
		return ""
	})
	second.settle()
	if second.p.Durable() != s.end() {
		t.Errorf("durable %d", second.p.Durable())
	}
}

func TestFsync(t *testing.T) {
	noLeaks(t)
	f := newFakeRedis(t)
	s := newScript("orders", 30, 1)
	reply := "*2\r\n:0\r\n:1\r\n"
	f.behave(func(args []string, _ bool) string {
		if args[0] == "WAITAOF" {
			return reply
		}
		return ""
	})
	l := start(t, Options{URL: f.url(), Durability: Durability{Replicas: 1, Fsync: true, Timeout: 20 * time.Millisecond}}, s.stream)
	l.play(s, 0, len(s.events))
	l.offer()
	l.troubled(t, kindNoReplicas)
	mustContain(t, errors.New(l.p.Status().Error), "0 of 1 server")
	f.mu.Lock()
	reply = "*2\r\n:1\r\n:1\r\n"
	f.mu.Unlock()
	l.settle()
	f.holds(t, s)
	if f.received("WAITAOF 1 1 20") == 0 {
		t.Error("no WAITAOF 1 1 20")
	}

	r := harness.NewRedis(t, harness.RedisOptions{})
	old := newLoop(t, Options{URL: r.URL(), Durability: Durability{Fsync: true}})
	_, _, err := old.p.Connect(t.Context())
	mustContain(t, err, "fsync", "7.2", "7.0.")
	var never interface{ Permanent() bool }
	if !errors.As(err, &never) || !never.Permanent() {
		t.Errorf("%v is not permanent", err)
	}
}

// A stream that this process cannot continue is an error at once.
func TestAddStreamRefused(t *testing.T) {
	noLeaks(t)
	for name, tc := range map[string]struct{ reply, want string }{
		"an old server and a stream without entries": {"*4\r\n" + bulks("last-generated-id", "7-1", "last-entry") + "$-1\r\n", "the next seq is unknown"},
		"a later epoch": {"*4\r\n" + bulks("last-generated-id", event.Position{Commit: event.Clock(3, 7), Ordinal: 1}.ID(), "last-entry") +
			fakeEntry{event.Position{Commit: event.Clock(3, 7), Ordinal: 1}, []string{"seq", "1"}}.reply(), "epoch 3"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRedis(t)
			f.behave(func(args []string, _ bool) string {
				if args[0] == "XINFO" {
					return tc.reply
				}
				return ""
			})
			l := newLoop(t, Options{URL: f.url()})
			_, err := l.p.AddStream(context.Background(), event.NewStream("orders", 1))
			mustContain(t, err, "add stream orders", tc.want)
			var never interface{ Permanent() bool }
			if !errors.As(err, &never) {
				t.Errorf("%v is not permanent", err)
			}
		})
	}
}
