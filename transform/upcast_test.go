package transform

import (
	"strings"
	"testing"
	"time"

	"github.com/walrill/walrill/event"
)

func expression(text string) Payload { return Payload{Expr: &Expr{Text: text}} }

func set(pairs ...string) []PayloadMember {
	var list []PayloadMember
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, PayloadMember{Name: pairs[i], Value: expression(pairs[i+1])})
	}
	return list
}

func removed(names ...string) []Name {
	var list []Name
	for _, name := range names {
		list = append(list, Name{Name: name})
	}
	return list
}

// upcastOf compiles the one step of a mapping.
func upcastOf(t *testing.T, u Upcast) func(*event.Event) error {
	t.Helper()
	m := Mapping{Streams: []StreamMapping{{Name: "orders", Tables: []TableMapping{{Pattern: "public.orders",
		Rules: []Rule{{Type: "order.paid", Version: u.From + 1, Data: &Payload{Kind: PayloadObject}, Upcasts: []Upcast{u}}}}}}}}
	list, err := m.Upcasts()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Stream != "orders" || list[0].Type != "order.paid" || list[0].Version != u.From+1 {
		t.Fatalf("%+v", list)
	}
	return list[0].Steps[u.From]
}

func TestUpcast(t *testing.T) {
	for name, c := range map[string]struct {
		upcast               Upcast
		data, old, unchanged string
		want                 string // data, old and unchanged, or the error
	}{
		"what is not named stays, byte for byte, in its place": {
			Upcast{Set: set("b", "data.a + 1", "new", `op + " " + table + " " + time + " " + lsn`)}, `{"c": 1.500 ,"b":"x","a":1,"d":{"e": [ 1 ]}}`, "", "",
			`{"c":1.500,"b":2,"a":1,"d":{"e": [ 1 ]},"new":"update public.orders 2026-01-01T00:00:00.000000Z 0/10"} `},
		"expressions see the data as it was before the step": {
			Upcast{Set: set("a", "data.b", "b", "data.a")}, `{"a":1,"b":2}`, "", "", `{"a":2,"b":1} `},
		"a copy has every digit and every nesting": {
			Upcast{Set: set("b", "data.a", "n", "data.n"), Remove: removed("a")}, `{"a":{"deep": [12345678901234567890.10]},"n":12345678901234567890.10}`, "", "",
			`{"n":12345678901234567890.10,"b":{"deep": [12345678901234567890.10]}} `},
		"null and what is not there are nil": {
			Upcast{Set: set("x", "data.a ?? 'none'", "y", "data.missing ?? 'none'", "z", "data.missing")}, `{"a":null}`, "", "", `{"a":null,"x":"none","y":"none","z":null} `},
		"what Postgres did not send is not nil": {
			Upcast{Set: set("x", "data.note ?? 'none'")}, `{"a":1}`, "", `["note"]`, "Postgres did not send column note"},
		"and is not asked for where it is not read": {
			Upcast{Set: set("x", "data.a == 1 ? 'one' : data.note")}, `{"a":1}`, "", `["note","more"]`, `{"a":1,"x":"one"}  ["note","more"]`},
		"removed and set members are unknown no more": {
			Upcast{Set: set("more", "data.a"), Remove: removed("note")}, `{"a":1}`, "", `["note","more"]`, `{"a":1,"more":1} `},
		"old is what the step makes of the row before, as far as it differs": {
			Upcast{Set: set("name", "data.first + ' ' + data.last"), Remove: removed("first", "last")}, `{"id":1,"first":"Ada","last":"Byron","n":2}`, `{"last":"King","n":1}`, "",
			`{"id":1,"n":2,"name":"Ada Byron"} {"n":1,"name":"Ada King"}`},
		"and nothing when the difference is gone": {
			Upcast{Remove: removed("n")}, `{"id":1,"n":2}`, `{"n":1}`, "", `{"id":1} `},
		"a value that only the old row has is known there": {
			Upcast{Set: set("size", "len(data.note ?? '')")}, `{"id":1,"note":"new"}`, `{"note":"before"}`, "", `{"id":1,"note":"new","size":3} {"note":"before","size":6}`},
		"let, names in brackets and conditions": {
			Upcast{Set: set("x", `let a = data["odd name"]; any(data.list, # > a) ? "yes" : "no"`)}, `{"odd name":1,"list":[1,2]}`, "", "", `{"odd name":1,"list":[1,2],"x":"yes"} `},
		"a failure says where, and no value": {Upcast{Set: set("x", "data.secret / 0")}, `{"secret":77}`, "", "", "the upcast of version 1 of order.paid failed: a division by zero"},
		"no object":                          {Upcast{Remove: removed("x")}, `[1]`, "", "", "data: it is not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			c.upcast.From = 1
			step := upcastOf(t, c.upcast)
			e := event.Event{Type: "order.paid", Op: 'u', Schema: 1, Position: event.Position{Commit: 16, Ordinal: 1}, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
				Data: []byte(c.data), Old: []byte(c.old), Unchanged: []byte(c.unchanged)}
			before := e
			if err := step(&e); err != nil {
				if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "77") {
					t.Errorf("got %v, want %s", err, c.want)
				}
				if string(e.Data) != string(before.Data) || e.Schema != 1 {
					t.Errorf("the event that failed has changed: %s", e.Data)
				}
				return
			}
			got := string(e.Data) + " " + string(e.Old)
			if len(e.Unchanged) > 0 {
				got += " " + string(e.Unchanged)
			}
			if got != c.want || e.Schema != 2 {
				t.Errorf("schema %d\ngot  %s\nwant %s", e.Schema, got, c.want)
			}
		})
	}
}

// What can be seen to be wrong without any version is refused with the mapping.
func TestUpcastRefused(t *testing.T) {
	for text, want := range map[string]string{
		"new.a":         "a step sees data",
		"old.a":         "a step sees data",
		"data":          "name a member, as in data.id",
		"data.a +":      "unexpected token",
		"nosuch(1)":     "there is no function nosuch",
		"dat.a":         "did you mean data?",
		"key":           "there is nothing called key",
		"moved ? 1 : 2": "there is nothing called moved",
	} {
		_, err := New(Mapping{Streams: []StreamMapping{{Name: "orders", Tables: []TableMapping{{Pattern: "public.orders", Rules: []Rule{
			{Type: "a", Version: 2, Data: &Payload{Kind: PayloadObject}, Upcasts: []Upcast{{From: 1, Set: set("x", text)}}}}}}}}}, 0)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
