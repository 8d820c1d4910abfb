package config

import "slices"

// Columns chooses columns and gives them other names.
type Columns struct {
	Include []Name // nil is all of them; not together with Exclude
	Exclude []Name
	Rename  []Rename // in the order written
}

// Name is a column's name and where it is written.
type Name struct {
	Name string
	At   Pos
}

// Rename gives the column From the name To.
type Rename struct {
	From Name
	To   string
}

// key reads a column's name, a list of them, or {expr: expression}.
func (r *reader) key(path string, n *node, t *Table) {
	t.KeyAt = n.at
	if n.kind == kindMapping {
		r.mapping(path, n, field{"expr", func(path string, n *node) { t.KeyExpr = r.expr(path, n) }, "expr: lower(row.email)"})
		return
	}
	if n.kind == kindList && len(n.items) == 0 {
		r.fail(n.at, path, "the list is empty; name a column, or leave `key` out for the replica identity")
		return
	}
	t.Key = r.columnList(path, n, "key")
}

// columnList reads one or several names without their places.
func (r *reader) columnList(path string, n *node, within string) []string {
	var list []string
	for _, name := range r.list(path, n, within) {
		list = append(list, name.Name)
	}
	return list
}

// names reads a column's name or a list of them, distinct.
func (r *reader) names(path string, n *node, within string) []Name {
	items := []*node{n}
	if n.kind == kindList {
		items = n.items
	}
	var names []Name
	for _, item := range items {
		column, ok := r.text(path, item, "a column's name or a list of them")
		if !ok {
			continue
		}
		if msg := checkColumn(column, names, within); msg != "" {
			r.fail(item.at, path, "the column %s %s", showValue(item), msg)
		}
		names = append(names, Name{column, item.at})
	}
	return names
}

func (r *reader) columns(path string, n *node, c *Columns) {
	r.mapping(path, n,
		field{name: "include", read: func(path string, n *node) { c.Include = r.list(path, n, "list") }},
		field{name: "exclude", read: func(path string, n *node) { c.Exclude = r.list(path, n, "list") }},
		field{name: "rename", read: func(path string, n *node) { c.Rename = r.renames(path, n) }},
	)
	if len(c.Include) > 0 && len(c.Exclude) > 0 {
		r.fail(c.Exclude[0].At, join(path, "exclude"), "what `include` does not name is left out already; keep one of `include` and `exclude`")
	}
}

// list reads names of which there must be one.
func (r *reader) list(path string, n *node, within string) []Name {
	if n.kind == kindList && len(n.items) == 0 {
		r.fail(n.at, path, "the list is empty; name a column, or remove the field")
	}
	return r.names(path, n, within)
}

func (r *reader) renames(path string, n *node) []Rename {
	if !r.isMapping(path, n, "old and new names, such as `cust: customer_id`") {
		return nil
	}
	var list []Rename
	for _, e := range n.entries {
		to, ok := r.text(join(path, e.name), e.value, "the column's new name")
		if !ok {
			continue
		}
		if badIdentifier(to) {
			r.fail(e.value.at, join(path, e.name), "the new name %s must have 1 to 63 bytes, without line breaks and without spaces at the ends", showValue(e.value))
		}
		if i := slices.IndexFunc(list, func(r Rename) bool { return r.To == to }); i >= 0 {
			r.fail(e.value.at, join(path, e.name), "the column %s is renamed to %s too, at %s; give one of them another name",
				show(list[i].From.Name), show(to), lineOf(list[i].From.At))
		}
		list = append(list, Rename{Name{e.name, e.at}, to})
	}
	return list
}
