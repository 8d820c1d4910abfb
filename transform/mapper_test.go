package transform

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

func oneStream(name string, partitions int, patterns ...string) StreamMapping {
	s := StreamMapping{Name: name, Partitions: partitions, Where: "walrill.yaml:9"}
	for _, p := range patterns {
		s.Tables = append(s.Tables, TableMapping{Pattern: p, Where: "walrill.yaml:12"})
	}
	return s
}

func newMapper(t *testing.T, streams ...StreamMapping) *Mapper {
	t.Helper()
	m, err := New(Mapping{Streams: streams}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		streams []StreamMapping
		want    string
	}{
		{[]StreamMapping{oneStream("", 1)}, "walrill.yaml:9: a stream has no name"},
		{[]StreamMapping{oneStream("a", 1), oneStream("a", 1)}, "walrill.yaml:9: stream a: the stream is there twice"},
		{[]StreamMapping{oneStream("a", -1)}, "stream a: -1 partitions"},
		{[]StreamMapping{oneStream("a", 3), oneStream("a:2", 1)}, "stream a:2: its Redis key a:2 is also that of stream a"},
		{[]StreamMapping{oneStream("a", 1, "orders")}, "walrill.yaml:12: table orders: not a table's full name; fix: write schema and table, such as public.orders"},
		{[]StreamMapping{oneStream("a", 1, ".orders")}, "not a table's full name"},
		{[]StreamMapping{oneStream("a", 1, "public.")}, "not a table's full name"},
		{[]StreamMapping{oneStream("a", 1, "*")}, "not a table's full name"},
		{[]StreamMapping{oneStream("a", 1, "public.order_*")}, "a * inside a name; fix: name the table, or take every table of a schema with public.*"},
		{[]StreamMapping{oneStream("a", 1, "*.*")}, "a * inside a name; fix: name the schema"},
		{[]StreamMapping{oneStream("a", 1, "public.x", "public.x")}, "table public.x: the table is in this stream twice"},
	} {
		_, err := New(Mapping{Streams: c.streams}, 0)
		var typed *Error
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.streams, err, c.want)
		}
	}
}

