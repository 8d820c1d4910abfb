package consumer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/event"
)

// Who follows the watermark hears of entries that were trimmed with none behind them: at once at first, and later also while
// no watermark comes.
func TestStepSeesATrimmedTail(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	orders := event.NewStream("orders", 1)
	a, b := made(orders, "1", 10, 1), made(orders, "2", 20, 1)
	w.publish(a)
	w.watermark(11)
	r := open(t, Options{Client: client, Streams: []string{"orders"}})
	for _, want := range []bool{true, false} {
		if _, ok, err := r.Step(t.Context()); ok != want || err != nil {
			t.Fatalf("%t, %v; want %t", ok, err, want)
		}
	}
	w.publish(b)
	if err := client.XTrimMaxLen(t.Context(), "orders", 0).Err(); err != nil {
		t.Fatal(err)
	}
	w.watermark(21)
	var trimmed *TrimmedError
	deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		e, ok, err := r.Step(deadline)
		if errors.As(err, &trimmed) {
			break
		}
		if ok || err != nil {
			t.Fatalf("%v, %t, %v", e.Position, ok, err)
		}
	}
	if want := "orders had an entry at 0/14:1, which was trimmed before it was read"; trimmed.Error() != want {
		t.Errorf("%v; want %s", trimmed, want)
	}
	if _, ok, err := open(t, Options{Client: client, Streams: []string{"orders"}}).Step(t.Context()); ok || !errors.As(err, &trimmed) {
		t.Errorf("from the beginning: %t, %v", ok, err)
	}
	if _, ok, err := open(t, Options{Client: client, Streams: []string{"orders"}, From: After(b.Position)}).Step(t.Context()); ok || err != nil {
		t.Errorf("behind it: %t, %v", ok, err)
	}
}

// Where reading begins, each partition says how many events it has had before, as far as anything of it is left to tell.
func TestRanks(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w := newWriter(t, client)
	stream := event.NewStream("s", 5)
	at := func(partition int, commit uint64) event.Event {
		e := made(stream, "k", commit, uint64(partition+1))
		e.Partition = partition
		return e
	}
	for commit := uint64(10); commit < 14; commit++ { // partition 0 has three before and one behind, 1 is trimmed in part, 2 to nothing, 3 begins behind, 4 is never written
		for p := range 3 {
			w.publish(at(p, commit))
		}
	}
	w.publish(at(3, 14))
	for key, left := range map[string]int64{"s:1": 1, "s:2": 0} {
		if err := client.XTrimMaxLen(t.Context(), key, left).Err(); err != nil {
			t.Fatal(err)
		}
	}
	w.watermark(15)
	w.partitions(stream)
	for _, c := range []struct {
		from From
		want map[string]uint64
	}{
		{After(event.Position{Commit: 12, Ordinal: 9}), map[string]uint64{"s:0": 3, "s:1": 3, "s:2": 4, "s:3": 0, "s:4": 0}},
		{Beginning(), map[string]uint64{"s:0": 0, "s:1": 0, "s:2": 0, "s:3": 0, "s:4": 0}},
	} {
		ranks, err := open(t, Options{Client: client, Streams: []string{"s"}, From: c.from}).Ranks(t.Context())
		if diff := cmp.Diff(c.want, ranks); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
}
