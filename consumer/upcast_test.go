package consumer

import (
	"errors"
	"strconv"
	"testing"

	"github.com/walrill/walrill/event"
)

func TestUpcaster(t *testing.T) {
	broken := errors.New("no such value")
	step := func(from int) func(*event.Event) error {
		return func(e *event.Event) error {
			if string(e.Key) == "broken" && from == 2 {
				return broken
			}
			e.Data, e.Schema = []byte(string(e.Data)+strconv.Itoa(from)), from+1
			return nil
		}
	}
	u := NewUpcaster([]event.Upcast{
		{Stream: "orders", Type: "order.paid", Version: 4, Steps: map[int]func(*event.Event) error{2: step(2), 3: step(3)}},
		{Stream: "others", Type: "order.paid", Version: 1},
	})
	of := func(stream, typ, key string, schema int) event.Event {
		return event.Event{Stream: event.NewStream(stream, 1), Type: typ, Key: []byte(key), Schema: schema, Data: []byte("x"), Position: event.Position{Commit: 16, Ordinal: 2}}
	}
	for _, c := range []struct {
		e    event.Event
		want string // data and schema
		have int    // of a VersionError
	}{
		{e: of("orders", "order.paid", "1", 2), want: "x23 4"},
		{e: of("orders", "order.paid", "1", 3), want: "x3 4"},
		{e: of("orders", "order.paid", "1", 4), want: "x 4"},
		{e: of("orders", "order.sent", "1", 7), want: "x 7"}, // the mapping gives it no version
		{e: of("others", "order.paid", "1", 1), want: "x 1"},
		{e: of("orders", "order.paid", "1", 1), want: "x 1", have: 1},
		{e: of("orders", "order.paid", "1", 5), want: "x 5", have: 5},
		{e: of("orders", "order.paid", "1", 0), want: "x 0", have: -1},
		{e: of("others", "order.paid", "1", 2), want: "x 2", have: 2},
	} {
		e := c.e
		err := u.Event(&e)
		var version *VersionError
		if got := string(e.Data) + " " + strconv.Itoa(e.Schema); got != c.want {
			t.Errorf("%s/%s %d: %s, want %s", e.Stream.Name, e.Type, c.e.Schema, got, c.want)
		}
		if (err != nil) != (c.have != 0) || err != nil && (!errors.As(err, &version) || version.Version != max(c.have, 0) || version.Stream != e.Stream.Name || version.Position != e.Position) {
			t.Errorf("%s/%s %d: %v", e.Stream.Name, e.Type, c.e.Schema, err)
		}
	}
	// A step that fails in the middle leaves the event as it was published, and says what it is.
	e := of("orders", "order.paid", "broken", 2)
	err := u.Event(&e)
	var failed *UpcastError
	if !errors.As(err, &failed) || !errors.Is(err, broken) || failed.Version != 2 || failed.Key != "broken" {
		t.Errorf("%v", err)
	}
	if string(e.Data) != "x" || e.Schema != 2 {
		t.Errorf("an event that a step failed on has changed: %s %d", e.Data, e.Schema)
	}
}
