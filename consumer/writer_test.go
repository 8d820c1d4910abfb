package consumer

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

const pipeline = "shop"

// someTime is the commit time of every event here.
var someTime = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)

func TestMain(m *testing.M) { harness.Main(m) }

// noLeaks fails the test when a goroutine outlives it and the cleanups that
// are registered after this call.
func noLeaks(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t, goleak.IgnoreAnyFunction(harness.LeakIgnore)) })
}

// newRedis starts a Redis and makes a client for it.
func newRedis(t testing.TB, config map[string]string) (*harness.Redis, redis.UniversalClient) {
	t.Helper()
	server := harness.NewRedis(t, harness.RedisOptions{Config: config})
	return server, newClient(t, server.URL())
}

func newClient(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := NewClient(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// writer publishes as the daemon does, with the daemon's own encoder and
// nothing else of it.
type writer struct {
	t      testing.TB
	client redis.UniversalClient
	seqs   map[string]uint64
}

func newWriter(t testing.TB, client redis.UniversalClient) *writer {
	return &writer{t: t, client: client, seqs: map[string]uint64{}}
}

// made is an event of a key at commit-ordinal.
func made(s *event.Stream, key string, commit, ordinal uint64) event.Event {
	return event.Event{
		Stream: s, Partition: s.Partition([]byte(key)), Position: event.Position{Commit: commit, Ordinal: ordinal},
		Type: s.Name + ".updated", Key: []byte(key), Op: 'u', Table: "public." + s.Name,
		Time: someTime, Tx: 7, Data: fmt.Appendf(nil, `{"id": %q}`, key),
	}
}

// publish gives each event the next seq of its partition and adds it.
func (w *writer) publish(events ...event.Event) {
	w.t.Helper()
	_, err := w.client.Pipelined(w.t.Context(), func(pipe redis.Pipeliner) error {
		for _, e := range events {
			key := e.Stream.Keys[e.Partition]
			w.seqs[key]++
			e.Seq = w.seqs[key]
			pipe.Do(w.t.Context(), append([]any{"XADD"}, arguments(w.t, &e)...)...)
		}
		return nil
	})
	if err != nil {
		w.t.Fatalf("publish: %v", err)
	}
}

// arguments takes an encoded entry apart again, for a client that encodes itself.
func arguments(t testing.TB, e *event.Event) []any {
	encoded, n := event.AppendEntry(nil, e)
	rd := bufio.NewReader(strings.NewReader(string(encoded)))
	args := make([]any, n)
	for i := range args {
		var size int
		if _, err := fmt.Fscanf(rd, "$%d\r\n", &size); err != nil {
			t.Fatalf("argument %d of %q: %v", i, encoded, err)
		}
		text := make([]byte, size+2)
		for at := 0; at < len(text); {
			m, err := rd.Read(text[at:])
			if err != nil {
				t.Fatalf("argument %d of %q: %v", i, encoded, err)
			}
			at += m
		}
		args[i] = string(text[:size])
	}
	return args
}

// partitions says how many partitions a stream has, as the daemon does.
func (w *writer) partitions(s *event.Stream) {
	w.t.Helper()
	err := w.client.HSet(w.t.Context(), event.MetaKey(pipeline), event.PartitionsField(s.Name), len(s.Keys)).Err()
	if err != nil {
		w.t.Fatal(err)
	}
}

// watermark says that everything below commit has been published.
func (w *writer) watermark(commit uint64) {
	w.t.Helper()
	err := w.client.XAdd(w.t.Context(), &redis.XAddArgs{
		Stream: event.CommitsKey(pipeline), ID: event.Position{Commit: commit}.ID(),
		Values: []string{"time", someTime.Format(event.TimeFormat), "events", "1"},
	}).Err()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open opens a reader of some streams.
func open(t testing.TB, o Options) *Reader {
	t.Helper()
	o.Pipeline = pipeline
	r, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// within is a context that ends what ought to have ended long before.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// freePort is a TCP port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
