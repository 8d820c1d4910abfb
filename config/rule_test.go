package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRules(t *testing.T) {
	const text = `
        columns: {exclude: note, rename: {cust: customer_id}}
        numbers: string
        key: {expr: lower(row.email)}
        events:
          - {type: order.placed, on: insert}
          - type: order.paid
            on: [insert, update]
            when: old.status != "paid"
            data:
              id: new.id
              tags: [new.a, 2, true, ~, {deep: "'x'"}]
          - {type: order.read, on: [read, truncate], data: new, otherwise: true, when: true}
`
	file := "pipeline: shop\nsource: {url: postgres://localhost/shop}\nsink: {url: redis://localhost}\nstreams:\n  orders:\n    tables:\n      public.orders:" + text
	cfg, err := Parse("f.yaml", []byte(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	expr := func(text string) Payload { return Payload{Expr: &Expr{Text: text}} }
	want := Table{
		Pattern: "public.orders", KeyExpr: &Expr{Text: "lower(row.email)"}, NumbersAsText: true,
		Columns: Columns{Exclude: []Name{{Name: "note"}}, Rename: []Rename{{Name{Name: "cust"}, "customer_id"}}},
		Events: []Rule{
			{Type: "order.placed", On: []On{OnInsert}},
			{Type: "order.paid", On: []On{OnInsert, OnUpdate}, When: &Expr{Text: `old.status != "paid"`}, Data: &Payload{Kind: PayloadObject, Object: []Member{
				{"id", expr("new.id")},
				{"tags", Payload{Kind: PayloadList, List: []Payload{expr("new.a"), {Kind: PayloadJSON, JSON: "2"}, {Kind: PayloadJSON, JSON: "true"}, {Kind: PayloadJSON, JSON: "null"},
					{Kind: PayloadObject, Object: []Member{{"deep", expr("'x'")}}}}}},
			}}},
			{Type: "order.read", On: []On{OnRead, OnTruncate}, Data: &Payload{Expr: &Expr{Text: "new"}}, Otherwise: true, When: &Expr{Text: "true"}},
		},
	}
	if diff := cmp.Diff(want, cfg.Streams[0].Tables[0], cmpopts.IgnoreTypes(Pos{}), cmpopts.IgnoreUnexported(Expr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// An error points at a character of an expression: here at the first x of
// it, in every way that YAML has to write a text.
func TestExprPlace(t *testing.T) {
	for _, written := range []string{
		`new.x`, `"new.x"`, `'new.x'`, `"\"é\" + new.x"`, `'''a'' + new.x'`, `é + new.x # and more`,
		"|\n              a &&\n              b.x", ">-\n              a &&\n\n              b.x", "a &&\n              b.x", "\"a &&\n              b.x\"",
	} {
		file := "pipeline: shop\nsource: {url: postgres://localhost/shop}\nsink: {url: redis://localhost}\nstreams:\n  orders:\n    tables:\n      public.orders:\n        events:\n" +
			"          - {type: t, on: insert}\n          - type: u\n            on: insert\n            when: " + written + "\n"
		cfg, err := Parse("f.yaml", []byte(file), nil)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		e := cfg.Streams[0].Tables[0].Events[1].When
		got := e.Place(strings.IndexRune(string([]byte(strings.Map(func(r rune) rune { return min(r, 127) }, e.Text))), 'x'))
		line := strings.Split(file, "\n")[got.Line-1]
		if runes := []rune(line); got.Column > len(runes) || runes[got.Column-1] != 'x' {
			t.Errorf("%q: %s is not the x of %q", written, got, line)
		}
	}
	e := &Expr{Text: "x", At: Pos{"f.yaml", 3, 4}}
	if got := e.Place(7); got != e.At {
		t.Errorf("an expression whose characters are not known: %s", got)
	}
}
