package transform

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// aggregateData is an event's data, as far as the test looks at it. What a row's or a child's change says is its n.
type aggregateData struct {
	ID    int
	N     *int
	Lines []struct {
		Op  string
		Row struct{ ID, N int }
	}
}

// TestAggregatesHoldEachChangeOnce draws the changes of a transaction, roots and children in any order, with any limit: each change
// of a child is in exactly one event, which is its root's, in the order of the changes; the last change of a root is in its last
// event that has the row; and the same changes make the same events again.
func TestAggregatesHoldEachChangeOnce(t *testing.T) {
	orders := &change.Relation{OID: 1, Namespace: "public", Name: "orders", Identity: change.IdentityFull, PrimaryKey: []string{"id"},
		Columns: []change.Column{{Name: "id", Type: typeInt8, Key: true}, {Name: "n", Type: typeInt8, Key: true}}}
	items := &change.Relation{OID: 2, Namespace: "public", Name: "items", Identity: change.IdentityFull, PrimaryKey: []string{"n"},
		Columns: []change.Column{{Name: "id", Type: typeInt8, Key: true}, {Name: "n", Type: typeInt8, Key: true}, {Name: "order_id", Type: typeInt8, Key: true}}}
	mapping := Mapping{Streams: []StreamMapping{{Name: "orders", Partitions: 3, Aggregates: []AggregateMapping{{Name: "order",
		Root:     TableMapping{Pattern: "public.orders", Key: []string{"id"}},
		Children: []ChildMapping{{Name: "lines", TableMapping: TableMapping{Pattern: "public.items", Key: []string{"order_id"}}}}}}}}}
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 500, 2000, maxGathered}).Draw(t, "limit")
		var changes []change.Change
		lines, roots := map[int][]string{}, map[int]int{} // expected, by order
		for n := range rapid.IntRange(0, 40).Draw(t, "changes") {
			id, to := rapid.IntRange(1, 4).Draw(t, "order"), rapid.IntRange(1, 4).Draw(t, "moved to")
			row := func(id int) []change.Value { return intRow(id, n) }
			line := func(id int) []change.Value { return intRow(7, n, id) }
			switch rapid.SampledFrom([]string{"root", "insert", "update", "delete", "move"}).Draw(t, "kind") {
			case "root":
				changes, roots[id] = append(changes, change.Change{Op: change.Update, Relation: orders, New: row(id), Old: row(id)}), n
			case "insert":
				changes, lines[id] = append(changes, change.Change{Op: change.Insert, Relation: items, New: line(id)}), append(lines[id], fmt.Sprint("c", n))
			case "update":
				changes, lines[id] = append(changes, change.Change{Op: change.Update, Relation: items, New: line(id), Old: line(id)}), append(lines[id], fmt.Sprint("u", n))
			case "delete":
				changes, lines[id] = append(changes, change.Change{Op: change.Delete, Relation: items, Old: line(id)}), append(lines[id], fmt.Sprint("d", n))
			case "move":
				if to == id {
					continue
				}
				changes = append(changes, change.Change{Op: change.Update, Relation: items, New: line(to), Old: line(id)})
				lines[id], lines[to] = append(lines[id], fmt.Sprint("d", n)), append(lines[to], fmt.Sprint("c", n))
			}
		}
		got := playAggregates(t, mapping, limit, changes)
		if diff := cmp.Diff(got, playAggregates(t, mapping, limit, changes)); diff != "" {
			t.Fatalf("the same changes make other events:\n%s", diff)
		}
		gotLines, gotRoots, events := map[int][]string{}, map[int]int{}, map[int]int{}
		for i, e := range got {
			if e.Position.Ordinal != uint64(i+1) {
				t.Fatalf("event %d is at %s", i, e.Position)
			}
			var data aggregateData
			if err := json.Unmarshal(e.Data, &data); err != nil || string(e.Key) != strconv.Itoa(data.ID) {
				t.Fatalf("key %s, data %s: %v", e.Key, e.Data, err)
			}
			if data.N == nil && data.Lines == nil {
				t.Fatalf("the event of %d tells nothing: %s", data.ID, e.Data)
			}
			if events[data.ID]++; data.N != nil {
				gotRoots[data.ID] = *data.N
			}
			for _, l := range data.Lines {
				gotLines[data.ID] = append(gotLines[data.ID], l.Op+strconv.Itoa(l.Row.N))
			}
		}
		if diff := cmp.Diff(lines, gotLines); diff != "" {
			t.Fatalf("lines (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(roots, gotRoots); diff != "" {
			t.Fatalf("roots (-want +got):\n%s", diff)
		}
		for id, n := range events {
			if limit == maxGathered && n != 1 {
				t.Fatalf("%d events of order %d", n, id)
			}
		}
	})
}

func intRow(values ...int) []change.Value {
	var row []change.Value
	for _, v := range values {
		row = append(row, change.Value{Kind: change.Text, Data: []byte(strconv.Itoa(v))})
	}
	return row
}

// playAggregates plays a transaction and copies its events. What a change points to is gone after Map, as in a stream.
func playAggregates(t *rapid.T, mapping Mapping, limit int, changes []change.Change) []event.Event {
	m, err := New(mapping, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.gathered.limit = limit
	var out []event.Event
	keep := func(events []event.Event) {
		for _, e := range events {
			e.Key, e.Data, e.Old = append([]byte{}, e.Key...), append([]byte{}, e.Data...), append([]byte{}, e.Old...)
			out = append(out, e)
		}
	}
	spoil := func(rows ...[]change.Value) {
		for _, row := range rows {
			for i := range row {
				for j := range row[i].Data {
					row[i].Data[j] = '!'
				}
			}
		}
	}
	m.Begin(change.Tx{CommitLSN: 100})
	for _, c := range changes {
		mine := c
		mine.New, mine.Old = cloneRow(c.New), cloneRow(c.Old)
		events, err := m.Map(&mine)
		if err != nil {
			t.Fatal(err)
		}
		spoil(mine.New, mine.Old)
		keep(events)
	}
	keep(m.Commit())
	return out
}

func cloneRow(row []change.Value) []change.Value {
	var out []change.Value
	for _, v := range row {
		out = append(out, change.Value{Kind: v.Kind, Data: append([]byte{}, v.Data...)})
	}
	return out
}
