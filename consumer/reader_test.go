package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/event"
)

// label names an event for comparison.
func label(e event.Event) string {
	return fmt.Sprintf("%d-%d %s %s", e.Position.Commit, e.Position.Ordinal, e.Stream.Keys[e.Partition], e.Key)
}

func labels(events []event.Event) []string {
	var l []string
	for _, e := range events {
		l = append(l, label(e))
	}
	return l
}

// rest reads until the end, for a reader that does not follow. An error about
// the data is in its place among the events.
func rest(t testing.TB, r *Reader) []string {
	t.Helper()
	var got []string
	for {
		e, err := r.Next(within(t))
		switch {
		case err == io.EOF:
			return got
		case err != nil && len(got) > 100_000:
			t.Fatalf("it has no end: %v", err)
		case err != nil:
			got = append(got, err.Error())
		default:
			got = append(got, label(e))
		}
	}
}

func next(t testing.TB, r *Reader) event.Event {
	t.Helper()
	e, err := r.Next(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// nextError is the next call's error, which must be of type E.
func nextError[E error](t testing.TB, r *Reader) E {
	t.Helper()
	e, err := r.Next(within(t))
	want, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("got event %v and error %v, want a %T", e.Position, err, want)
	}
	return want
}

// manyEvents are transactions over the streams, in commit order.
func manyEvents(n int, streams ...*event.Stream) []event.Event {
	var events []event.Event
	for i := range n {
		s := streams[i%len(streams)]
		events = append(events, made(s, fmt.Sprint(i*7919%1000), uint64(1000+i/3*10), uint64(1+i%3)))
	}
	return events
}

func TestReaderMergesStreamsInCommitOrder(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders, items := event.NewStream("orders", 5), event.NewStream("items", 1)
	w.partitions(orders)
	w.partitions(items)
	events := manyEvents(9000, orders, items, orders)
	w.publish(events...)
	w.watermark(1_000_000)

	r := open(t, Options{Client: client, Streams: []string{"orders", "items"}, NoFollow: true})
	for i, want := range events {
		got := next(t, r)
		want.Seq = got.Seq
		if got.Stream.Name != want.Stream.Name || label(got) != label(want) || string(got.Data) != string(want.Data) {
			t.Fatalf("event %d is %s, want %s", i, label(got), label(want))
		}
		for _, l := range r.merge.lanes {
			if len(l.queue) > maxCount {
				t.Fatalf("%s has %d entries in memory", l.key, len(l.queue))
			}
		}
	}
	if _, err := r.Next(within(t)); err != io.EOF || r.Ready() {
		t.Fatalf("got error %v, ready %v; want %v", err, r.Ready(), io.EOF)
	}
	if r.Watermark() != 1_000_000 {
		t.Errorf("watermark %d", r.Watermark())
	}
}

// A Reader of some partitions reads no others, and one that comes later and is refused ends it before anything behind is handed out.
func TestReaderOfSomePartitions(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders, items := event.NewStream("orders", 4), event.NewStream("items", 2)
	w.partitions(orders)
	events := manyEvents(300, orders)
	w.publish(events...)
	w.watermark(1_000_000)
	refusal := errors.New("not that one")
	r := open(t, Options{Client: client, Streams: []string{"orders", "items"}, Choose: func(key string) (bool, error) {
		if key == items.Keys[1] {
			return false, refusal
		}
		return key == orders.Keys[1] || key == orders.Keys[2], nil
	}})
	for _, e := range events {
		if e.Partition != 1 && e.Partition != 2 {
			continue
		}
		if got := next(t, r); label(got) != label(e) {
			t.Fatalf("got %s, want %s", label(got), label(e))
		}
	}
	w.partitions(items)
	w.publish(made(orders, "1", 1_000_001, 1), made(items, "1", 1_000_002, 1))
	w.watermark(2_000_000)
	if e, err := r.Next(within(t)); !errors.Is(err, refusal) {
		t.Fatalf("got event %v and error %v, want %v", e.Position, err, refusal)
	}
	if r.Watermark() != 1_000_000 {
		t.Errorf("the watermark is %d", r.Watermark())
	}
}

func TestReaderStopsAtTheWatermark(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	w.partitions(orders)
	a, b, c := made(orders, "1", 100, 1), made(orders, "2", 100, 2), made(orders, "1", 110, 1)
	w.publish(a, b, c)
	w.watermark(110)

	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	if got, want := labels([]event.Event{next(t, r), next(t, r)}), labels([]event.Event{a, b}); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if e, err := r.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got event %v and error %v above the watermark", e.Position, err)
	}
	w.watermark(111)
	if got := next(t, r); label(got) != label(c) {
		t.Fatalf("got %s, want %s", label(got), label(c))
	}
}

