package transform

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

func describedTable(oid uint32, name string, columns ...string) *change.Relation {
	rel := &change.Relation{OID: oid, Namespace: "public", Name: name, Identity: change.IdentityFull}
	for _, c := range columns {
		rel.Columns = append(rel.Columns, change.Column{Name: c, Type: typeInt8, TypeName: "bigint", Key: true})
	}
	return rel
}

func orderAggregate(t *testing.T) *Mapper {
	t.Helper()
	m, err := New(Mapping{Streams: []StreamMapping{{Name: "s", Compatibility: event.CompatibleBackward, Aggregates: []AggregateMapping{{Name: "order", Version: 3,
		Root:     TableMapping{Pattern: "public.orders", Key: []string{"id"}, Columns: Columns{Rename: []Rename{{From: Name{Name: "id"}, To: "order"}}}},
		Children: []ChildMapping{{Name: "lines", TableMapping: TableMapping{Pattern: "public.items", Key: []string{"id"}}}}}}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// An aggregate is described once, with its root, by its own types; the data of each holds the rows of both tables.
func TestDescribeAggregates(t *testing.T) {
	published, err := orderAggregate(t).Describe([]*change.Relation{describedTable(1, "orders", "id", "n"), describedTable(2, "items", "id", "qty")})
	if err != nil {
		t.Fatal(err)
	}
	column := func(name, source string, optional bool) event.SchemaColumn {
		return event.SchemaColumn{Name: name, Type: "bigint", JSON: "integer", Column: source, Optional: optional}
	}
	lines := event.SchemaColumn{Name: "lines", JSON: "array", Optional: true, Fields: []event.SchemaColumn{
		{Name: "op", JSON: "string"}, {Name: "row", JSON: "object", Fields: []event.SchemaColumn{column("id", "", false), column("qty", "", false)}},
		{Name: "old", JSON: "object", Optional: true}, {Name: "unchanged", JSON: "array", Optional: true}}}
	whole := []event.SchemaColumn{column("order", "id", false), column("n", "", false), lines}
	parts := []event.SchemaColumn{column("order", "id", false), column("n", "", true), lines}
	want := map[string][]event.SchemaColumn{"order.created": whole, "order.updated": parts, "order.deleted": whole, "order.truncated": nil, "order.read": parts}
	got := map[string][]event.SchemaColumn{}
	for _, p := range published[0] {
		for _, e := range p.Events {
			got[e.Type] = nil
			if e.Schema != nil {
				got[e.Type] = e.Schema.Columns
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(published[1]) != 0 {
		t.Errorf("the child has %v; -want +got:\n%s", published[1], diff)
	}
}

// What the changes say of a table counts before what was looked up, and a schema keeps its version as long as it says the same.
func TestAggregateSchemaFollowsTables(t *testing.T) {
	m := orderAggregate(t)
	orders, items := describedTable(1, "orders", "id"), describedTable(2, "items", "id", "qty", "late")
	for _, rel := range []*change.Relation{orders, items} {
		if _, err := m.Check(rel); err != nil {
			t.Fatal(err)
		}
	}
	shape := func(c change.Change) *event.Schema {
		m.Begin(change.Tx{CommitLSN: 9})
		if _, err := m.Map(&c); err != nil {
			t.Fatal(err)
		}
		return m.Commit()[0].Shape
	}
	last := func(s *event.Schema) string {
		row := s.Columns[len(s.Columns)-1].Fields[1].Fields
		return row[len(row)-1].Name
	}
	root := change.Change{Op: change.Update, Relation: orders, New: intRow(1), Old: intRow(1)}
	first := shape(root)
	if got := last(first); got != "late" {
		t.Errorf("before any change of the child its row ends with %s", got)
	}
	first.Version = 7
	earlier := describedTable(2, "items", "id", "qty")
	second := shape(change.Change{Op: change.Update, Relation: earlier, New: intRow(1, 1), Old: intRow(1, 2)})
	if got := last(second); got != "qty" || second.Version != 0 {
		t.Errorf("the child's change says that its row ends with %s, version %d", got, second.Version)
	}
	second.Version = 8
	if _, err := m.Check(items); err != nil {
		t.Fatal(err)
	}
	again := describedTable(2, "items", "id", "qty")
	if third := shape(change.Change{Op: change.Update, Relation: again, New: intRow(1, 1), Old: intRow(1, 2)}); third != second {
		t.Errorf("the same definition makes another schema: %+v", third)
	}
}

// The key of a root that was not touched is written as the root's numbers are, whatever the child's are.
func TestAggregateKeyIsWrittenAsTheRoots(t *testing.T) {
	for _, test := range []struct {
		root, child bool
		want        string
	}{{true, false, `{"id":"1","lines":[{"op":"c","row":{"id":1,"qty":2}}]}`}, {false, true, `{"id":1,"lines":[{"op":"c","row":{"id":"1","qty":"2"}}]}`}} {
		m, err := New(Mapping{Streams: []StreamMapping{{Name: "s", Aggregates: []AggregateMapping{{Name: "order",
			Root:     TableMapping{Pattern: "public.orders", Key: []string{"id"}, NumbersAsText: test.root},
			Children: []ChildMapping{{Name: "lines", TableMapping: TableMapping{Pattern: "public.items", Key: []string{"id"}, NumbersAsText: test.child}}}}}}}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		m.Begin(change.Tx{CommitLSN: 9})
		if _, err := m.Map(&change.Change{Op: change.Insert, Relation: describedTable(2, "items", "id", "qty"), New: intRow(1, 2)}); err != nil {
			t.Fatal(err)
		}
		if got := string(m.Commit()[0].Data); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}
