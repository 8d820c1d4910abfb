package transform

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// shape says how rows of a table are written whole: which columns, under
// which names, and how their values.
type shape struct {
	rel     *change.Relation
	columns []column
	schema  []event.SchemaColumn // columns as the catalogue has them

	all []column // also those that are left out of rows

	// of the present change, once it has been asked for
	change, oldChange    uint64
	data, unchanged, old []byte
}

// column is a member of data, and its name alone for `unchanged`.
type column struct {
	member
	quoted []byte // `,"name"`
	index  int    // of the relation's columns
}

// newShape chooses a table's columns. The errors are what does not fit the table.
func newShape(rel *change.Relation, columns *Columns, e encoding) (*shape, []*Error) {
	var errs []*Error
	find := func(list []Name, what string) map[int]bool {
		found := map[int]bool{}
		for _, name := range list {
			i := rel.Column(name.Name)
			if i < 0 {
				errs = append(errs, unknownColumn(rel, name.Where, what, name.Name))
			}
			found[i] = true
		}
		return found
	}
	include, exclude := find(columns.Include, "column"), find(columns.Exclude, "column")
	names := allColumns(rel)
	for _, r := range columns.Rename {
		i := rel.Column(r.From.Name)
		if i < 0 {
			errs = append(errs, unknownColumn(rel, r.From.Where, "column", r.From.Name))
			continue
		}
		names[i] = r.To
	}
	s := &shape{rel: rel, schema: []event.SchemaColumn{}}
	taken := map[string]string{}
	for i, c := range rel.Columns {
		m := newMember(names[i], c.Type, e)
		s.all = append(s.all, column{m, m.name[:len(m.name)-1], i})
		if exclude[i] || len(include) > 0 && !include[i] {
			continue
		}
		if other, twice := taken[names[i]]; twice {
			errs = append(errs, &Error{Where: columns.whereRenamed(c.Name, other), Table: rel.String(), Columns: []string{other, c.Name},
				Problem: fmt.Sprintf("columns %s and %s would both be called %s", other, c.Name, names[i]), Fix: "give one of them another name"})
		}
		taken[names[i]] = c.Name
		s.columns = append(s.columns, s.all[i])
		schema := event.SchemaColumn{Name: names[i], Type: c.TypeName, JSON: e.jsonKind(c.Type)}
		if names[i] != c.Name {
			schema.Column = c.Name
		}
		s.schema = append(s.schema, schema)
	}
	return s, errs
}

// describe notes for the catalogue which columns are masked.
func (s *shape) describe(masks *masker) {
	for i := range s.columns {
		s.schema[i].Mask = string(masks.kindOf(s.columns[i].index))
	}
}

// newKeyShape writes the columns of a key as an object. They need not be part of the rows.
func newKeyShape(rel *change.Relation, key *keyer, rows *shape) *shape {
	s := &shape{rel: rel}
	for _, c := range rows.all {
		if slices.Contains(key.columns, c.index) {
			s.columns = append(s.columns, c)
		}
	}
	return s
}

func (c *Columns) whereRenamed(names ...string) string {
	for _, r := range c.Rename {
		for _, name := range names {
			if r.From.Name == name {
				return r.From.Where
			}
		}
	}
	return ""
}

// appendRow appends a row as a JSON object. A value that Postgres did not
// send is taken from before, the row before the change, when it is there, and left out otherwise.
func (s *shape) appendRow(dst []byte, row, before []change.Value) ([]byte, error) {
	start := len(dst)
	for i := range s.columns {
		c := &s.columns[i]
		v := &row[c.index]
		if v.Kind == change.Unchanged && before != nil {
			v = &before[c.index]
		}
		switch v.Kind {
		case change.Text:
			var err error
			dst = append(dst, c.name...)
			if dst, err = c.append(dst, v.Data); err != nil {
				return dst, valueError(s.rel, c.index, err)
			}
		case change.Null:
			dst = c.appendNull(dst)
		}
	}
	return closeObject(dst, start), nil
}

// appendOld appends the old values that an update changed, as a JSON object,
// or nothing when it changed none of those that are known.
func (s *shape) appendOld(dst []byte, row, before []change.Value) ([]byte, error) {
	start := len(dst)
	for i := range s.columns {
		c := &s.columns[i]
		v := &before[c.index]
		if !differs(v, &row[c.index]) {
			continue
		}
		if v.Kind == change.Null {
			dst = c.appendNull(dst)
			continue
		}
		var err error
		dst = append(dst, c.name...)
		if dst, err = c.append(dst, v.Data); err != nil {
			return dst, valueError(s.rel, c.index, err)
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
func (s *shape) appendUnchanged(dst []byte, row, before []change.Value) []byte {
	start := len(dst)
	for i := range s.columns {
		c := &s.columns[i]
		if row[c.index].Kind != change.Unchanged {
			continue
		}
		if before == nil || before[c.index].Kind != change.Text && before[c.index].Kind != change.Null {
			dst = append(dst, c.quoted...)
		}
	}
	if len(dst) == start {
		return dst
	}
	dst[start] = '['
	return append(dst, ']')
}

func valueError(rel *change.Relation, column int, err error) error {
	c := rel.Columns[column]
	e := &Error{Table: rel.String(), Columns: []string{c.Name}, Problem: "column " + c.Name, Err: err}
	if e.Stale() {
		e.Fix = fmt.Sprintf("an attribute was dropped since; leave the column out with `columns: {exclude: [%s]}` until what was written before is read", c.Name)
	}
	return e
}
