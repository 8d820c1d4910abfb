package transform

import (
	"cmp"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// knownPart is what is known of the rows of one of an aggregate's tables.
type knownPart struct {
	columns []event.SchemaColumn // as they are published
	key     []event.SchemaColumn // under the root's names
	table   []string             // all columns of the table
	read    bool                 // the changes say so, and not only the table as it was at the start
}

// aggregateSchemas are those of an aggregate's events. A truncate has no data, and none.
type aggregateSchemas struct{ created, updated, deleted, read *event.Schema }

func (s *aggregateSchemas) of(op change.Op) *event.Schema {
	switch op {
	case change.Insert:
		return s.created
	case change.Update:
		return s.updated
	case change.Delete:
		return s.deleted
	case change.Read:
		return s.read
	}
	return nil
}

// learn notes what a table's rows are like in the aggregates that it is part of. A definition that came with changes counts
// before one that was looked up: the table may have changed since.
func (m *Mapper) learn(rel *change.Relation, routes []route, read bool) {
	for i := range routes {
		r := &routes[i]
		if r.part == nil || r.part.agg.known[r.part.child].read && !read {
			continue
		}
		r.part.agg.known[r.part.child] = knownPart{columns: r.shape.schema, key: r.part.keySchema, table: allColumns(rel), read: read}
		r.part.agg.describe(r.stream.Name, r.compatibility)
	}
}

// describe makes the schemas of what is known. One that says the same as before stays, with its version.
func (a *aggregate) describe(stream string, compatibility event.Compatibility) {
	root := &a.known[0]
	for _, s := range []struct {
		schema  **event.Schema
		typ     string
		touched bool // the root's row always is
	}{{&a.schemas.created, a.types.created, true}, {&a.schemas.updated, a.types.updated, false},
		{&a.schemas.deleted, a.types.deleted, true}, {&a.schemas.read, a.types.read, false}} {
		next := &event.Schema{Stream: stream, Type: s.typ, Table: a.mapping.Root.Pattern, Key: a.mapping.Root.Key, Columns: root.columns,
			Terms: &event.Terms{Compatibility: cmp.Or(a.mapping.Compatibility, compatibility), Aggregate: true, Least: a.mapping.Version,
				Columns: a.columns(), Where: a.mapping.Where}}
		if !s.touched {
			next.Columns = root.untouched()
		}
		next.Columns = append(slices.Clip(next.Columns), a.childColumns()...)
		if before := *s.schema; before != nil && before.Describes(next) {
			before.Terms = next.Terms
			continue
		}
		*s.schema = next
	}
}

// untouched are the members of data that is sometimes the key alone.
func (k *knownPart) untouched() []event.SchemaColumn {
	key := slices.Clone(k.key)
	columns := slices.Clone(k.columns)
	for i := range columns {
		at := slices.IndexFunc(key, func(c event.SchemaColumn) bool { return c.Name == columns[i].Name })
		if columns[i].Optional = at < 0; at >= 0 {
			key = slices.Delete(key, at, at+1)
		}
	}
	for i := range key { // left out of rows
		key[i].Optional = true
	}
	return append(key, columns...)
}

// childColumns are the members of data that tell of changes of children.
func (a *aggregate) childColumns() []event.SchemaColumn {
	var list []event.SchemaColumn
	for i := range a.mapping.Children {
		c := event.SchemaColumn{Name: a.mapping.Children[i].Name, JSON: jsonArray, Optional: true}
		if a.mapping.Children[i].One {
			c.JSON = jsonObject
		}
		c.Fields = []event.SchemaColumn{{Name: "op", JSON: jsonString}, {Name: "row", JSON: jsonObject, Fields: a.known[1+i].columns},
			{Name: "old", JSON: jsonObject, Optional: true}, {Name: "unchanged", JSON: jsonArray, Optional: true}}
		list = append(list, c)
	}
	return list
}

// columns are those of the tables, with the members around them.
func (a *aggregate) columns() []string {
	list := slices.Clone(a.known[0].table)
	for i := range a.mapping.Children {
		for _, name := range a.known[1+i].table {
			list = append(list, a.mapping.Children[i].Name+".row."+name)
		}
	}
	return list
}

// events are what the aggregate publishes.
func (a *aggregate) events() []PublishedEvent {
	list := a.types.describe(nil)
	for i := range list {
		list[i].Schema, list[i].Aggregate = a.schemas.of(list[i].On[0]), a.mapping.Where
		list[i].Children = map[string]string{}
		for _, c := range a.mapping.Children {
			list[i].Children[c.Name] = c.Pattern
		}
	}
	return list
}
