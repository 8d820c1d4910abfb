package rehearse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
)

// Row is a row of a table by the names of its columns, as JSON. Columns that are not given are NULL.
type Row map[string]any

// ParseRow reads a JSON object; its numbers keep their digits.
func ParseRow(text []byte) (Row, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var row Row
	if err := d.Decode(&row); err != nil {
		if other, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("want a JSON object such as {\"id\": 1}, got: %s", other.Value)
		}
		return nil, fmt.Errorf("want a JSON object such as {\"id\": 1}: %w", err)
	}
	if d.More() {
		return nil, errors.New("want one JSON object; there is more behind it")
	}
	return row, nil
}

// values puts a row on top of another, or of NULLs, as Postgres would send it whole.
func values(rel *change.Relation, row Row, base []change.Value) ([]change.Value, error) {
	out := slices.Clone(base)
	if out == nil {
		for range rel.Columns {
			out = append(out, change.Value{Kind: change.Null})
		}
	}
	for name, v := range row {
		i := rel.Column(name)
		if i < 0 {
			return nil, fmt.Errorf("table %s has no column %s; it has %s", rel, name, columnNames(rel))
		}
		var err error
		if out[i], err = value(rel.Columns[i].Type, v); err != nil {
			return nil, fmt.Errorf("column %s (%s): %w", name, rel.Columns[i].Type.Name, err)
		}
	}
	return out, nil
}

func columnNames(rel *change.Relation) string {
	var names []string
	for _, c := range rel.Columns {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

// Insert is the change that Postgres sends of a new row, or of one that a backfill reads when op is change.Read.
func Insert(rel *change.Relation, op change.Op, row Row) (*change.Change, error) {
	v, err := values(rel, row, nil)
	return &change.Change{Op: op, Relation: rel, New: v}, err
}

// Update is the change that Postgres sends when the row old becomes new. What one of them does not say of a column, it
// has from the other.
func Update(rel *change.Relation, old, new Row) (*change.Change, error) {
	base, err := values(rel, new, nil)
	if err != nil {
		return nil, err
	}
	before, err := values(rel, old, base)
	if err != nil {
		return nil, err
	}
	after, err := values(rel, new, before)
	if err != nil {
		return nil, err
	}
	return updated(rel, before, after)
}

func updated(rel *change.Relation, before, after []change.Value) (*change.Change, error) {
	c := &change.Change{Op: change.Update, Relation: rel, New: after}
	sent, err := identityOf(rel, before)
	if err != nil {
		return nil, err
	}
	if rel.Identity == change.IdentityFull || !same(sent, keyed(rel, after)) {
		c.Old = sent
	}
	return c, nil
}

// Delete is the change that Postgres sends when a row goes.
func Delete(rel *change.Relation, row Row) (*change.Change, error) {
	v, err := values(rel, row, nil)
	if err != nil {
		return nil, err
	}
	return deleted(rel, v)
}

func deleted(rel *change.Relation, row []change.Value) (*change.Change, error) {
	sent, err := identityOf(rel, row)
	return &change.Change{Op: change.Delete, Relation: rel, Old: sent}, err
}

// identityOf is what Postgres sends of a row before its update or delete.
func identityOf(rel *change.Relation, row []change.Value) ([]change.Value, error) {
	sent := keyed(rel, row)
	if !slices.ContainsFunc(sent, func(v change.Value) bool { return v.Kind != change.Absent }) {
		return nil, fmt.Errorf("table %s has no replica identity: Postgres refuses its updates and deletes once it is published; give it a primary key, or REPLICA IDENTITY FULL", rel)
	}
	return sent, nil
}

func keyed(rel *change.Relation, row []change.Value) []change.Value {
	out := make([]change.Value, len(row))
	for i := range row {
		out[i] = change.Value{Kind: change.Absent}
		if rel.Columns[i].Key {
			out[i] = row[i]
		}
	}
	return out
}

func same(a, b []change.Value) bool {
	return slices.EqualFunc(a, b, func(a, b change.Value) bool { return a.Kind == b.Kind && bytes.Equal(a.Data, b.Data) })
}
