package config

import "strings"

// Aggregate makes one event of all that a transaction did to a row of the root table and to the rows of child tables
// that belong to it.
type Aggregate struct {
	Name     string // of the events' types: <name>.created and so on; the form of a rule's type
	Root     Table  // with Key
	Children []Child
	Version  int // of its events' data, at least; 0 leaves it to the catalogue
	// Compatibility is what new versions of the data must keep; the stream's when empty.
	Compatibility Compatibility
	About         About
	At            Pos
}

// Child is a table whose rows belong to root rows.
type Child struct {
	Name  string // the member of data
	Table Table  // its Key holds the root's, column by column
	One   bool   // a root has one such row at most
	At    Pos
}

func (r *reader) aggregates(path string, n *node, s *Stream) {
	if !r.isMapping(path, n, "aggregates by name, such as `order: {root: public.orders, key: id}`") {
		return
	}
	if s.Name == "*" {
		r.fail(n.at, path, "an aggregate is of several tables, and none gives the stream its name; give it a stream with a name")
	}
	for _, e := range n.entries {
		a := Aggregate{Name: e.name, At: e.at}
		at := join(path, e.name)
		if msg := checkType(e.name); msg != "" {
			r.fail(e.at, at, "the aggregate's name %s", strings.ReplaceAll(msg, "`order.placed`", "`order`"))
		}
		r.mapping(at, e.value, append(r.partFields(&a.Root, "root", "id"),
			field{name: "children", read: func(path string, n *node) { a.Children = r.children(path, n) }},
			field{name: "version", read: func(path string, n *node) { integer(r, path, n, &a.Version, 1, maxVersion) }},
			r.compatibility(&a.Compatibility), r.description(&a.About), r.owner(&a.About))...)
		for _, c := range a.Children {
			if len(a.Root.Key) > 0 && len(c.Table.Key) > 0 && len(c.Table.Key) != len(a.Root.Key) {
				r.fail(c.Table.KeyAt, join(at, "children"), "the key of %s has %d columns, and that of the root has %d; name the columns that hold the root's key, in its order",
					show(c.Name), len(c.Table.Key), len(a.Root.Key))
			}
		}
		s.Aggregates = append(s.Aggregates, a)
	}
}

// partFields are the fields of a table that is part of an aggregate.
func (r *reader) partFields(t *Table, table, key string) []field {
	return []field{
		{table, func(path string, n *node) { r.partTable(path, n, t) }, table + ": public.orders"},
		{"key", func(path string, n *node) {
			if n.kind == kindMapping {
				r.fail(n.at, path, "want a column's name or a list of them; an aggregate cannot be keyed by an expression")
				return
			}
			r.key(path, n, t)
		}, "key: " + key},
		{name: "columns", read: func(path string, n *node) { r.columns(path, n, &t.Columns) }},
		{name: "mask", read: func(path string, n *node) { t.Masks = r.masks(path, n) }},
		{name: "encrypt", read: func(path string, n *node) { t.Encrypt = r.encrypt(path, n) }},
		{name: "numbers", read: func(path string, n *node) { t.NumbersAsText = r.word(path, n, "number", "string") == "string" }},
	}
}

func (r *reader) partTable(path string, n *node, t *Table) {
	written, ok := r.text(path, n, "a table's name, such as public.orders")
	if !ok {
		return
	}
	pattern, msg := tablePattern(written)
	if msg == "" && strings.HasSuffix(pattern, "*") {
		msg = "the table's name " + show(written) + " is a pattern; write the name of one table"
	}
	if msg != "" {
		r.fail(n.at, path, "%s", msg)
		return
	}
	t.Pattern, t.At = pattern, n.at
}

func (r *reader) children(path string, n *node) []Child {
	if !r.isMapping(path, n, "names, such as `lines: {table: public.order_items, key: order_id}`") {
		return nil
	}
	var list []Child
	for _, e := range n.entries {
		c := Child{Name: e.name, At: e.at}
		r.mapping(join(path, e.name), e.value, append(r.partFields(&c.Table, "table", "order_id"), field{name: "one", read: r.boolean(&c.One)})...)
		list = append(list, c)
	}
	return list
}
