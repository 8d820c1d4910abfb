package config

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
)

// TestFile is a file of `walrill test`: tables, and tests of what the mapping makes of changes to them.
type TestFile struct {
	Tables []TestTable
	Tests  []Test
}

// TestTable describes a table that need not exist anywhere.
type TestTable struct {
	Name     string // schema.table
	Columns  []TestColumn
	Key      []string // primary key; may be empty
	Identity string   // default, full or nothing
	At       Pos
}

// TestColumn is a column with its type as SQL has it.
type TestColumn struct{ Name, Type string }

// Test is one test. Its changes are one transaction; or it is of an event that is brought to the newest version.
type Test struct {
	Name   string
	Given  []TestRow // rows that are there before
	When   []TestChange
	Upcast *TestUpcast // instead of Given and When
	Then   []TestEvent
	// ThenAt is where the field `then` is, BeginsAt where the test is.
	ThenAt, At Pos
}

// TestRow is a row of a table as a JSON object.
type TestRow struct {
	Table string
	Row   string
	At    Pos
}

// TestChange is a change to a table. Row is the new row of an insert or read, or the columns by which the row of an update or
// delete is found; Set are the columns that an update changes. Both are JSON objects or empty.
type TestChange struct {
	Op       string // insert, update, delete, truncate or read
	Table    string
	Row, Set string
	At       Pos
}

// TestUpcast is an event of an earlier version. Data, Old and Unchanged are JSON or empty.
type TestUpcast struct {
	Stream               string // empty for the one that has the type
	Type, Key            string
	Version              int
	Data, Old, Unchanged string
	At                   Pos
}

// TestEvent is an expected event: the fields that are written, in the order of TestEventFields, with their values as JSON.
type TestEvent struct {
	Fields map[string]string
	At     Pos
}

// TestEventFields are the fields that an expected event may have.
var TestEventFields = []string{"stream", "partition", "type", "key", "op", "data", "old", "unchanged", "headers"}

var testOps = []string{"insert", "update", "delete", "truncate", "read"}

// LoadTests reads and checks a file of tests. The error is Errors when the file could be read.
func LoadTests(path string) (*TestFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return ParseTests(path, data)
}

// ParseTests is LoadTests with the file's content in hand.
func ParseTests(name string, data []byte) (*TestFile, error) {
	r := newReader(nil)
	r.needs = "`tests`"
	var f TestFile
	if root := r.tree(name, data); root != nil {
		r.mapping("", root,
			field{name: "tables", read: func(path string, n *node) { f.Tables = r.testTables(path, n) }},
			field{"tests", func(path string, n *node) { f.Tests = r.tests(path, n) }, "tests: [{name: …, when: […], then: […]}]"},
		)
	}
	_, err := r.finish()
	return &f, err
}

func (r *reader) testTables(path string, n *node) []TestTable {
	if !r.isMapping(path, n, "table names, such as `public.orders:`") {
		return nil
	}
	var tables []TestTable
	for _, e := range n.entries {
		at := join(path, e.name)
		t := TestTable{Identity: "default", At: e.at}
		pattern, msg := tablePattern(e.name)
		if msg == "" && strings.HasSuffix(pattern, ".*") {
			msg = "a test's table is one table; write its full name"
		}
		if msg != "" {
			r.fail(e.at, at, "%s", msg)
		}
		t.Name = pattern
		r.mapping(at, e.value,
			field{"columns", func(path string, n *node) { t.Columns = r.testColumns(path, n) }, "columns: {id: bigint, status: text}"},
			field{name: "key", read: func(path string, n *node) { t.Key = r.testKey(path, n) }},
			field{name: "identity", read: func(path string, n *node) { choose(r, path, n, &t.Identity, "default", "full", "nothing") }},
		)
		for _, name := range t.Key {
			if !slices.ContainsFunc(t.Columns, func(c TestColumn) bool { return c.Name == name }) {
				r.fail(e.at, at, "the key's column %s is not among the columns", show(name))
			}
		}
		tables = append(tables, t)
	}
	return tables
}

