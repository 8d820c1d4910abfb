package transform

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
)

// outcomes prints what became of rules: a line a rule, and below it the parts of its condition.
func outcomes(asked []Asked) string {
	var b strings.Builder
	for _, a := range asked {
		fmt.Fprintf(&b, "%s %s %c %s\n", a.Stream, a.Type, a.Op, a.Outcome)
		for _, p := range a.Parts {
			fmt.Fprintf(&b, "  %s: %t%s", p.Text, p.True, p.Reason)
			for _, v := range p.Values {
				fmt.Fprintf(&b, ", %s=%s", v.Column, v.JSON)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	typeOf := func(oid uint32, shape change.Shape) *change.Type { return &change.Type{OID: oid, Shape: shape} }
	rel := &change.Relation{OID: 1, Namespace: "public", Name: "orders", Identity: change.IdentityFull, PrimaryKey: []string{"id"}, Columns: []change.Column{
		{Name: "id", Type: typeOf(oidInt8, change.ShapeNumber), Key: true}, {Name: "status", Type: typeOf(25, change.ShapeText), Key: true},
		{Name: "note", Type: typeOf(25, change.ShapeText), Key: true}}}
	text := func(s string) change.Value { return change.Value{Kind: change.Text, Data: []byte(s)} }
	when := func(s string) *Expr { return &Expr{Text: s} }
	m := newMapper(t, StreamMapping{Name: "orders", Tables: []TableMapping{{Pattern: "public.orders", Rules: []Rule{
		{Type: "placed", On: []change.Op{change.Insert}},
		{Type: "paid", On: []change.Op{change.Update}, When: when(`new.id > 0 && (old.status != "paid" || new.id == 7) && new.status == "paid"`)},
		{Type: "noted", On: []change.Op{change.Update}, When: when(`new.status == "odd" && new.note != nil`)},
		{Type: "gone", On: []change.Op{change.Delete}},
		{Type: "changed", On: []change.Op{change.Update}, Otherwise: true},
	}}}})
	m.Begin(change.Tx{CommitLSN: 1})

	for _, c := range []struct {
		name   string
		change change.Change
		want   string
		events string
	}{
		{"a match", change.Change{Op: change.Update, Old: []change.Value{text("1"), text("new"), text("")}, New: []change.Value{text("1"), text("paid"), text("")}}, `
orders placed u not asked
orders paid u matched
  new.id > 0: true, new.id=1
  old.status != "paid" || new.id == 7: true, old.status="new", new.id=1
  new.status == "paid": true, new.status="paid"
orders noted u no match
  new.status == "odd": false, new.status="paid"
  new.note != nil: true, new.note=""
orders gone u not asked
orders changed u not needed
`, "paid"},
		{"a large value that was not sent", change.Change{Op: change.Update, Old: []change.Value{text("1"), text("new"), {Kind: change.Absent}},
			New: []change.Value{text("1"), text("old"), {Kind: change.Unchanged}}}, `
orders placed u not asked
orders paid u no match
  new.id > 0: true, new.id=1
  old.status != "paid" || new.id == 7: true, old.status="new", new.id=1
  new.status == "paid": false, new.status="old"
orders noted u no match
  new.status == "odd": false, new.status="old"
  new.note != nil: falsePostgres did not send the old value of column note, new.note=
orders gone u not asked
orders changed u matched
`, "changed"},
		{"a change of the key", change.Change{Op: change.Update, Old: []change.Value{text("1"), text("new"), text("")}, New: []change.Value{text("2"), text("new"), text("")}}, `
orders placed d not asked
orders paid d not asked
orders noted d not asked
orders gone d matched
orders changed d not asked
orders placed c matched
orders paid c not asked
orders noted c not asked
orders gone c not asked
orders changed c not asked
`, "gone placed"},
	} {
		c.change.Relation = rel
		events, asked, err := m.Explain(&c.change)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), outcomes(asked)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		var types []string
		for i := range events {
			types = append(types, events[i].Type)
		}
		if got := strings.Join(types, " "); got != c.events {
			t.Errorf("%s: events %s, want %s", c.name, got, c.events)
		}
		// To be asked changes nothing.
		plain, err := m.Map(&c.change)
		if err != nil || len(plain) != len(types) || m.trace != nil {
			t.Errorf("%s: Map after Explain gives %d events, %v", c.name, len(plain), err)
		}
	}
}

// A condition is asked about the values as they are; what is shown of it, as they are published.
func TestExplainShowsMasked(t *testing.T) {
	typeOf := func(oid uint32, shape change.Shape) *change.Type { return &change.Type{OID: oid, Shape: shape} }
	rel := &change.Relation{OID: 1, Namespace: "public", Name: "people", Identity: change.IdentityFull, PrimaryKey: []string{"id"}, Columns: []change.Column{
		{Name: "id", Type: typeOf(oidInt8, change.ShapeNumber), Key: true}, {Name: "name", Type: typeOf(25, change.ShapeText), Key: true},
		{Name: "age", Type: typeOf(oidInt8, change.ShapeNumber), Key: true}, {Name: "pin", Type: typeOf(25, change.ShapeText), Key: true}}}
	m := newMapper(t, StreamMapping{Name: "people", Tables: []TableMapping{{Pattern: "public.people", Columns: Columns{Exclude: []Name{{Name: "pin"}}},
		Masks: []Mask{{Column: Name{Name: "name"}, Kind: MaskRedact, Text: "***"}, {Column: Name{Name: "age"}, Kind: MaskTruncate, Keep: 1}},
		Rules: []Rule{{Type: "found", On: []change.Op{change.Update}, When: &Expr{Text: `new.name == "Ada" && new.age > 35 && old.age == nil && new.pin startsWith "12"`},
			Data: &Payload{Kind: PayloadObject, Object: []PayloadMember{{"name", Payload{Expr: &Expr{Text: "new.name"}}}}}}},
	}}})
	m.Begin(change.Tx{CommitLSN: 1})
	row, old := texts("1", "Ada", "36", "1234"), texts("1", "Ada", "36", "1234")
	old[2] = change.Value{Kind: change.Null}
	events, asked, err := m.Explain(&change.Change{Op: change.Update, Relation: rel, New: row, Old: old})
	if err != nil {
		t.Fatal(err)
	}
	want := `people found u matched
  new.name == "Ada": true, new.name="***"
  new.age > 35: true, new.age="3"
  old.age == nil: true, old.age=null
  new.pin startsWith "12": true, new.pin=
`
	if diff := cmp.Diff(want, outcomes(asked)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(events) != 1 || string(events[0].Data) != `{"name":"***"}` {
		t.Errorf("events: %+v", events)
	}
}