func TestReaderWakesForEachWatermark(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	r := open(t, Options{Client: client, Streams: []string{"orders"}}) // before anything exists
	w := newWriter(t, client)
	orders := event.NewStream("orders", 3)
	got := make(chan event.Event)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(within(t))
	go func() {
		for {
			e, err := r.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			got <- e
		}
	}()
	for i := range uint64(40) {
		e := made(orders, fmt.Sprint(i), 100+10*i, 1)
		w.publish(e) // without a word in meta: partitions are found as they appear
		w.watermark(105 + 10*i)
		select {
		case g := <-got:
			if label(g) != label(e) {
				t.Fatalf("got %s, want %s", label(g), label(e))
			}
		case err := <-failed:
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestReaderCatchesUpOverManyWatermarks(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 1)
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	for i := range uint64(3 * pollCount) {
		w.watermark(10 + i)
	}
	e := made(orders, "1", 1000, 1)
	w.publish(e)
	w.watermark(1001)
	if got := next(t, r); label(got) != label(e) || r.Watermark() != 1001 {
		t.Errorf("got %s up to %d", label(got), r.Watermark())
	}
}

func TestReaderStartsWhereItIsTold(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 4)
	w.partitions(orders)
	events := manyEvents(300, orders)
	above := made(orders, "9", 5000, 1)
	w.publish(append(slices.Clone(events), above)...)
	w.watermark(5000)
	w2 := Options{Client: client, Streams: []string{"orders"}, NoFollow: true}

	tests := map[string]struct {
		from From
		want []event.Event
	}{
		"beginning":        {Beginning(), events},
		"now":              {Now(), nil},
		"after a position": {After(events[100].Position), events[101:]},
		"after the last":   {After(events[299].Position), nil},
		"after a commit":   {After(event.Position{Commit: 1000, Ordinal: 99}), events[3:]},
		"last none":        {Last(0), nil},
		"last 1":           {Last(1), events[299:]},
		"last 70":          {Last(70), events[230:]},
		"last, all":        {Last(300), events},
		"last, too many":   {Last(1 << 30), events},
	}
	for name, test := range tests {
		o := w2
		o.From = test.from
		if diff := cmp.Diff(labels(test.want), rest(t, open(t, o))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}

	now := open(t, Options{Client: client, Streams: []string{"orders"}, From: Now()})
	w.watermark(5001)
	if got := next(t, now); label(got) != label(above) {
		t.Errorf("now goes on with %s, want %s", label(got), label(above))
	}
}

func TestOpenRefusesAPositionThatWasNotReached(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	newWriter(t, client).watermark(100)
	_, err := Open(t.Context(), Options{Client: client, Pipeline: pipeline, Streams: []string{"orders"},
		From: After(event.Position{Commit: 100, Ordinal: 1})})
	if loss, ok := errors.AsType[*LossError](err); !ok || loss.Reached != 100 || loss.Watermark != 100 {
		t.Errorf("got error %v", err)
	}
}

func TestOpenFailsAtOnce(t *testing.T) {
	noLeaks(t)
	server, _ := newRedis(t, map[string]string{"requirepass": "secret"})
	options := func(url string) Options {
		return Options{Client: newClient(t, url), Pipeline: pipeline, Streams: []string{"orders"}}
	}
	if _, err := Open(t.Context(), options(server.URL())); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if _, err := Open(t.Context(), options(server.SocketURL())); err != nil {
		t.Errorf("over the socket: %v", err)
	}
	if _, err := Open(t.Context(), options("redis://"+server.Addr())); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without the password: %v", err)
	}
	if _, err := Open(t.Context(), options("redis://127.0.0.1:"+freePort(t))); err == nil {
		t.Error("nobody listens, and no error")
	}
	if _, err := Open(t.Context(), Options{Client: newClient(t, server.URL()), Pipeline: pipeline}); err == nil {
		t.Error("no stream, and no error")
	}
}

func TestReaderFindsPartitionsByTheirKeys(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	sparse := event.NewStream("orders", 100)
	var events []event.Event
	for i := range uint64(5) { // five of a hundred partitions, the first not among them
		e := made(sparse, fmt.Sprint(i), 10+i, 1)
		e.Partition = int(7 + 20*i)
		events = append(events, e)
	}
	w.publish(events...)
	single := made(event.NewStream("items", 1), "1", 100, 1)
	w.publish(single)
	w.watermark(101)
	r := open(t, Options{Client: client, Streams: []string{"orders", "items", "nothing"}, NoFollow: true})
	if diff := cmp.Diff(labels(append(events, single)), rest(t, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReaderTakesMorePartitionsWhileItRuns(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	before, after := event.NewStream("orders", 1), event.NewStream("orders", 4)
	w.partitions(before)
	a := made(before, "1", 10, 1)
	w.publish(a)
	w.watermark(11)
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	got := []event.Event{next(t, r)}
	w.partitions(after)
	b, c := made(after, "1", 20, 1), made(after, "2", 20, 2)
	w.publish(b, c)
	w.watermark(21)
	got = append(got, next(t, r), next(t, r))
	if diff := cmp.Diff(labels([]event.Event{a, b, c}), labels(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReaderInACluster(t *testing.T) {
	noLeaks(t)
	client := newCluster(t, 3)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 16)
	events := manyEvents(2000, orders)
	w.publish(events...) // no word in meta: found by probing over all nodes
	w.watermark(1_000_000)
	for name, test := range map[string]struct {
		from From
		want []event.Event
	}{"beginning": {Beginning(), events}, "last 100": {Last(100), events[1900:]}} {
		r := open(t, Options{Client: client, Streams: []string{"orders"}, From: test.from, NoFollow: true})
		if diff := cmp.Diff(labels(test.want), rest(t, r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	_, client := newRedis(b, nil)
	w := newWriter(b, client)
	orders := event.NewStream("orders", 8)
	w.partitions(orders)
	for i := uint64(1); i <= uint64(b.N); {
		var batch []event.Event
		for range 1000 {
			batch = append(batch, made(orders, fmt.Sprint(i), i, 1))
			i++
		}
		w.publish(batch...)
	}
	w.watermark(1 << 50)
	b.ReportAllocs()
	b.ResetTimer()
	r := open(b, Options{Client: client, Streams: []string{"orders"}})
	for range b.N {
		next(b, r)
	}
}

// BenchmarkWake is the time from writing an event and its watermark to having it.
func BenchmarkWake(b *testing.B) {
	_, client := newRedis(b, nil)
	w := newWriter(b, client)
	orders := event.NewStream("orders", 8)
	w.partitions(orders)
	r := open(b, Options{Client: client, Streams: []string{"orders"}})
	got := make(chan error)
	go func() {
		for range b.N {
			_, err := r.Next(b.Context())
			got <- err
		}
	}()
	for i := range uint64(b.N) {
		w.publish(made(orders, fmt.Sprint(i), 100+10*i, 1))
		w.watermark(105 + 10*i)
		if err := <-got; err != nil {
			b.Fatal(err)
		}
	}
}