func (r *reader) testColumns(path string, n *node) []TestColumn {
	if !r.isMapping(path, n, "columns with their types, such as `id: bigint`") {
		return nil
	}
	var columns []TestColumn
	for _, e := range n.entries {
		if typ, ok := r.text(join(path, e.name), e.value, "a type such as bigint or text"); ok {
			columns = append(columns, TestColumn{e.name, typ})
		}
	}
	return columns
}

// testKey reads the primary key: a column or a list of them.
func (r *reader) testKey(path string, n *node) []string {
	items := []*node{n}
	if n.kind == kindList {
		items = n.items
	}
	var names []string
	for _, item := range items {
		if name, ok := r.text(path, item, "a column's name or a list of them"); ok {
			names = append(names, name)
		}
	}
	return names
}

func (r *reader) tests(path string, n *node) []Test {
	var tests []Test
	for i, item := range r.items(path, n, "tests, such as `- name: an order is paid`") {
		t := Test{At: item.at}
		at := path + "[" + strconv.Itoa(i) + "]"
		when := "when: [{insert: public.orders, row: {id: 1}}]"
		if slices.ContainsFunc(item.entries, func(e entry) bool { return e.name == "upcast" }) {
			when = ""
		}
		r.mapping(at, item,
			field{"name", func(path string, n *node) { t.Name, _ = r.text(path, n, "text") }, "name: an order is paid"},
			field{name: "given", read: func(path string, n *node) { t.Given = r.given(path, n) }},
			field{"when", func(path string, n *node) { t.When = r.when(path, n) }, when},
			field{name: "upcast", read: func(path string, n *node) { t.Upcast = r.testUpcast(path, n) }},
			field{"then", func(path string, n *node) { t.ThenAt, t.Then = n.owner, r.then(path, n) }, "then: []"},
		)
		if t.Upcast != nil && len(t.Given)+len(t.When) > 0 {
			r.fail(t.Upcast.At, join(at, "upcast"), "a test is of changes or of an event's upcast; make two tests of it")
		}
		tests = append(tests, t)
	}
	return tests
}

func (r *reader) testUpcast(path string, n *node) *TestUpcast {
	u := &TestUpcast{At: n.at}
	name := func(dst *string) readFunc {
		return func(path string, n *node) { *dst, _ = r.text(path, n, "text") }
	}
	json := func(dst *string) readFunc {
		return func(path string, n *node) { *dst = r.json(path, n) }
	}
	r.mapping(path, n,
		field{"type", name(&u.Type), "type: order.paid"},
		field{"version", func(path string, n *node) { integer(r, path, n, &u.Version, 1, maxVersion) }, "version: 1"},
		field{"data", func(path string, n *node) { u.Data = r.object(path, n) }, "data: {id: 1}"},
		field{name: "old", read: func(path string, n *node) { u.Old = r.object(path, n) }},
		field{name: "unchanged", read: json(&u.Unchanged)},
		field{name: "key", read: name(&u.Key)},
		field{name: "stream", read: name(&u.Stream)},
	)
	return u
}

// items are a list's; nothing at all is an empty one.
func (r *reader) items(path string, n *node, want string) []*node {
	if n.kind != kindList && n.kind != kindNothing && n.kind != kindBad {
		r.fail(n.at, path, "want a list of %s; got %s", want, n.kind)
	}
	return n.items
}

// given reads rows by table.
func (r *reader) given(path string, n *node) []TestRow {
	if !r.isMapping(path, n, "rows by table, such as `public.orders: [{id: 1}]`") {
		return nil
	}
	var rows []TestRow
	for _, e := range n.entries {
		at := join(path, e.name)
		table, msg := tablePattern(e.name)
		if msg != "" {
			r.fail(e.at, at, "%s", msg)
		}
		for _, item := range r.items(at, e.value, "rows, such as `[{id: 1}]`") {
			rows = append(rows, TestRow{table, r.object(at, item), item.at})
		}
	}
	return rows
}

