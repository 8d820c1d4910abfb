package consumer

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

func TestReaderReportsAGapOnce(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 1)
	a, lost, b, c := made(orders, "1", 10, 1), made(orders, "2", 10, 2), made(orders, "3", 20, 1), made(orders, "4", 30, 1)
	w.publish(a, lost, b, c)
	if err := client.XDel(t.Context(), "orders", lost.Position.ID()).Err(); err != nil {
		t.Fatal(err)
	}
	w.watermark(31)
	o := Options{Client: client, Streams: []string{"orders"}, NoFollow: true}
	gap := "gap in orders: 1 events are missing between seq 1 at 0/A:1 and seq 3 at 0/14:1"
	if diff := cmp.Diff([]string{label(a), gap, label(b), label(c)}, rest(t, open(t, o))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// And behind a start, by what stands in front of it.
	o.From = After(a.Position)
	if diff := cmp.Diff([]string{gap, label(b), label(c)}, rest(t, open(t, o))); diff != "" {
		t.Errorf("after the first (-want +got):\n%s", diff)
	}
	o.From = After(b.Position)
	if diff := cmp.Diff([]string{label(c)}, rest(t, open(t, o))); diff != "" {
		t.Errorf("after the gap (-want +got):\n%s", diff)
	}
}

func TestReaderReportsASeqThatGoesBack(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 1)
	a, b, c := made(orders, "1", 10, 1), made(orders, "2", 20, 1), made(orders, "3", 30, 1)
	w.publish(a, b)
	w.seqs["orders"] = 0
	w.publish(c)
	w.watermark(31)
	r := open(t, Options{Client: client, Streams: []string{"orders"}, NoFollow: true})
	back := "gap in orders: seq goes back from 2 at 0/14:1 to 1 at 0/1E:1"
	if diff := cmp.Diff([]string{label(a), label(b), back, label(c)}, rest(t, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReaderTellsWhatWasTrimmed(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	w.partitions(orders)
	events := manyEvents(20, orders)
	w.publish(events...)
	w.watermark(10_000)
	if err := client.XTrimMaxLen(t.Context(), "orders:0", 1).Err(); err != nil {
		t.Fatal(err)
	}
	var notices []Notice
	r := open(t, Options{Client: client, Streams: []string{"orders"}, NoFollow: true,
		Notify: func(n Notice) { notices = append(notices, n) }})
	var inFirst []event.Event // of orders:0
	want := []string{}
	for _, e := range events {
		if e.Partition == 0 {
			inFirst = append(inFirst, e)
		}
	}
	last := inFirst[len(inFirst)-1]
	for _, e := range events {
		if e.Partition == 1 || e.Position == last.Position {
			want = append(want, label(e))
		}
	}
	if diff := cmp.Diff(want, rest(t, r)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	trimmed := []Notice{Trimmed{Key: "orders:0", First: last.Position, Seq: uint64(len(inFirst))}}
	if diff := cmp.Diff(trimmed, notices); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

func TestReaderPassesWhatIsNotOurs(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 1)
	a, b := made(orders, "1", 10, 1), made(orders, "2", 30, 1)
	w.publish(a)
	if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: "orders", ID: "20-1", Values: []string{"hello", "world"}}).Err(); err != nil {
		t.Fatal(err)
	}
	w.publish(b)
	w.watermark(31)
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	next(t, r)
	if err := nextError[*EntryError](t, r); err.Key != "orders" || !strings.Contains(err.Error(), "20-1") {
		t.Errorf("got %v", err)
	}
	if got := next(t, r); label(got) != label(b) {
		t.Errorf("got %s, want %s", label(got), label(b))
	}
}

func TestReaderDoesNotWaitForWhatNeverComes(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	w.partitions(event.NewStream("orders", 1))
	w.watermark(10)
	if err := client.Set(t.Context(), "orders", "a string", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	for range 2 {
		if _, err := r.Next(within(t)); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Errorf("got error %v", err)
		}
	}
	if err := client.HSet(t.Context(), event.MetaKey(pipeline), event.PartitionsField("orders"), "many").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Client: client, Pipeline: pipeline, Streams: []string{"orders"}}); err == nil || !strings.Contains(err.Error(), "many") {
		t.Errorf("got error %v", err)
	}
	client.Close()
	if _, err := r.Next(within(t)); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("with a closed client: %v", err)
	}
}

