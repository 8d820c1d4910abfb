package event

import (
	"strings"
	"testing"
)

// columnsOf reads `id:integer total:number? to{city:string}`; name=column:json/type is a row's.
func columnsOf(text string) []SchemaColumn {
	var list []SchemaColumn
	for word := range strings.FieldsSeq(text) {
		name, rest, _ := strings.Cut(word, ":")
		kind, typ, _ := strings.Cut(rest, "/")
		c := SchemaColumn{Type: typ}
		c.JSON, c.Optional = strings.CutSuffix(kind, "?")
		c.Name, c.Column, _ = strings.Cut(name, "=")
		if outer, inner, nested := strings.Cut(c.Name, "."); nested {
			c.Name, c.JSON, c.Fields = outer, "object", columnsOf(inner+":"+rest)
		}
		list = append(list, c)
	}
	return list
}

func TestBreaks(t *testing.T) {
	for name, test := range map[string]struct{ before, after, backward, full string }{
		"the same":                  {"id:integer", "id:integer", "", ""},
		"another order":             {"id:integer a:string", "a:string id:integer", "", ""},
		"another source":            {"id=a:integer", "id=b:integer", "", ""},
		"added":                     {"id:integer", "id:integer a:string", "", "+ a: string"},
		"added, not in every event": {"id:integer", "id:integer a:string?", "", ""},
		"removed":                   {"id:integer a:string", "id:integer", "- a: string", "- a: string"},
		"renamed":                   {"a:string", "b:string", "- a: string", "- a: string|+ b: string"},
		"retyped":                   {"a:number", "a:string", "- a: number|+ a: string", "- a: number|+ a: string"},
		"narrowed":                  {"a:number b:any", "a:integer b:array", "", "- a: number|+ a: integer|- b: any|+ b: array"},
		"widened":                   {"a:integer", "a:number", "- a: integer|+ a: number", "- a: integer|+ a: number"},
		"left out at times":         {"a:string", "a:string?", "- a: string|+ a: string, not in every event", "- a: string|+ a: string, not in every event"},
		"in every event now":        {"a:string?", "a:string", "", "- a: string, not in every event|+ a: string"},
		"inside":                    {"to.city:string", "to.town:string", "- to.city: string", "- to.city: string|+ to.town: string"},
	} {
		t.Run(name, func(t *testing.T) {
			before := Schema{Columns: columnsOf(test.before)}
			for mode, want := range map[Compatibility]string{CompatibleNone: "", CompatibleBackward: test.backward, CompatibleFull: test.full} {
				after := Schema{Columns: columnsOf(test.after), Terms: &Terms{Compatibility: mode, Built: true}}
				var lines []string
				for _, d := range after.Breaks(&before) {
					lines = append(lines, strings.Split(d.String(), "\n")...)
				}
				if got := strings.Join(lines, "|"); got != want {
					t.Errorf("%s: %s, want %s", mode, got, want)
				}
			}
		})
	}
}

// What a table has lost or retyped flows on; what the mapping leaves out or writes otherwise does not.
func TestBreaksOfRows(t *testing.T) {
	before := Schema{Columns: columnsOf("id:integer/bigint note:string/text buyer=cust:string/text")}
	for name, test := range map[string]struct {
		after, table string
		byTable      bool
	}{
		"dropped":          {"id:integer/bigint buyer=cust:string/text", "id cust", true},
		"excluded":         {"id:integer/bigint buyer=cust:string/text", "id note cust", false},
		"no longer called": {"id:integer/bigint note:string/text cust:string/text", "id note cust", false},
		"altered":          {"id:string/text note:string/text buyer=cust:string/text", "id note cust", true},
		"numbers: string":  {"id:string/bigint note:string/text buyer=cust:string/text", "id note cust", false},
	} {
		t.Run(name, func(t *testing.T) {
			after := Schema{Columns: columnsOf(test.after), Terms: &Terms{Compatibility: CompatibleBackward, Columns: strings.Fields(test.table)}}
			if got := after.Breaks(&before); len(got) != 1 || got[0].ByTable != test.byTable {
				t.Errorf("%+v, want one that is by the table: %v", got, test.byTable)
			}
		})
	}
}