func (r *reader) when(path string, n *node) []TestChange {
	var changes []TestChange
	for i, item := range r.items(path, n, "changes, such as `- insert: public.orders`") {
		c := TestChange{At: item.at}
		at := path + "[" + strconv.Itoa(i) + "]"
		fields := []field{
			{name: "row", read: func(path string, n *node) { c.Row = r.object(path, n) }},
			{name: "set", read: func(path string, n *node) { c.Set = r.object(path, n) }},
		}
		for _, op := range testOps {
			fields = append(fields, field{name: op, read: func(path string, n *node) {
				table, ok := r.text(path, n, "a table's name")
				if !ok {
					return
				}
				if c.Op != "" {
					r.fail(n.owner, at, "a change is one of %s; this is two: make two changes of them", enumerate(testOps, "and"))
				}
				var msg string
				if c.Table, msg = tablePattern(table); msg != "" {
					r.fail(n.at, path, "%s", msg)
				}
				c.Op = op
			}})
		}
		before := len(r.errs)
		r.mapping(at, item, fields...)
		if len(r.errs) == before {
			r.change(at, item, c)
		}
		changes = append(changes, c)
	}
	return changes
}

// change checks that a change says what its kind needs.
func (r *reader) change(path string, n *node, c TestChange) {
	switch {
	case c.Op == "":
		r.fail(n.at, path, "no table is named; write one of %s with a table, such as `insert: public.orders`", enumerate(testOps, "and"))
	case c.Op == "update" && (c.Row == "" || c.Set == ""):
		r.fail(n.at, path, "an update needs `row`, which finds the row by some of its columns, and `set`, the columns that change")
	case c.Op == "truncate" && c.Row+c.Set != "":
		r.fail(n.at, path, "a truncate has neither `row` nor `set`; remove them")
	case c.Op != "truncate" && c.Row == "":
		r.fail(n.at, path, "the field `row` is missing; write `row: {id: 1}`")
	case c.Op != "update" && c.Set != "":
		r.fail(n.at, path, "only an update has `set`; remove it")
	}
}

func (r *reader) then(path string, n *node) []TestEvent {
	var events []TestEvent
	for i, item := range r.items(path, n, "events, such as `- {type: order.paid, key: \"1\"}`") {
		e := TestEvent{Fields: map[string]string{}, At: item.at}
		var fields []field
		for _, name := range TestEventFields {
			fields = append(fields, field{name: name, read: func(path string, n *node) { e.Fields[name] = r.json(path, n) }})
		}
		r.mapping(path+"["+strconv.Itoa(i)+"]", item, fields...)
		events = append(events, e)
	}
	return events
}

// object reads a row as JSON.
func (r *reader) object(path string, n *node) string {
	if n.kind != kindMapping {
		if n.kind != kindBad {
			r.fail(n.at, path, "want a row, such as `{id: 1, status: new}`; got %s", n.kind)
		}
		return ""
	}
	return r.json(path, n)
}

// json writes a value as JSON. Numbers keep their digits, and variables are not replaced.
func (r *reader) json(path string, n *node) string {
	switch n.kind {
	case kindMapping:
		var members []string
		for _, e := range n.entries {
			members = append(members, jsonText(e.name)+":"+r.json(join(path, e.name), e.value))
		}
		return "{" + strings.Join(members, ",") + "}"
	case kindList:
		var items []string
		for i, item := range n.items {
			items = append(items, r.json(path+"["+strconv.Itoa(i)+"]", item))
		}
		return "[" + strings.Join(items, ",") + "]"
	case kindNumber, kindBool:
		if !json.Valid([]byte(n.text)) {
			r.fail(n.at, path, "%s is not a number as JSON has them; write it in another form, or in quotes", show(n.text))
			return "null"
		}
		return n.text
	case kindText:
		return jsonText(n.text)
	}
	return "null"
}

func jsonText(text string) string {
	out, _ := json.Marshal(text) // any string can be marshalled
	return string(out)
}
