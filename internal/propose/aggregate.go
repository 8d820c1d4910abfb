package propose

import (
	"slices"
	"strings"
)

// aggregate proposes one event for all that a transaction does to a row and its parts.
func (w *writer) aggregate(f family) {
	key := f.root.orderingKey()
	if len(f.parts) == 0 || len(key) == 0 || !printable(f) {
		return
	}
	w.line(2, "# Or, in place of `tables`: one event for all that a transaction does to %s and what belongs to it.", article(entity(f.root.Name)))
	for _, p := range f.parts {
		if !p.table.identified(p.key) {
			w.line(2, "# First: %s", identityFull(p.table))
		}
	}
	w.line(2, "#aggregates:")
	w.line(3, "#%s:", scalar(aggregateName(f.root)))
	w.line(4, "#root: %s", scalar(f.root.String()))
	w.line(4, "#key: %s", keyText(key))
	if m := masks(f.root, key); m != "" {
		w.line(4, "#mask: %s", m)
	}
	w.line(4, "#children:")
	taken := map[string]bool{}
	for _, c := range f.root.Columns {
		taken[c.Name] = true
	}
	for _, p := range f.parts {
		name := childName(p.table, f.root)
		if taken[name] || badName(name) {
			name = p.table.String()
		}
		taken[name] = true
		text := "table: " + flow(p.table.String()) + ", key: " + keyText(p.key)
		if slices.Equal(slices.Sorted(slices.Values(p.key)), slices.Sorted(slices.Values(p.table.PrimaryKey))) {
			text += ", one: true"
		}
		if m := masks(p.table, p.key); m != "" {
			text += ", mask: " + m
		}
		w.line(5, "#%s: {%s}", scalar(name), text)
	}
}

// printable reports whether all names can stand in a comment.
func printable(f family) bool {
	for _, t := range append([]*Table{f.root}, partTables(f)...) {
		if oneLine(t.String()) != t.String() || slices.ContainsFunc(t.Columns, func(c Column) bool { return oneLine(c.Name) != c.Name }) {
			return false
		}
	}
	return true
}

func keyText(key []string) string {
	if len(key) == 1 {
		return flow(key[0])
	}
	return list(key)
}

// masks is what is published instead of columns that look personal, or nothing.
func masks(t *Table, key []string) string {
	var list []string
	for _, name := range t.personalColumns() {
		if !slices.Contains(key, name) {
			list = append(list, flow(name)+": redact")
		}
	}
	if list == nil {
		return ""
	}
	return "{" + strings.Join(list, ", ") + "}"
}

// aggregateName is what a row is called, as the configuration takes it.
func aggregateName(t *Table) string {
	name, _ := strings.CutSuffix(eventType(t, "x"), ".x")
	return name
}

// childName is what a table's rows are called as parts of another's: items of orders for order_items.
func childName(t, root *Table) string {
	if !partByName(t.Name, root.Name) {
		return strings.Join(words(t.Name), "_")
	}
	return strings.Join(words(t.Name)[len(words(root.Name)):], "_")
}

// outboxColumns are the columns of Debezium's outbox event router, and what else they are called.
var outboxColumns = []struct {
	field string
	names []string
}{
	{"type", []string{"type", "event_type"}},
	{"aggregateid", []string{"aggregateid", "aggregate_id"}},
	{"payload", []string{"payload"}},
	{"aggregatetype", []string{"aggregatetype", "aggregate_type"}},
}

// outbox is the table as `outbox` says it when it looks like one, or nothing.
func (t *Table) outbox() string {
	var named []string
	for _, c := range outboxColumns {
		i := slices.IndexFunc(c.names, func(name string) bool { return t.column(name) != nil })
		switch {
		case i < 0 && (c.field != "aggregatetype" || !slices.Contains(words(t.Name), "outbox")):
			return ""
		case i > 0:
			named = append(named, c.field+": "+c.names[i])
		}
	}
	return "{" + strings.Join(named, ", ") + "}"
}
