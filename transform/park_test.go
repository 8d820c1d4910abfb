package transform

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// parkingMapper has a rule that fails when b is 0, for two tables in one stream, and the same table in a stream without rules.
func parkingMapper(t *testing.T) (*Mapper, *change.Relation, *change.Relation) {
	t.Helper()
	ratio := &Payload{Kind: PayloadObject, Object: []PayloadMember{{"ratio", Payload{Expr: &Expr{Text: "new.a % new.b"}}}}}
	m, err := New(Mapping{Parked: "parked", Streams: []StreamMapping{
		{Name: "s", Park: true, Tables: []TableMapping{
			{Pattern: "public.t", Key: []string{"k"}, Rules: []Rule{
				{Type: "seen", On: []change.Op{change.Insert, change.Update}},
				{Type: "ratio", On: []change.Op{change.Insert, change.Update}, Data: ratio},
				{Type: "gone", On: []change.Op{change.Delete}},
			}},
			{Pattern: "public.u", Key: []string{"k"}, Columns: Columns{Exclude: []Name{{Name: "secret"}}}},
		}},
		{Name: "rows", Tables: []TableMapping{{Pattern: "public.t"}}},
	}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.Begin(change.Tx{CommitLSN: 16})
	relT := &change.Relation{OID: 1, Namespace: "public", Name: "t", Identity: change.IdentityFull, PrimaryKey: []string{"k"}, Columns: []change.Column{
		{Name: "k", Type: typeInt8, Key: true}, {Name: "a", Type: typeInt8, Key: true}, {Name: "b", Type: typeInt8, Key: true}, {Name: "note", Type: typeText, Key: true}}}
	relU := &change.Relation{OID: 2, Namespace: "public", Name: "u", Identity: change.IdentityFull, PrimaryKey: []string{"id"}, Columns: []change.Column{
		{Name: "id", Type: typeInt8, Key: true}, {Name: "k", Type: typeInt8, Key: true}, {Name: "secret", Type: typeText, Key: true}}}
	return m, relT, relU
}

// eventLines describes events; of parked ones what matters.
func eventLines(t *testing.T, events []event.Event) string {
	t.Helper()
	var b strings.Builder
	for i := range events {
		e := &events[i]
		if !e.Stream.Control {
			b.WriteString(eventLine(e))
			continue
		}
		p, err := event.ParseParked(e.Position.ID(), map[string]any{"type": e.Type, "key": string(e.Key), "op": string(e.Op), "table": e.Table,
			"time": "2026-11-03T00:00:00.000000Z", "seq": "1", "data": string(e.Data)})
		if err != nil {
			t.Fatal(err)
		}
		reason := "waits"
		if p.Reason != "" {
			reason = p.Reason[strings.LastIndex(p.Reason, ": ")+2:]
		}
		b.WriteString(strings.Join([]string{e.Position.String(), p.Kind, p.Stream, p.Key, string(p.Op), p.Table, reason}, " ") + "\n")
	}
	return b.String()
}

func TestPark(t *testing.T) {
	m, relT, relU := parkingMapper(t)
	blocked := event.Blocked{}
	m.SetBlocked(blocked)
	var kept []event.Parked
	var got strings.Builder
	do := func(c *change.Change) {
		t.Helper()
		events, err := m.Map(c)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(eventLines(t, events))
		for i := range events {
			if e := &events[i]; e.Stream.Control {
				p, err := event.ParseParked(e.Position.ID(), map[string]any{"type": e.Type, "key": string(e.Key), "op": string(e.Op), "table": e.Table,
					"time": "2026-11-03T00:00:00.000000Z", "seq": "1", "data": string(e.Data)})
				if err != nil {
					t.Fatal(err)
				}
				kept = append(kept, p)
			}
		}
	}
	do(&change.Change{Op: change.Insert, Relation: relT, New: texts("1", "7", "0", "n")}) // fails: none of its events comes
	do(&change.Change{Op: change.Insert, Relation: relU, New: texts("5", "1", "hush")})
	do(&change.Change{Op: change.Insert, Relation: relT, New: texts("2", "7", "4", "n")})
	// A row that moves to another key: its leaving waits, its coming does not.
	do(&change.Change{Op: change.Update, Relation: relT, New: texts("3", "7", "4", "n"), Old: texts("1", "7", "0", "n")})
	do(&change.Change{Op: change.Truncate, Relation: relU})
	want := `0/10:1 parked s 1 c public.t a division by zero, in data.ratio
0/10:2 rows t.created c key=1 data={"k":1,"a":7,"b":0,"note":"n"}
0/10:3 parked s 1 c public.u waits
0/10:4 s seen c key=2 data={"k":2,"a":7,"b":4,"note":"n"}
0/10:5 s ratio c key=2 data={"ratio":3}
0/10:6 rows t.created c key=2 data={"k":2,"a":7,"b":4,"note":"n"}
0/10:7 parked s 1 d public.t waits
0/10:8 s seen c key=3 data={"k":3,"a":7,"b":4,"note":"n"}
0/10:9 s ratio c key=3 data={"ratio":3}
0/10:10 rows t.deleted d key=1 data={"k":1,"a":7,"b":0,"note":"n"}
0/10:11 rows t.created c key=3 data={"k":3,"a":7,"b":4,"note":"n"}
0/10:12 s u.truncated t
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	if _, ok := kept[1].New["secret"]; ok || len(kept) != 3 {
		t.Errorf("%d changes are kept, with a column that is nobody's business: %v", len(kept), kept[1].New)
	}
	if !blocked.Has("s", []byte("1")) || len(blocked) != 1 {
		t.Errorf("blocked: %v", blocked)
	}

	// A retry fails as before; with the value mended the changes come in their order, at the present place.
	m.Begin(change.Tx{CommitLSN: 32})
	if events, err := m.Retry(&kept[0], relT); err == nil || events != nil {
		t.Errorf("a retry gives %v, %v", events, err)
	}
	two := "2"
	kept[0].New["b"] = &two
	got.Reset()
	for i := range kept {
		events, err := m.Retry(&kept[i], map[string]*change.Relation{"public.t": relT, "public.u": relU}[kept[i].Table])
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(eventLines(t, events))
	}
	events, err := m.Resolve(&event.Parked{Kind: event.ParkedReleased, Stream: "s", Key: "1", UpTo: "16-7"})
	if err != nil {
		t.Fatal(err)
	}
	got.WriteString(eventLines(t, events))
	want = `0/20:1 s seen c key=1 data={"k":1,"a":7,"b":2,"note":"n"}
0/20:2 s ratio c key=1 data={"ratio":1}
0/20:3 s u.created c key=1 data={"id":5,"k":1}
0/20:4 s gone d key=1 data={"k":1,"a":7,"b":2,"note":"n"}
0/20:5 released s 1 m  waits
`
	want = strings.Replace(want, `gone d key=1 data={"k":1,"a":7,"b":2,`, `gone d key=1 data={"k":1,"a":7,"b":0,`, 1)
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := m.Retry(&event.Parked{Kind: event.ParkedChange, Stream: "other", Table: "public.t", Key: "1", Op: 'c', New: kept[0].New}, relT); err == nil || !strings.Contains(err.Error(), "does not take the table any more") {
		t.Errorf("of a stream that is gone: %v", err)
	}
	if _, err := m.Retry(&event.Parked{Kind: event.ParkedChange, Stream: "s", Table: "public.gone", Key: "1", Op: 'c'}, nil); err == nil || !strings.Contains(err.Error(), "the table is gone") {
		t.Errorf("of a table that is gone: %v", err)
	}
}

// What is parked is as it may be published: a masked column's value is in no entry, and is not masked twice.
func TestParkMasked(t *testing.T) {
	table := TableMapping{Pattern: "public.t", Key: []string{"k"}, Masks: []Mask{{Column: Name{Name: "note"}, Kind: MaskLast, Keep: 2}}, Rules: []Rule{
		{Type: "ratio", On: []change.Op{change.Insert}, Data: &Payload{Kind: PayloadObject, Object: []PayloadMember{
			{"ratio", Payload{Expr: &Expr{Text: "new.a % new.b"}}}, {"note", Payload{Expr: &Expr{Text: "new.note"}}}}}}}}
	m, err := New(Mapping{Parked: "parked", Streams: []StreamMapping{{Name: "s", Park: true, Tables: []TableMapping{table}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, rel, _ := parkingMapper(t)
	m.Begin(change.Tx{CommitLSN: 16})
	events, err := m.Map(&change.Change{Op: change.Insert, Relation: rel, New: texts("1", "7", "0", "secret42")})
	if err != nil || len(events) != 1 || strings.Contains(string(events[0].Data), "secret") {
		t.Fatalf("%v, %s", err, eventLines(t, events))
	}
	two, note := "2", "******42"
	p := event.Parked{Kind: event.ParkedChange, Stream: "s", Key: "1", Table: "public.t", Op: 'c', New: map[string]*string{"k": &two, "a": &two, "b": &two, "note": &note},
		Masked: map[string]string{"note": "last"}}
	events, err = m.Retry(&p, rel)
	if err != nil {
		t.Fatal(err)
	}
	if want := "0/10:2 s ratio c key=1 data={\"ratio\":0,\"note\":\"******42\"}\n"; eventLines(t, events) != want {
		t.Errorf("%s, want %s", eventLines(t, events), want)
	}

	table.Rules[0].When = &Expr{Text: `new.k > 0 && new.note != "x"`}
	m, err = New(Mapping{Streams: []StreamMapping{{Name: "s", Park: true, Tables: []TableMapping{table}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(rel); err == nil || !strings.Contains(err.Error(), "with on_error: park a condition cannot read note, which is masked") {
		t.Errorf("a condition on a masked column: %v", err)
	}
}

// A mask that a column got after its change was parked holds for the change too, and one that it lost or that is another is told.
func TestParkMaskedSince(t *testing.T) {
	_, rel, _ := parkingMapper(t)
	two, secret := "2", "secret42"
	retry := func(masked map[string]string, masks ...Mask) (string, error) {
		t.Helper()
		m, err := New(Mapping{Parked: "parked", Streams: []StreamMapping{{Name: "s", Park: true, Tables: []TableMapping{{Pattern: "public.t", Key: []string{"k"}, Masks: masks}}}}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		m.Begin(change.Tx{CommitLSN: 16})
		p := event.Parked{Kind: event.ParkedChange, Stream: "s", Key: "2", Table: "public.t", Op: 'c', Masked: masked,
			New: map[string]*string{"k": &two, "a": &two, "b": &two, "note": &secret}}
		events, err := m.Retry(&p, rel)
		return eventLines(t, events), err
	}
	last := Mask{Column: Name{Name: "note"}, Kind: MaskLast, Keep: 2}
	if got, err := retry(nil, last); err != nil || got != "0/10:1 s t.created c key=2 data={\"k\":2,\"a\":2,\"b\":2,\"note\":\"******42\"}\n" {
		t.Errorf("masked since: %s %v", got, err)
	}
	for name, c := range map[string]struct {
		masked map[string]string
		masks  []Mask
		want   string
	}{
		"lost":       {map[string]string{"note": "last"}, nil, "was parked with the mask last for column note, and the mapping says no mask now"},
		"another":    {map[string]string{"note": "redact"}, []Mask{last}, "was parked with the mask redact for column note, and the mapping says the mask last now"},
		"in the key": {nil, []Mask{{Column: Name{Name: "k"}, Kind: MaskHash, Key: []byte("0123456789abcdef")}}, "was parked with no mask for column k, and the mapping says the mask hash now"},
	} {
		if got, err := retry(c.masked, c.masks...); err == nil || got != "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s %v", name, got, err)
		}
	}
}

// A key that is blocked while its stream was changed to what cannot park stops the pipeline: what it would keep could not be published.
func TestBlockedWhereNothingParks(t *testing.T) {
	_, rel, _ := parkingMapper(t)
	root := TableMapping{Pattern: "public.t", Key: []string{"k"}}
	masked := TableMapping{Pattern: "public.t", Key: []string{"k"}, Masks: []Mask{{Column: Name{Name: "note"}, Kind: MaskRedact}},
		Rules: []Rule{{Type: "x", On: []change.Op{change.Insert}, When: &Expr{Text: `new.note == "n"`}}}}
	for name, s := range map[string]StreamMapping{
		"an aggregate":       {Name: "s", Aggregates: []AggregateMapping{{Name: "a", Root: root}}},
		"an outbox":          {Name: "s", Tables: []TableMapping{{Pattern: "public.t", Outbox: &Outbox{Type: Name{Name: "note"}, AggregateID: Name{Name: "k"}, Payload: Name{Name: "a"}}}}},
		"a masked condition": {Name: "s", Tables: []TableMapping{masked}},
	} {
		m, err := New(Mapping{Parked: "parked", Streams: []StreamMapping{s}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		blocked := event.Blocked{}
		blocked.Add("s", "it's")
		blocked.Add("s", "1")
		m.SetBlocked(blocked)
		m.Begin(change.Tx{CommitLSN: 16})
		events, err := m.Map(&change.Change{Op: change.Insert, Relation: rel, New: texts("1", "7", "1", "n")})
		if err == nil || len(events) > 0 || !strings.Contains(err.Error(), `changes of the key "1" are parked`) || !strings.Contains(err.Error(), "walrill parked retry --stream 's' -- '1'") {
			t.Errorf("%s: %v %s", name, err, eventLines(t, events))
		}
	}
	if got := parkedCommand("drop", "s", "it's"); got != `walrill parked drop --stream 's' -- 'it'\''s'` {
		t.Error(got)
	}
}

// A table that was dropped and made anew is the new one to a retry, however often it is asked.
func TestRetryOfATableMadeAnew(t *testing.T) {
	m, _, old := parkingMapper(t)
	anew := *old
	anew.OID, anew.Columns = 20, append(append([]change.Column{}, old.Columns...), change.Column{Name: "more", Type: typeInt8, Key: true})
	for _, c := range []*change.Change{{Op: change.Insert, Relation: old, New: texts("1", "2", "s")}, {Op: change.Insert, Relation: &anew, New: texts("1", "2", "s", "4")}} {
		if _, err := m.Map(c); err != nil {
			t.Fatal(err)
		}
	}
	one := "1"
	for range 64 {
		m.Begin(change.Tx{CommitLSN: 32})
		events, err := m.Retry(&event.Parked{Stream: "s", Key: "1", Table: "public.u", Op: 'c', New: map[string]*string{"id": &one, "k": &one, "more": &one}}, old)
		if want := "0/20:1 s u.created c key=1 data={\"id\":1,\"k\":1,\"more\":1}\n"; err != nil || eventLines(t, events) != want {
			t.Fatalf("%s %v, want %s", eventLines(t, events), err, want)
		}
	}
}

// A row whose key cannot be made passes rules that do not match, whether other keys are blocked or not, and stops at one that does.
func TestKeyNotNeeded(t *testing.T) {
	_, rel, _ := parkingMapper(t)
	m, err := New(Mapping{Parked: "parked", Streams: []StreamMapping{{Name: "s", Park: true, Tables: []TableMapping{{Pattern: "public.t",
		KeyExpr: &Expr{Text: "100 / row.b > 1 ? row.note : row.note"}, Rules: []Rule{{Type: "x", On: []change.Op{change.Insert}, When: &Expr{Text: "new.a > 0"}}}}}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	blocked := event.Blocked{}
	m.SetBlocked(blocked)
	m.Begin(change.Tx{CommitLSN: 16})
	for range 2 {
		if events, err := m.Map(&change.Change{Op: change.Insert, Relation: rel, New: texts("1", "0", "0", "n")}); err != nil || len(events) > 0 {
			t.Errorf("with %v blocked: %v %s", blocked, err, eventLines(t, events))
		}
		if _, err := m.Map(&change.Change{Op: change.Insert, Relation: rel, New: texts("1", "1", "0", "n")}); err == nil || !strings.Contains(err.Error(), "the key cannot be made") {
			t.Errorf("with %v blocked: %v", blocked, err)
		}
		blocked.Add("s", "other")
		blocked.Add("s", "")
	}
}
