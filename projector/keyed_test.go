package projector

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
)

// Every partition is dealt to one worker, hands differ by one at most, and the order of the keys does not matter. Streams that are to stay
// together do.
func TestDeal(t *testing.T) {
	keys := []string{"b:1", "a", "b:0", "c"}
	if got, want := deal(keys, 3, nil), [][]string{{"a", "c"}, {"b:0"}, {"b:1"}}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := deal(keys, 8, map[string]bool{"b": true}), [][]string{{"a"}, {"b:0", "b:1"}, {"c"}}; !cmp.Equal(got, want) {
		t.Errorf("together: got %v, want %v", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		var keys []string
		for i := range rapid.IntRange(1, 100).Draw(t, "partitions") {
			keys = append(keys, fmt.Sprintf("s:%d", i))
		}
		n := rapid.IntRange(1, 64).Draw(t, "workers")
		hands := deal(keys, n, nil)
		if len(hands) != min(n, len(keys)) {
			t.Fatalf("%d hands for %d workers and %d partitions", len(hands), n, len(keys))
		}
		if all := slices.Concat(hands...); !cmp.Equal(slices.Sorted(slices.Values(all)), slices.Sorted(slices.Values(keys))) {
			t.Fatalf("dealt %v", all)
		}
		if d := len(hands[0]) - len(hands[len(hands)-1]); d < 0 || d > 1 {
			t.Fatalf("hands of %d and %d", len(hands[0]), len(hands[len(hands)-1]))
		}
		slices.Reverse(keys)
		if !cmp.Equal(deal(keys, n, nil), hands) {
			t.Fatal("another order of the keys is another deal")
		}
	})
}

// Whatever the processes, their shares are enough for all workers, and nobody could have all when others are there.
func TestShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		workers, processes := rapid.IntRange(0, 64).Draw(t, "workers"), rapid.IntRange(1, 20).Draw(t, "processes")
		fair := share(workers, processes)
		if fair*processes < workers || (fair-1)*processes >= max(workers, 1) {
			t.Fatalf("a share of %d, for %d workers and %d processes", fair, workers, processes)
		}
	})
	if got := share(4, 0); got != 4 {
		t.Errorf("nobody is known to take part yet: the share is %d, want 4", got)
	}
}

// What a worker halts for, and what it tries again.
func TestHard(t *testing.T) {
	for name, err := range map[string]error{
		"missing": fmt.Errorf("read: %w", &MissingError{errors.New("gone")}), "schema": &SchemaError{Table: "t", Column: "c"}, "refused": refuse("no"),
	} {
		if h := hard(err, 7); h == nil || h.at != 7 {
			t.Errorf("%s: %v", name, h)
		}
	}
	if h := hard(fmt.Errorf("feed: %w", &haltError{"new", 3}), 7); h == nil || h.at != 3 {
		t.Errorf("a halt is %v", h)
	}
	for _, err := range []error{errors.New("connection reset"), errFenced} {
		if h := hard(err, 7); h != nil {
			t.Errorf("%v is %v", err, h)
		}
	}
}

// A row that moved to another key lacks values that are asked for, unless its deletion came right before in the same partitions; and a worker keeps
// what its batch had made of rows that it deletes.
func TestFoldMoved(t *testing.T) {
	columns := []Column{{Name: "id", As: "id", Type: "integer"}, {Name: "note", As: "note", Type: "text"}}
	at := func(ordinal uint64) event.Position { return event.Position{Commit: 5, Ordinal: ordinal} }
	asked := 0
	f := newFold(columns, []string{"id"})
	f.buries, f.lacking = true, func(*event.Event) (row, error) {
		asked++
		return row{[]byte("1"), []byte(`"kept"`)}, nil
	}
	none := func([]byte) (row, error) { return nil, nil }
	for _, e := range []event.Event{
		{Position: at(1), Op: 'c', Data: []byte(`{"id":1,"note":"x"}`)},
		{Position: at(2), Op: 'd', Data: []byte(`{"id":1}`)},
		{Position: at(3), Op: 'c', Data: []byte(`{"id":2}`), Unchanged: []byte(`["note"]`)},
		{Position: at(7), Op: 'c', Data: []byte(`{"id":3}`), Unchanged: []byte(`["note"]`)},
		{Position: at(8), Op: 'd', Data: []byte(`{"id":4}`)},
	} {
		if err := f.add(&e, none); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(array(f.upserted()[""])); got != `[{"id":2,"note":"x"},{"id":3,"note":"kept"}]` || asked != 1 {
		t.Errorf("rows %s, asked %d times", got, asked)
	}
	var graves []string
	for _, g := range f.graves {
		graves = append(graves, fmt.Sprintf("%d %s %s", g.at.Ordinal, g.key, f.object(g.row)))
	}
	if want := []string{`2 {"id":1} {"id":1,"note":"x"}`, `8 {"id":4} {}`}; !cmp.Equal(graves, want) {
		t.Errorf("kept %q, want %q", graves, want)
	}
	if f.reset(); len(f.graves) != 0 {
		t.Errorf("kept %d for the next batch", len(f.graves))
	}
}

// Rows of small values only are sent whole.
func TestLarge(t *testing.T) {
	for typ, want := range map[string]bool{"integer": false, "timestamp(3) with time zone": false, "date": false, "double precision": false, "text": true, "numeric(10,2)": true,
		"integer[]": true, "character varying(20)": true, "bytea": true, "money_of_mine": true, "time without time zone": false} {
		m := mirrorDef{Key: []string{"id"}, Columns: []Column{{Name: "id", As: "id", Type: "text"}, {Name: "x", As: "x", Type: typ}}}
		if got := m.large(); got != want {
			t.Errorf("%s: %v", typ, got)
		}
	}
}

// What a worker has applied is passed over, and nothing else: early seqs above that are of streams that began anew, as after an adoption.
func TestAppliedByWorkers(t *testing.T) {
	stream := event.NewStream("goods", 2)
	s := &session{seqs: map[string]uint64{"goods:0": 7, "goods:1": 3}, dirty: map[string]bool{}, opening: opening{applied: map[string]uint64{"goods:0": 500, "goods:1": 200}}}
	for _, c := range []struct {
		partition   int
		commit, seq uint64
		seen        bool
		missing     bool
	}{
		{0, 100, 6, true, false},
		{1, 300, 4, false, false},
		{1, 310, 1, false, true}, // below the highest position, but not below that of its own worker
		{0, 400, 7, true, false},
		{0, 600, 1, false, true},
		{0, 610, 8, false, false},
		{0, 620, 10, false, true},
	} {
		seen, err := s.contiguous(&event.Event{Stream: stream, Partition: c.partition, Seq: c.seq, Position: event.Position{Commit: c.commit}})
		var missing *MissingError
		if seen != c.seen || errors.As(err, &missing) != c.missing {
			t.Errorf("%+v: seen %v, %v", c, seen, err)
		}
	}
}
