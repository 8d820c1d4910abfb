package transform

import (
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Published is what a table sends to one stream.
type Published struct {
	Stream *event.Stream
	Where  string // of the table in the mapping
	Key    []string
	Outbox bool // the application chooses types and data: Events are those that are declared
	Events []PublishedEvent
}

// PublishedEvent is a type of event, with all the rules that make it.
type PublishedEvent struct {
	Type     string
	On       []change.Op
	Rules    []string // where they are; empty for what is published without rules
	Built    bool     // by `data` of a rule; else whole rows
	Schema   *event.Schema
	Declared string // where it is, for what the application writes
	// Aggregate is where it is in the mapping, for an aggregate's events. Children are the tables of the members of data.
	Aggregate string
	Children  map[string]string
}

// Describe says what the mapping makes of the changes of each of some tables. The schemas have no versions. Those of aggregates hold what is known of
// all their tables, these included.
func (m *Mapper) Describe(tables []*change.Relation) ([][]Published, error) {
	compiled := make([]*table, len(tables))
	for i, rel := range tables {
		routes, err := m.compileRoutes(rel)
		if err != nil {
			return nil, err
		}
		m.learn(rel, routes, false)
		compiled[i] = newTable(rel, routes)
	}
	list := make([][]Published, len(tables))
	for i, t := range compiled {
		list[i] = t.describe()
	}
	return list, nil
}

func (t *table) describe() []Published {
	var list []Published
	for i := range t.routes {
		r := &t.routes[i]
		p := Published{Stream: r.stream, Where: r.where, Key: r.schema.Key, Outbox: r.outbox != nil}
		switch {
		case r.part != nil && r.part.child > 0:
			continue // it is told of with its root
		case r.part != nil:
			p.Events = r.part.agg.events()
		case r.rules != nil:
			p.Events = r.rules.describe()
		case p.Outbox:
			on := []change.Op{change.Insert}
			if r.outbox.read {
				on = append(on, change.Read)
			}
			p.Events = r.outbox.declared.describe(on...)
		default:
			p.Events = t.types.describe(r.schema)
		}
		list = append(list, p)
	}
	return list
}

// DescribeMessages says what is declared of the messages that a stream takes.
func (m *Mapper) DescribeMessages(stream string) []PublishedEvent {
	return m.declared[stream].describe(change.Message)
}

// Schemas are those of the events that changes of tables make, and of messages, without versions.
func (m *Mapper) Schemas(tables []*change.Relation) ([]*event.Schema, error) {
	published, err := m.Describe(tables)
	var schemas []*event.Schema
	for _, p := range slices.Concat(published...) {
		for _, e := range p.Events {
			if e.Schema != nil && !slices.Contains(schemas, e.Schema) {
				schemas = append(schemas, e.Schema)
			}
		}
	}
	for i := range m.mapping.Streams {
		for _, e := range m.DescribeMessages(m.mapping.Streams[i].Name) {
			schemas = append(schemas, e.Schema)
		}
	}
	return schemas, err
}

func (t eventTypes) describe(rows *event.Schema) []PublishedEvent {
	var list []PublishedEvent
	for _, e := range []struct {
		name string
		op   change.Op
	}{{t.created, change.Insert}, {t.updated, change.Update}, {t.deleted, change.Delete}, {t.truncated, change.Truncate}, {t.read, change.Read}} {
		list = append(list, PublishedEvent{Type: e.name, On: []change.Op{e.op}, Schema: rows})
	}
	return list
}

func (s *ruleSet) describe() []PublishedEvent {
	var list []PublishedEvent
	for i := range s.rules {
		r := &s.rules[i]
		at := slices.IndexFunc(list, func(e PublishedEvent) bool { return e.Type == r.typ })
		if at < 0 {
			at = len(list)
			list = append(list, PublishedEvent{Type: r.typ, Schema: r.schema})
		}
		e := &list[at]
		e.Rules, e.Built = append(e.Rules, r.where), e.Built || r.data != nil
		for _, op := range []change.Op{change.Insert, change.Update, change.Delete, change.Truncate, change.Read} {
			if r.ops.has(opSetOf(op)) && !slices.Contains(e.On, op) {
				e.On = append(e.On, op)
			}
		}
	}
	return list
}
