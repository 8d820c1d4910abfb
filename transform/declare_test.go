package transform

import (
	"testing"

	"github.com/walrill/walrill/event"
)

func TestDeclaredData(t *testing.T) {
	order := declare([]Declared{{Type: "order.paid", Columns: []event.SchemaColumn{
		{Name: "id", JSON: "integer"}, {Name: "total", JSON: "number"}, {Name: "note", JSON: "string", Optional: true}, {Name: "rush", JSON: "boolean", Optional: true},
		{Name: "to", JSON: "object", Optional: true, Fields: []event.SchemaColumn{{Name: "city", JSON: "string"}}},
		{Name: "lines", JSON: "array", Optional: true, Fields: []event.SchemaColumn{{Name: "sku", JSON: "string"}}},
		{Name: "tags", JSON: "array", Optional: true}, {Name: "more", JSON: "any", Optional: true}}}}, "orders", "public.outbox", []string{"aggregateid"}, "")
	for data, want := range map[string]string{
		`{"id":1,"total":1.5}`: "",
		`{"id":1,"total":2,"note":"x","rush":true,"to":{"city":"Bath","zip":1},"lines":[{"sku":"a"},{"sku":null}],"tags":[1,"a"],"more":[],"other":1}`: "",
		`{"id":null,"total":null,"to":null,"lines":null}`: "",
		`{"total":1}`:                                          "data has no id, as `events` declares of order.paid",
		`{"id":1.5,"total":1}`:                                 "id is no integer, as `events` declares of order.paid",
		`{"id":1e2,"total":1}`:                                 "id is no integer, as `events` declares of order.paid",
		`{"id":1,"total":"1"}`:                                 "total is no number, as `events` declares of order.paid",
		`{"id":1,"total":1,"note":2}`:                          "note is no string, as `events` declares of order.paid",
		`{"id":1,"total":1,"rush":0}`:                          "rush is no boolean, as `events` declares of order.paid",
		`{"id":1,"total":1,"to":{}}`:                           "data has no to.city, as `events` declares of order.paid",
		`{"id":1,"total":1,"to":"Bath"}`:                       "to is no object, as `events` declares of order.paid",
		`{"id":1,"total":1,"lines":{}}`:                        "lines is no array, as `events` declares of order.paid",
		`{"id":1,"total":1,"lines":[{"sku":"a"},3]}`:           "lines[1] is no object, as `events` declares of order.paid",
		`{"id":1,"total":1,"lines":[{"sku":"a"},{"sku":[2]}]}`: "lines[1].sku is no string, as `events` declares of order.paid",
		`[]`: "data is not an object, and `events` declares that of order.paid",
		``:   "data is not an object, and `events` declares that of order.paid",
	} {
		e := event.Event{Type: "order.paid", Data: []byte(data)}
		if got := order.give(&e); got != want || e.Shape != order["order.paid"] {
			t.Errorf("%s: %q, want %q", data, got, want)
		}
	}
	e := event.Event{Type: "order.other", Data: []byte(`7`), Schema: 3}
	if problem := order.give(&e); problem != "" || e.Schema != 0 || e.Shape != nil {
		t.Errorf("a type that is not declared: %q, %+v", problem, e)
	}
}