// Versions of an aggregate are its tables' as well: a number that the mapping raises is where they count on.
func TestJudgeAggregate(t *testing.T) {
	lines := func(row string) []SchemaColumn {
		return append(columnsOf("id:integer/bigint"), SchemaColumn{Name: "lines", JSON: "array", Optional: true, Fields: []SchemaColumn{
			{Name: "op", JSON: "string"}, {Name: "row", JSON: "object", Fields: columnsOf(row)}}})
	}
	const row = "id:integer/bigint sku:string/text"
	version := func(n int, row string) Schema {
		return Schema{Stream: "orders", Type: "order.updated", Table: "public.orders", Version: n, Columns: lines(row)}
	}
	known := []Schema{version(1, row), version(2, row+" qty:integer/integer")}
	for name, test := range map[string]struct {
		columns []SchemaColumn
		table   string
		least   int
		breaks  int
		want    string
	}{
		"dropped in the table": {lines(row), "id lines.row.id lines.row.sku", 2, 1, ""},
		"left out by the mapping": {lines("id:integer/bigint qty:integer/integer"), "id lines.row.id lines.row.sku lines.row.qty", 0, 0,
			"w.yaml:3:5: the data of orders/order.updated would break consumers of version 2\n    - lines.row.sku: string\n  fix: accept it as another version, `version: 3` in the aggregate; or set `compatibility: none` for it"},
		"left out, and raised":       {lines("id:integer/bigint qty:integer/integer"), "id lines.row.id lines.row.sku lines.row.qty", 3, 0, ""},
		"a child less":               {columnsOf("id:integer/bigint"), "id", 0, 0, "w.yaml:3:5: the data of orders/order.updated would break consumers of version 2\n    - lines: array, not in every event\n  fix: accept it as another version, `version: 3` in the aggregate; or set `compatibility: none` for it"},
		"a child whose table is not": {lines(""), "id", 0, 0, ""},
		"back to an earlier one":     {lines(row), "id lines.row.id lines.row.sku lines.row.qty", 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := version(0, "")
			s.Columns = test.columns
			s.Terms = &Terms{Compatibility: CompatibleBackward, Aggregate: true, Least: test.least, Columns: strings.Fields(test.table), Where: "w.yaml:3:5"}
			breaks, err := s.Judge(known)
			if errText(err) != test.want || len(breaks) != test.breaks {
				t.Errorf("got\n%v\n%v\nwant\n%s", breaks, err, test.want)
			}
		})
	}
	s := version(0, row)
	for least, want := range map[int]int{0: 3, 2: 3, 9: 9} {
		s.Terms = &Terms{Aggregate: true, Least: least}
		if got := s.Next(2); got != want || s.MayBe(&known[0]) != (least == 0) {
			t.Errorf("at least %d: behind 2 comes %d, want %d; as before %v", least, got, want, s.MayBe(&known[0]))
		}
	}
}

func TestJudge(t *testing.T) {
	version := func(n int, columns string) Schema {
		return Schema{Stream: "orders", Type: "order.paid", Table: "public.orders", Version: n, Columns: columnsOf(columns)}
	}
	known := []Schema{version(1, "id:integer total:number"), version(2, "id:integer total:number by:string"),
		{Stream: "orders", Type: "order.paid", Table: "public.other", Version: 3, Columns: columnsOf("x:string")}}
	for name, test := range map[string]struct {
		columns string
		version int
		mode    Compatibility
		want    string
	}{
		"a new type's first":     {"id:string", 0, CompatibleBackward, "w.yaml:3:5: the data of orders/order.paid would break consumers of version 2\n    - id: integer\n    + id: string\n    - total: number\n    - by: string\n  fix: publish it as another version, `version: 4` in the rule, or as another event type; or set `compatibility: none` for the stream"},
		"that breaks nothing":    {"id:integer total:number by:string more:any", 0, CompatibleBackward, ""},
		"back to an earlier one": {"id:integer total:number", 0, CompatibleBackward, ""},
		"unchecked":              {"id:string", 0, CompatibleNone, ""},
		"as the next version":    {"id:string", 4, CompatibleBackward, ""},
		"as what it is":          {"id:integer total:number by:string", 2, CompatibleBackward, ""},
		"under a taken number":   {"id:string total:number by:string", 2, CompatibleNone, "w.yaml:3:5: the data of orders/order.paid would break consumers of version 2\n    - id: integer\n    + id: string\n  fix: raise `version` to 4"},
		"under another's number": {"x:string", 3, CompatibleBackward, "w.yaml:3:5: the data of orders/order.paid would break consumers of version 3\n  fix: raise `version` to 4"},
		"under an older number":  {"id:integer", 1, CompatibleNone, "w.yaml:3:5: the data of orders/order.paid would break consumers of version 1\n    - total: number\n  fix: raise `version` to 4"},
	} {
		t.Run(name, func(t *testing.T) {
			s := version(0, test.columns)
			s.Terms = &Terms{Compatibility: test.mode, Version: test.version, Built: true, Where: "w.yaml:3:5"}
			_, err := s.Judge(known)
			if got := errText(err); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
