package sink

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/walrill/walrill/internal/harness"
)

func proxyTo(t testing.TB, addr string) *harness.Proxy {
	t.Helper()
	proxy, err := harness.NewProxy(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	return proxy
}

// The connection is cut after every single byte of an exchange, in both
// directions: of the batch, its replies, the watermark and its reply.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel() // it mostly waits
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	for _, dir := range []harness.Direction{harness.ToServer, harness.ToClient} {
		t.Run(dir.String(), func(t *testing.T) {
			c.FlushAll(t.Context())
			proxy := proxyTo(t, r.Addr())
			s := newScript("orders", 8000, 1)
			l := start(t, Options{URL: "redis://" + proxy.Addr()}, s.stream)
			next := 0
			batch := func() {
				l.play(s, next, next+3)
				next += 3
				l.settle()
			}
			batch()
			before := proxy.Bytes(dir)
			for range 10 {
				batch()
			}
			length := (proxy.Bytes(dir)-before)/10 + 20
			for n := range length {
				proxy.CutAfter(dir, n)
				batch()
			}
			if cuts := proxy.Cuts(); int64(cuts) < length-40 {
				t.Errorf("%d cuts for %d bytes", cuts, length)
			}
			s.events = s.events[:next]
			if n := published(t, c, s); n != next {
				t.Errorf("%d entries, want %d", n, next)
			}
		})
	}
}

// The connection is cut at bytes of the whole life of a publisher: login,
// reading what is there, publishing.
func TestCutWhileConnecting(t *testing.T) {
	t.Parallel() // it mostly waits
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	proxy := proxyTo(t, r.Addr())
	s := newScript("orders", 6000, 1)
	next := 0
	life := func() {
		l := newLoop(t, Options{URL: "redis://" + proxy.Addr()})
		defer l.stop()
		l.start(t.Context(), s.stream)
		l.play(s, max(0, next-5), next+3)
		next += 3
		l.settle()
	}
	life()
	for _, dir := range []harness.Direction{harness.ToServer, harness.ToClient} {
		before := proxy.Bytes(dir)
		life()
		length := proxy.Bytes(dir) - before
		for n := int64(0); n < length; n += 13 {
			proxy.CutAfter(dir, n)
			life()
		}
	}
	s.events = s.events[:next]
	if n := published(t, c, s); n != next {
		t.Errorf("%d entries, want %d", n, next)
	}
}

// Two publishers that believe to be the only one, over connections that break
// and stall, each at its own place in the same script, restarting at will: at
// every moment each partition is a contiguous prefix with the right seq.
func TestTwoPublishers(t *testing.T) {
	t.Parallel() // it mostly waits
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	proxies := []*harness.Proxy{proxyTo(t, r.Addr()), proxyTo(t, r.Addr())}
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		s := newScript(fmt.Sprintf("orders%d", run), 400, rand.Uint64())
		var loops [2]*loop
		var at [2]int
		begin := func(i int) {
			loops[i] = newLoop(t, Options{URL: "redis://" + proxies[i].Addr() + "?read_timeout=500ms", BatchEntries: 25, Pipeline: s.stream.Name})
			loops[i].start(t.Context(), s.stream)
		}
		begin(0)
		begin(1)
		defer func() { loops[0].stop(); loops[1].stop() }()
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "who")
			l := loops[i]
			switch rapid.SampledFrom([]string{"append", "append", "append", "offer", "offer", "cut", "cut later", "pause", "resume", "settle", "restart"}).Draw(t, "what") {
			case "append":
				for range min(rapid.IntRange(1, 60).Draw(t, "events"), len(s.events)-at[i]) {
					l.take(s, at[i])
					at[i]++
				}
			case "offer":
				l.p.Offer()
			case "cut":
				proxies[i].Cut()
			case "cut later":
				proxies[i].CutAfter(harness.Direction(rapid.IntRange(0, 1).Draw(t, "direction")), rapid.Int64Range(0, 5000).Draw(t, "bytes"))
			case "pause":
				proxies[i].Stall(harness.Direction(rapid.IntRange(0, 1).Draw(t, "direction")))
			case "resume":
				proxies[i].Resume()
			case "settle":
				proxies[i].Resume()
				l.settle()
			case "restart":
				proxies[i].Resume()
				l.stop()
				begin(i)
				// From where Postgres was told: what counted as durable, or earlier.
				at[i] = rapid.IntRange(0, durableIn(s, l.p.Durable())).Draw(t, "from")
			}
			published(t, c, s)
		}
		for i, l := range loops {
			proxies[i].CutNever()
			proxies[i].Resume()
			for ; at[i] < len(s.events); at[i]++ {
				l.take(s, at[i])
			}
			l.settle()
		}
		if n := published(t, c, s); n != len(s.events) {
			t.Fatalf("%d entries, want %d", n, len(s.events))
		}
	})
}

// durableIn is the index of the first event at or above a watermark.
func durableIn(s *script, watermark uint64) int {
	for i, e := range s.events {
		if e.Position.Commit >= watermark {
			return i
		}
	}
	return len(s.events)
}
