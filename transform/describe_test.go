package transform

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
)

// An aggregate is described once, with its root, by its own types; its children publish nothing there.
func TestDescribeAggregates(t *testing.T) {
	m, err := New(Mapping{Streams: []StreamMapping{{Name: "s", Aggregates: []AggregateMapping{{Name: "order",
		Root:     TableMapping{Pattern: "public.orders", Key: []string{"id"}},
		Children: []ChildMapping{{Name: "lines", TableMapping: TableMapping{Pattern: "public.items", Key: []string{"id"}}}}}}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	types := map[string][]string{}
	for _, table := range []string{"orders", "items"} {
		published, err := m.Describe(&change.Relation{Namespace: "public", Name: table, Identity: change.IdentityFull, Columns: []change.Column{{Name: "id", Type: typeInt8, Key: true}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range published {
			for _, e := range p.Events {
				if !e.Gathered || p.Stream.Name != "s" {
					t.Errorf("%s: %+v in %s", table, e, p.Stream.Name)
				}
				types[table] = append(types[table], e.Type)
			}
		}
	}
	want := map[string][]string{"orders": {"order.created", "order.updated", "order.deleted", "order.truncated", "order.read"}}
	if diff := cmp.Diff(want, types); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