func TestEventIsComplete(t *testing.T) {
	m, err := New(Mapping{Streams: []StreamMapping{oneStream("accounts", 8, "public.accounts")}}, 3)
	if err != nil {
		t.Fatal(err)
	}
	when := time.Date(2026, 11, 3, 14, 25, 36, 123456000, time.UTC)
	m.Begin(change.Tx{CommitLSN: 0x16B3748, XID: 731, Time: when})
	row := texts("1", "ada", "9.50", "active", "2026-11-03 14:25:36+00", "x")
	events, err := m.Map(&change.Change{Op: change.Insert, Relation: accountsRelation(change.IdentityDefault), New: row})
	if err != nil {
		t.Fatal(err)
	}
	stream := m.Streams()[0]
	want := []event.Event{{
		Stream: stream, Partition: stream.Partition([]byte("1")), Position: event.Position{Commit: 3<<56 | 0x16B3748, Ordinal: 1},
		Type: "accounts.created", Key: []byte("1"), Op: 'c', Table: "public.accounts", Time: when, Tx: 731,
		Data: []byte(`{"id":1,"owner":"ada","balance":9.50,"status":"active","updated_at":"2026-11-03T14:25:36+00:00","note":"x"}`),
		Shape: &event.Schema{Stream: "accounts", Table: "public.accounts", Key: []string{"id"}, Terms: &event.Terms{Columns: []string{"id", "owner", "balance", "status", "updated_at", "note"}, Where: "walrill.yaml:12"}, Columns: []event.SchemaColumn{
			{Name: "id", Type: "bigint", JSON: "integer"},
			{Name: "owner", Type: "text", JSON: "string"},
			{Name: "balance", Type: "numeric(12,2)", JSON: "number"},
			{Name: "status", Type: "text", JSON: "string"},
			{Name: "updated_at", Type: "timestamp with time zone", JSON: "string"},
			{Name: "note", Type: "text", JSON: "string"},
		}},
	}}
	for i := range events { // empty and nil are the same to who reads them
		events[i].Unchanged = slices.Clip(append([]byte(nil), events[i].Unchanged...))
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Once a schema has its version, every event says it: of rows, of rows that lack
// columns, and of truncates.
func TestEventsHaveTheirSchema(t *testing.T) {
	m := newMapper(t, oneStream("accounts", 2, "public.accounts"), StreamMapping{Name: "copies", Tables: []TableMapping{{Pattern: "public.accounts", Key: []string{"owner", "id"}}}})
	rel := accountsRelation(change.IdentityFull)
	row := texts("1", "ada", "9.50", "active", "2026-11-03 14:25:36+00", "x")
	mapped := func(c *change.Change) []event.Event {
		c.Relation = rel
		events, err := m.Map(c)
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	first := mapped(&change.Change{Op: change.Insert, New: row})
	if len(first) != 2 || first[0].Schema != 0 || first[0].Shape == first[1].Shape {
		t.Fatalf("before: %+v", first)
	}
	if key := first[1].Shape.Key; !slices.Equal(key, []string{"owner", "id"}) {
		t.Errorf("the key of copies is %q", key)
	}
	first[0].Shape.Version, first[1].Shape.Version = 3, 1
	moved := texts("2", "ada", "9.50", "active", "2026-11-03 14:25:36+00", "x")
	n := 0
	for _, c := range []change.Change{{Op: change.Insert, New: row}, {Op: change.Read, New: row}, {Op: change.Delete, Old: row},
		{Op: change.Update, New: row, Old: row}, {Op: change.Update, New: moved, Old: row}, {Op: change.Truncate}} {
		for _, e := range mapped(&c) {
			if want := map[string]int{"accounts": 3, "copies": 1}[e.Stream.Name]; e.Schema != want {
				t.Errorf("op %c in stream %s has schema %d, want %d", e.Op, e.Stream.Name, e.Schema, want)
			}
			n++
		}
	}
	if n != 4*2+4+3 {
		t.Errorf("%d events", n)
	}
}

func TestJSONKind(t *testing.T) {
	for _, c := range []struct {
		typ  *change.Type
		kind string
	}{
		{typeInt8, "integer"}, {typeNumeric, "number"}, {typeText, "string"}, {typeTimestampTZ, "string"}, {typeJSON, "any"},
		{arrayOf(typeInt4), "array"}, {compositeOf("address"), "object"}, {&change.Type{OID: 16, Shape: change.ShapeBool}, "boolean"},
		{&change.Type{OID: 22, Shape: change.ShapeVector}, "array"}, {nil, "string"},
	} {
		if kind := (encoding{}).jsonKind(c.typ); kind != c.kind {
			t.Errorf("%+v is %s, want %s", c.typ, kind, c.kind)
		}
	}
}

// The events own their bytes: the decoder may write over the change's.
func TestEventsDoNotAliasTheChange(t *testing.T) {
	m := newMapper(t, oneStream("accounts", 1, "public.accounts"))
	row := texts("1", "ada", "9.50", "active", "2026-11-03 14:25:36+00", "x")
	events, err := m.Map(&change.Change{Op: change.Insert, Relation: accountsRelation(change.IdentityDefault), New: row})
	if err != nil {
		t.Fatal(err)
	}
	before := eventLine(&events[0])
	for i := range row {
		for j := range row[i].Data {
			row[i].Data[j] = '#'
		}
	}
	if after := eventLine(&events[0]); after != before {
		t.Errorf("changed with the change: %s to %s", before, after)
	}
}

// Events of one Map stay whole although the buffer grows under them.
func TestEventsOfOneMapStayWhole(t *testing.T) {
	m := newMapper(t, oneStream("*", 1, "public.*"))
	rel := &change.Relation{OID: 1, Namespace: "public", Name: "t", Identity: change.IdentityFull, PrimaryKey: []string{"id"},
		Columns: []change.Column{{Name: "id", Type: typeText, Key: true}, {Name: "v", Type: typeText, Key: true}}}
	for size := 1; size <= 4*maxSpare; size *= 8 {
		long := strings.Repeat("v", size)
		events, err := m.Map(&change.Change{Op: change.Update, Relation: rel, New: texts("b", long), Old: texts("a", long)})
		if err != nil || len(events) != 2 {
			t.Fatal(len(events), err)
		}
		for i, id := range []string{"a", "b"} {
			if got, want := string(events[i].Data), `{"id":"`+id+`","v":"`+long+`"}`; got != want || string(events[i].Key) != id {
				t.Fatalf("size %d, event %d: key %s, data %.40s…", size, i, events[i].Key, got)
			}
		}
	}
	if _, err := m.Map(&change.Change{Op: change.Delete, Relation: rel, Old: texts("a", "")}); err != nil || cap(m.buf) > maxSpare {
		t.Errorf("%d bytes are kept after a huge row, error %v", cap(m.buf), err)
	}
}

func TestMapRefuses(t *testing.T) {
	rel := accountsRelation(change.IdentityDefault)
	for _, c := range []struct {
		change change.Change
		want   string
	}{
		{change.Change{Op: change.Insert}, "no new row"},
		{change.Change{Op: change.Update, Old: accountsRow()}, "no new row"},
		{change.Change{Op: change.Delete}, "no old row"},
		{change.Change{Op: change.Delete, Old: texts("1")}, "an old row of 1 values for 6 columns"},
		{change.Change{Op: 'x', New: accountsRow()}, "unknown operation 'x'"},
		{change.Change{Op: change.Insert, New: texts("", "", "", "", "", "")}, "table public.accounts: column id: empty"},
	} {
		m := newMapper(t, oneStream("accounts", 1, "public.accounts"))
		c.change.Relation = rel
		events, err := m.Map(&c.change)
		var typed *Error
		if events != nil || !errors.As(err, &typed) || typed.Table != "public.accounts" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %d events, error %v, want %q", c.change.Op, len(events), err, c.want)
		}
	}
}

// A change names the same events whatever the mapper saw before it.
func TestMapIsDeterministic(t *testing.T) {
	streams := []StreamMapping{oneStream("*", 4, "public.*"), oneStream("all", 3, "public.*")}
	var lines []string
	for range 2 {
		m := newMapper(t, streams...)
		if len(lines) > 0 { // the second time with other tables seen first
			if _, err := m.Check(&change.Relation{OID: 9, Namespace: "public", Name: "zebra", PrimaryKey: []string{"id"}, Columns: []change.Column{{Name: "id", Key: true}}}); err != nil {
				t.Fatal(err)
			}
		}
		m.Begin(change.Tx{CommitLSN: 77})
		var line string
		for _, identity := range []change.Identity{change.IdentityDefault, change.IdentityFull} {
			rel := accountsRelation(identity)
			for _, op := range []change.Op{change.Insert, change.Delete, change.Truncate} {
				events, err := m.Map(&change.Change{Op: op, Relation: rel, New: accountsRow(), Old: accountsRow()})
				if err != nil {
					t.Fatal(err)
				}
				for i := range events {
					line += eventLine(&events[i])
				}
			}
		}
		lines = append(lines, line)
	}
	if diff := cmp.Diff(lines[0], lines[1]); diff != "" {
		t.Error(diff)
	}
}

// What "*" takes by a pattern is the rest; what it names it takes in any case, and a stream of the table's own name stands for its own.
func TestEachTableLeavesTheRest(t *testing.T) {
	rel := accountsRelation(change.IdentityDefault)
	for _, c := range []struct {
		each  string
		other StreamMapping
		want  string
	}{
		{"public.*", oneStream("all", 1, "public.*"), "* all"},
		{"public.*", oneStream("all", 1, "public.accounts"), "all"},
		{"public.*", oneStream("accounts", 1, "public.*"), "accounts"},
		{"public.accounts", oneStream("all", 1, "public.accounts"), "* all"},
		{"public.accounts", oneStream("accounts", 8, "public.accounts"), "accounts"},
	} {
		m := Mapping{Streams: []StreamMapping{oneStream("*", 1, c.each), c.other}}
		var got []string
		for _, taking := range m.Takings(rel) {
			got = append(got, taking.Stream.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s beside %s of %s: %v, want %s", c.each, c.other.Name, c.other.Tables[0].Pattern, got, c.want)
		}
	}
}

func TestMapDoesNotAllocate(t *testing.T) {
	m := newMapper(t, oneStream("accounts", 8, "public.accounts"), oneStream("all", 1, "public.*"))
	rel := accountsRelation(change.IdentityFull)
	old := accountsRow()
	old[0].Data = []byte("9")
	for _, c := range []*change.Change{
		{Op: change.Insert, Relation: rel, New: accountsRow()},
		{Op: change.Update, Relation: rel, New: accountsRow(), Old: old},
		{Op: change.Delete, Relation: rel, Old: old},
		{Op: change.Truncate, Relation: rel},
	} {
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := m.Map(c); err != nil {
				t.Error(err)
			}
		})
		if allocs > 0 {
			t.Errorf("%c: %v allocations", c.Op, allocs)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"id", "customer_id", "created_at", "Status"}
	for want, near := range map[string]string{"customerid": "customer_id", "status": "Status", "creted_at": "created_at", "idd": "id", "qqqq": "", "": ""} {
		if got := nearest(want, names); got != near {
			t.Errorf("nearest to %q: %q, want %q", want, got, near)
		}
	}
}
