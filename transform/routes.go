package transform

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// table returns the mapping compiled for a relation, and compiles it when
// this version of the table's definition is met for the first time.
func (m *Mapper) table(rel *change.Relation) (*table, error) {
	if m.last != nil && m.last.rel == rel {
		return m.last, nil
	}
	t := m.tables[rel.OID]
	if t == nil || t.rel != rel {
		routes, err := m.compileRoutes(rel)
		if err != nil {
			return nil, err
		}
		m.name(rel)
		if len(routes) == 0 {
			if err := m.renamed(rel); err != nil {
				return nil, err
			}
		}
		t = newTable(rel, routes)
		m.learn(rel, routes, true)
		m.met++
		t.met = m.met
		m.tables[rel.OID] = t
	}
	m.last = t
	return t, nil
}

// naming is an entry of the mapping that names a table.
type naming struct{ table, stream, where string }

// name remembers which entry names the table.
func (m *Mapper) name(rel *change.Relation) {
	for i := range m.mapping.Streams {
		s := &m.mapping.Streams[i]
		t := s.find(rel)
		if t == nil || !t.exact() {
			t = s.aggregated(rel)
		}
		if t != nil {
			m.named[rel.OID] = naming{rel.String(), s.Name, t.Where}
			return
		}
	}
}

// renamed refuses a table that no stream takes and that one took under the name it had: its
// changes would be missing from here on.
func (m *Mapper) renamed(rel *change.Relation) error {
	was, ok := m.named[rel.OID]
	if !ok {
		return nil
	}
	return &Error{Where: was.where, Table: was.table,
		Problem: fmt.Sprintf("it was renamed to %s, which no stream takes: its changes would be missing from here on", rel),
		Fix:     fmt.Sprintf("name %s in stream %s too, beside %s for as long as changes under that name are still to be read", rel, was.stream, was.table)}
}

// compileRoutes finds the streams that a table feeds, in the mapping's order.
// With an error the routes are not complete, but their doubts are.
func (m *Mapper) compileRoutes(rel *change.Relation) ([]route, error) {
	var routes []route
	var feeds []*StreamMapping
	var errs []error
	for i := range m.mapping.Streams {
		s := &m.mapping.Streams[i]
		add := func(r route, err error) {
			routes, feeds, errs = append(routes, r), append(feeds, s), append(errs, err)
		}
		if tm := m.mapping.takes(s, rel); tm != nil {
			r, err := compileRoute(rel, tm, m.mapping.Envelope, &m.sealers)
			if r.park = s.Park; s.Park {
				err = errors.Join(err, joinErrors(r.cannotPark(rel)))
			}
			add(r, err)
		}
		for i := range s.Aggregates {
			a := &s.Aggregates[i]
			a.parts(rel, func(child int, tm *TableMapping) { add(aggregateRoute(rel, tm, m.aggregates[a], child, &m.sealers)) })
		}
	}
	if err := errors.Join(errs...); err != nil {
		return routes, err
	}
	for i := range routes {
		var err error
		routes[i].compatibility = feeds[i].Compatibility
		if routes[i].stream, err = m.streamFor(feeds[i], rel); err != nil {
			return routes, err
		}
	}
	shareShapes(routes)
	return routes, nil
}

// compileRoute compiles what the mapping says of a table, but for its stream.
func compileRoute(rel *change.Relation, tm *TableMapping, envelope bool, keys *sealers) (route, error) {
	if tm.Outbox != nil {
		return outboxRoute(rel, tm, envelope)
	}
	masks, errs := newMasker(rel, tm, keys)
	shown := masks.seen(rel)
	key, err := newKeyer(shown, tm)
	errs = append(errs, masks.checkKey(&key)...)
	e := encoding{numbersAsText: tm.NumbersAsText}
	shape, problems := newShape(shown, &tm.Columns, e)
	shape.describe(masks)
	c := ruleCompiler{rel: rel, masks: masks, encoding: e, row: shape.schema, errs: append(errs, problems...)}
	rules := c.compile(tm.Rules)
	r := route{key: key, shape: shape, masks: masks, rules: rules, doubts: c.doubts, where: tm.Where}
	r.uses = usedColumns(&key, shape, &c)
	if tm.Columns.all() && !tm.NumbersAsText && masks == nil {
		r.plain = true
	}
	if envelope {
		r.keyShape = newKeyShape(shown, &key, shape)
	}
	return r, errors.Join(err, joinErrors(c.errs))
}

func outboxRoute(rel *change.Relation, tm *TableMapping, envelope bool) (route, error) {
	outbox, key, errs := compileOutbox(rel, tm)
	shape, _ := newShape(rel, &Columns{}, encoding{})
	r := route{key: key, shape: shape, outbox: outbox, where: tm.Where}
	if envelope {
		r.keyShape = newKeyShape(rel, &key, shape)
	}
	return r, joinErrors(errs)
}

// usedColumns are the columns that a route's events are made of, in the table's order.
func usedColumns(key *keyer, rows *shape, c *ruleCompiler) []int {
	used := append(key.reads(), c.reads...)
	if c.rows {
		for i := range rows.columns {
			used = append(used, rows.columns[i].index)
		}
	}
	slices.Sort(used)
	return slices.Compact(used)
}

// shareShapes lets routes that write rows the same way do it once.
func shareShapes(routes []route) {
	var plain *shape
	for i := range routes {
		switch r := &routes[i]; {
		case !r.plain:
		case plain == nil:
			plain = r.shape
		default:
			r.shape = plain
		}
	}
}

// takes is what the stream says of the table, nil when it does not take it.
// "*" leaves a table to a stream that has the very name of the table's own, and
// one that only a pattern of "*" takes also to a stream or aggregate that names it.
func (m *Mapping) takes(s *StreamMapping, rel *change.Relation) *TableMapping {
	t := s.find(rel)
	if t == nil || s.Name != eachTable {
		return t
	}
	for i := range m.Streams {
		o := &m.Streams[i]
		if o.Name == eachTable {
			continue
		}
		if o.Name == ownStream(rel) && o.find(rel) != nil || !t.exact() && (o.names(rel) || o.aggregated(rel) != nil) {
			return nil
		}
	}
	return t
}

// streamFor is the stream that an entry of the mapping sends a table to. A
// table's own stream is made when its table is met.
func (m *Mapper) streamFor(s *StreamMapping, rel *change.Relation) (*event.Stream, error) {
	name := s.Name
	if name == eachTable {
		name = ownStream(rel)
	}
	if stream := m.byName[name]; stream != nil {
		return stream, nil
	}
	return m.addStream(name, s)
}

// addStream makes a stream, and refuses one whose Redis keys another stream
// has: the partitions `orders:0` of orders and a stream orders:0.
func (m *Mapper) addStream(name string, s *StreamMapping) (*event.Stream, error) {
	stream := event.NewStream(name, s.Partitions)
	for _, key := range stream.Keys {
		if other, ok := m.byKey[key]; ok {
			return nil, &Error{Where: s.Where, Stream: name,
				Problem: fmt.Sprintf("its Redis key %s is also that of stream %s", key, other), Fix: "rename one of the two"}
		}
	}
	for _, key := range stream.Keys {
		m.byKey[key] = name
	}
	m.byName[name] = stream
	m.streams = append(m.streams, stream)
	return stream, nil
}