// An outage is told once, however long it is, and costs no event.
func TestReaderOutlivesRedis(t *testing.T) {
	noLeaks(t)
	server, client := newRedis(t, map[string]string{"appendonly": "yes", "appendfsync": "always"})
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	w.partitions(orders)
	a, b := made(orders, "1", 10, 1), made(orders, "2", 20, 1)
	w.publish(a)
	w.watermark(11)
	notices := make(chan Notice, 10)
	r := open(t, Options{Client: client, Streams: []string{"orders"}, Notify: func(n Notice) { notices <- n }})
	next(t, r)

	got := make(chan string)
	go func() {
		e, err := r.Next(within(t))
		if err != nil {
			got <- err.Error()
			return
		}
		got <- label(e)
	}()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if n, ok := (<-notices).(Disconnected); !ok || n.Err == nil {
		t.Fatalf("heard %v", n)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, ok := (<-notices).(Reconnected); !ok || n.After <= 0 {
		t.Fatalf("heard %v", n)
	}
	w.publish(b)
	w.watermark(21)
	if g := <-got; g != label(b) {
		t.Fatalf("got %s, want %s", g, label(b))
	}
	if len(notices) > 0 {
		t.Errorf("heard %v too", <-notices)
	}
}

// A Redis that comes back empty is reported once. When the daemon has
// published the tail again, reading goes on, with no event twice.
func TestReaderReportsALoss(t *testing.T) {
	noLeaks(t)
	server, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	w.partitions(orders)
	a, b, c := made(orders, "1", 10, 1), made(orders, "2", 20, 1), made(orders, "1", 30, 1)
	w.publish(a, b)
	w.watermark(21)
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	next(t, r)
	next(t, r)

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if loss := nextError[*LossError](t, r); loss.Reached != 21 || loss.Watermark != 0 {
		t.Errorf("got %v", loss)
	}
	clear(w.seqs)
	w.partitions(orders)
	w.publish(a, b, c)
	w.watermark(31)
	if got := next(t, r); label(got) != label(c) {
		t.Errorf("got %s, want %s", label(got), label(c))
	}
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if loss := nextError[*LossError](t, r); loss.Reached != 31 {
		t.Errorf("the second time: %v", loss)
	}
}

// An entry that comes after its watermark is told once for a run of such
// entries, and handed out.
func TestReaderReportsWhatIsLate(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	w.partitions(orders)
	in := func(partition int, commit uint64) event.Event {
		e := made(orders, "1", commit, 1)
		e.Partition = partition
		return e
	}
	first := in(0, 20)
	w.publish(first)
	w.watermark(50)
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	next(t, r)
	late, later, onTime := in(1, 10), in(1, 15), in(1, 60)
	w.publish(late, later, onTime)
	w.watermark(61)
	if err := nextError[*LateError](t, r); err.Position != late.Position || err.Watermark != 50 {
		t.Errorf("got %v", err)
	}
	got := labels([]event.Event{next(t, r), next(t, r), next(t, r)})
	if diff := cmp.Diff(labels([]event.Event{late, later, onTime}), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A Redis that accepts what is asked and never answers is an outage too.
func TestReaderOutlivesAStall(t *testing.T) {
	noLeaks(t)
	server, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	w.partitions(orders)
	notices := make(chan Notice, 10)
	r := open(t, Options{Client: client, Streams: []string{"orders"}, Notify: func(n Notice) { notices <- n }})
	got := make(chan error)
	go func() {
		_, err := r.Next(within(t))
		got <- err
	}()
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(server.Pid(), s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	if n, ok := (<-notices).(Disconnected); !ok {
		t.Errorf("heard %v", n)
	}
	signal(syscall.SIGCONT)
	if n, ok := (<-notices).(Reconnected); !ok {
		t.Errorf("heard %v", n)
	}
	w.publish(made(orders, "1", 10, 1))
	w.watermark(11)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// The rights in this test are those that the package comment names.
func TestReaderNeedsFewRights(t *testing.T) {
	noLeaks(t)
	server, client := newRedis(t, map[string]string{"user": "default on nopass ~* &* +@all\n" +
		"tail on >secret resetkeys %R~orders* %R~walrill:{shop}:* -@all +xread +xrevrange +hmget +exists"})
	w := newWriter(t, client)
	orders := event.NewStream("orders", 2)
	events := manyEvents(10, orders)
	w.publish(events...)
	w.watermark(10_000)
	tail := newClient(t, "redis://tail:secret@"+server.Addr())
	for _, from := range []From{Beginning(), Last(10)} {
		r := open(t, Options{Client: tail, Streams: []string{"orders"}, From: from, NoFollow: true})
		if diff := cmp.Diff(labels(events), rest(t, r)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if err := WaitFor(within(t), tail, pipeline, 10_000); err != nil {
		t.Error(err)
	}
	_, err := Open(t.Context(), Options{Client: tail, Pipeline: pipeline, Streams: []string{"secrets"}})
	if err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("another stream: %v", err)
	}
}
