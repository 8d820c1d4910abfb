package transform

import (
	"fmt"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// table is a mapping compiled for one version of a table's definition.
type table struct {
	rel       *change.Relation
	name      string // public.orders
	types     eventTypes
	appenders []appender // of each column, as to_jsonb
	routes    []route    // empty when the table is not mapped
	outbox    bool       // of one of them at least
	encrypts  bool       // one of them does
	met       int        // counts the definitions that were compiled: of two tables of one name the later one is there
}

// route is a stream that the table feeds.
type route struct {
	stream *event.Stream
	key    keyer
	shape  *shape
	plain  bool    // the shape is the table's own
	masks  *masker // nil when no column is masked
	schema *event.Schema
	// keyShape writes KeyData, nil when the mapping does not ask for it.
	keyShape *shape
	rules    *ruleSet   // nil without rules: an event a change
	outbox   *outbox    // nil unless the table is an outbox
	part     *partRoute // nil unless the table is part of an aggregate there
	park     bool       // a change that a rule fails on is set aside
	uses     []int      // columns that events are made of
	doubts   []*Error   // old values that rules read and Postgres will not send
	where    string

	compatibility event.Compatibility
}

// eventTypes are the default names of a table's events.
type eventTypes struct{ created, updated, deleted, truncated, read string }

func (types *eventTypes) of(op change.Op) string {
	switch op {
	case change.Insert:
		return types.created
	case change.Read:
		return types.read
	case change.Delete:
		return types.deleted
	}
	return types.updated
}

// wants reports whether any of the operations can make an event.
func (r *route) wants(ops opSet) bool { return r.rules == nil || r.rules.ops.has(ops) }

func newTable(rel *change.Relation, routes []route) *table {
	t := &table{rel: rel, name: rel.String(), routes: routes}
	t.types = eventTypes{rel.Name + ".created", rel.Name + ".updated", rel.Name + ".deleted", rel.Name + ".truncated", rel.Name + ".read"}
	for _, c := range rel.Columns {
		t.appenders = append(t.appenders, encoding{}.appender(c.Type))
	}
	for i := range routes {
		r := &routes[i]
		t.outbox = t.outbox || r.outbox != nil
		t.encrypts = t.encrypts || r.masks != nil && r.masks.subjects != nil
		r.schema = &event.Schema{Stream: r.stream.Name, Table: t.name, Key: r.key.schema(rel), Columns: r.shape.schema,
			Terms: &event.Terms{Compatibility: r.compatibility, Columns: allColumns(rel), Where: r.where}}
		if r.rules != nil {
			r.rules.schemas(r.schema)
		}
		if r.outbox != nil {
			r.outbox.declared = declare(r.outbox.events, r.stream.Name, t.name, r.schema.Key, r.compatibility)
		}
	}
	return t
}

// check refuses a row that is not one of the relation's.
func (t *table) check(c *change.Change) error {
	problem := ""
	switch n := len(t.rel.Columns); {
	case c.New != nil && len(c.New) != n:
		problem = fmt.Sprintf("a row of %d values for %d columns", len(c.New), n)
	case c.Old != nil && len(c.Old) != n:
		problem = fmt.Sprintf("an old row of %d values for %d columns", len(c.Old), n)
	case c.New == nil && (c.Op == change.Insert || c.Op == change.Update || c.Op == change.Read):
		problem = "no new row in an insert or update"
	case c.Old == nil && c.Op == change.Delete:
		problem = "no old row in a delete"
	default:
		return nil
	}
	return &Error{Table: t.name, Problem: problem}
}
