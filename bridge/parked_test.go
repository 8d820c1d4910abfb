package bridge

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/event"
)

// blockedMapper keeps what it is given.
type blockedMapper struct {
	fakeMapper
	blocked *event.Blocked
}

func (m blockedMapper) SetBlocked(b event.Blocked) { *m.blocked = b }

func entry(commit, ordinal uint64, kind, key, upTo string) event.Parked {
	return event.Parked{Position: event.Position{Commit: commit, Ordinal: ordinal}, Kind: kind, Stream: "s", Key: key, UpTo: upTo}
}

// Keys are blocked as they were where streaming goes on: what is parked or resolved behind that place comes again. What
// was resolved before everything that Postgres can repeat is forgotten, but for the last entry.
func TestLoadParked(t *testing.T) {
	entries := []event.Parked{
		entry(10, 1, event.ParkedChange, "old", ""),
		entry(20, 1, event.ParkedDropped, "old", "10-1"),
		entry(30, 1, event.ParkedChange, "waits", ""),
		entry(40, 1, event.ParkedFailed, "waits", ""),
		entry(50, 1, event.ParkedChange, "released later", ""),
		entry(90, 1, event.ParkedChange, "resolved lately", ""),
		entry(120, 1, event.ParkedReleased, "resolved lately", "90-1"),
		entry(300, 1, event.ParkedReleased, "released later", "50-1"),
		entry(310, 1, event.ParkedChange, "comes again", ""),
	}
	var gone []event.Position
	o := options(newFakeStream(), &fakePublisher{})
	o.Parked = func(context.Context) ([]event.Parked, error) { return append([]event.Parked(nil), entries...), nil }
	o.Unpark = func(_ context.Context, list []event.Position) error { gone = list; return nil }
	var blocked event.Blocked
	s := &session{bridge: New(o), stream: newFakeStream(), mapper: blockedMapper{blocked: &blocked}, complete: 200, highest: event.Position{Commit: 7}} // the stream starts at 100
	if err := s.loadParked(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := event.Blocked{}
	want.Add("s", "waits")
	want.Add("s", "released later")
	if diff := cmp.Diff(want, blocked); diff != "" {
		t.Errorf("blocked, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]event.Position{{Commit: 10, Ordinal: 1}, {Commit: 20, Ordinal: 1}}, gone); diff != "" {
		t.Errorf("forgotten, -want +got:\n%s", diff)
	}
	if s.highest.Commit != 310 {
		t.Errorf("the highest entry is of %d", s.highest.Commit)
	}

	entries, gone = []event.Parked{entry(10, 1, event.ParkedChange, "old", ""), entry(20, 1, event.ParkedDropped, "old", "10-1")}, nil
	if err := s.loadParked(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]event.Position{{Commit: 10, Ordinal: 1}}, gone); diff != "" || len(blocked) > 0 {
		t.Errorf("blocked %v, forgotten, -want +got:\n%s", blocked, diff)
	}
}
