package transform

import (
	"bytes"
	"fmt"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// table is a mapping compiled for one version of a table's definition.
type table struct {
	rel     *change.Relation
	name    string // public.orders
	types   eventTypes
	columns []column
	routes  []route // empty when the table is not mapped
}

// column is a member of data, and its name alone for `unchanged`.
type column struct {
	member
	quoted []byte // `,"name"`
}

// route is a stream that the table feeds.
type route struct {
	stream *event.Stream
	key    []int // columns, in the key's order
	schema *event.Schema
	doubt  error // why the key of an update or delete may not be known; nil when it is
	where  string
}

// eventTypes are the default names of a table's events.
type eventTypes struct{ created, updated, deleted, truncated, read string }

func newTable(rel *change.Relation, routes []route) *table {
	t := &table{rel: rel, name: rel.String(), routes: routes}
	t.types = eventTypes{rel.Name + ".created", rel.Name + ".updated", rel.Name + ".deleted", rel.Name + ".truncated", rel.Name + ".read"}
	for _, c := range rel.Columns {
		m := newMember(c.Name, c.Type)
		t.columns = append(t.columns, column{m, m.name[:len(m.name)-1]})
	}
	columns := schemaColumns(rel)
	for i := range routes {
		r := &routes[i]
		r.schema = &event.Schema{Stream: r.stream.Name, Table: t.name, Key: append([]string{}, columnNames(rel, r.key)...), Columns: columns}
	}
	return t
}

// check refuses a row that is not one of the relation's.
func (t *table) check(c *change.Change) error {
	problem := ""
	switch {
	case c.New != nil && len(c.New) != len(t.columns):
		problem = fmt.Sprintf("a row of %d values for %d columns", len(c.New), len(t.columns))
	case c.Old != nil && len(c.Old) != len(t.columns):
		problem = fmt.Sprintf("an old row of %d values for %d columns", len(c.Old), len(t.columns))
	case c.New == nil && (c.Op == change.Insert || c.Op == change.Update || c.Op == change.Read):
		problem = "no new row in an insert or update"
	case c.Old == nil && c.Op == change.Delete:
		problem = "no old row in a delete"
	default:
		return nil
	}
	return &Error{Table: t.name, Problem: problem}
}

// appendRow appends a row as a JSON object. A value that Postgres did not
// send is taken from before, the row before the change, when it is there, and left out otherwise.
func (t *table) appendRow(dst []byte, row, before []change.Value) ([]byte, error) {
	start := len(dst)
	for i := range t.columns {
		c, v := &t.columns[i], &row[i]
		if v.Kind == change.Unchanged && before != nil {
			v = &before[i]
		}
		switch v.Kind {
		case change.Text:
			var err error
			dst = append(dst, c.name...)
			if dst, err = c.append(dst, v.Data); err != nil {
				return dst, t.valueError(i, err)
			}
		case change.Null:
			dst = c.appendNull(dst)
		}
	}
	return closeObject(dst, start), nil
}

// appendOld appends the old values that an update changed, as a JSON object,
// or nothing when it changed none of those that are known.
func (t *table) appendOld(dst []byte, row, before []change.Value) ([]byte, error) {
	start := len(dst)
	for i := range t.columns {
		c, v := &t.columns[i], &before[i]
		if !differs(v, &row[i]) {
			continue
		}
		if v.Kind == change.Null {
			dst = c.appendNull(dst)
			continue
		}
		var err error
		dst = append(dst, c.name...)
		if dst, err = c.append(dst, v.Data); err != nil {
			return dst, t.valueError(i, err)
		}
	}
	if len(dst) == start {
		return dst, nil
	}
	return closeObject(dst, start), nil
}

// differs reports whether a value is known before and after, and another.
func differs(before, after *change.Value) bool {
	switch {
	case after.Kind != change.Text && after.Kind != change.Null:
		return false
	case before.Kind == change.Null:
		return after.Kind == change.Text
	case before.Kind == change.Text:
		return after.Kind == change.Null || !bytes.Equal(before.Data, after.Data)
	}
	return false
}

// appendUnchanged appends the names of the columns that are not known, as a
// JSON array, or nothing when there are none.
func (t *table) appendUnchanged(dst []byte, row, before []change.Value) []byte {
	start := len(dst)
	for i := range t.columns {
		if row[i].Kind != change.Unchanged {
			continue
		}
		if before == nil || before[i].Kind != change.Text && before[i].Kind != change.Null {
			dst = append(dst, t.columns[i].quoted...)
		}
	}
	if len(dst) == start {
		return dst
	}
	dst[start] = '['
	return append(dst, ']')
}

func (t *table) valueError(column int, err error) error {
	c := t.rel.Columns[column]
	e := &Error{Table: t.name, Columns: []string{c.Name}, Problem: "column " + c.Name, Err: err}
	if e.Stale() {
		e.Fix = fmt.Sprintf("an attribute was dropped since; leave the column out with `columns: {exclude: [%s]}` until what was written before is read", c.Name)
	}
	return e
}
