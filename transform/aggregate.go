package transform

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// AggregateMapping makes one event of all that a transaction did to a root row and to the rows of child tables that belong to it.
type AggregateMapping struct {
	Name     string // types are <name>.created, .updated, .deleted, .truncated and .read
	Root     TableMapping
	Children []ChildMapping
	Version  int // at least, of the data of its events; 0 leaves it to the catalogue
	// Compatibility is what new versions of the data must keep, the stream's when empty.
	Compatibility event.Compatibility
	Where         string // file:line for errors, optional
}

// ChildMapping is a table whose rows belong to root rows: its Key holds a root's key, column by column.
type ChildMapping struct {
	Name string // the member of data
	TableMapping
	One bool // a root has at most one such row: the member is an object, and not a list of changes
}

// aggregate is an AggregateMapping, compiled as far as it can be without tables.
type aggregate struct {
	mapping  *AggregateMapping
	types    eventTypes
	keyNames []string    // the root's key columns as events call them
	children []member    // their names
	known    []knownPart // the root's rows, then each child's
	schemas  aggregateSchemas
	groups   map[string]int // by key, indexes of gathering.groups
}

// partRoute says which part of an aggregate a table is.
type partRoute struct {
	agg   *aggregate
	child int      // 0 is the root, 1 the first child
	key   []column // the key's columns under the root's names

	keySchema []event.SchemaColumn
}

func newAggregate(a *AggregateMapping) *aggregate {
	out := &aggregate{mapping: a, groups: map[string]int{},
		types: eventTypes{a.Name + ".created", a.Name + ".updated", a.Name + ".deleted", a.Name + ".truncated", a.Name + ".read"}}
	for _, name := range a.Root.Key {
		for _, r := range a.Root.Columns.Rename {
			if r.From.Name == name {
				name = r.To
			}
		}
		out.keyNames = append(out.keyNames, name)
	}
	for i := range a.Children {
		out.children = append(out.children, newMember(a.Children[i].Name, nil, encoding{}))
	}
	out.known = make([]knownPart, 1+len(a.Children))
	return out
}

func (a *AggregateMapping) validate(s *StreamMapping) error {
	if s.Name == eachTable {
		return &Error{Where: a.Where, Stream: s.Name, Problem: "an aggregate is of several tables, and none gives the stream its name", Fix: "give it a stream with a name"}
	}
	if err := errors.Join(a.Root.validateMasks(), a.validateTypes(s)); err != nil {
		return err
	}
	for i := range a.Children {
		if err := a.Children[i].validateMasks(); err != nil {
			return err
		}
		if c := &a.Children[i]; len(c.Key) != len(a.Root.Key) || len(c.Key) == 0 {
			return &Error{Where: c.KeyWhere, Stream: s.Name, Table: c.Pattern, Columns: c.Key,
				Problem: fmt.Sprintf("its key has %d columns, and that of the root %s has %d", len(c.Key), a.Root.Pattern, len(a.Root.Key)),
				Fix:     "name the columns that hold the root's key, in its order"}
		}
	}
	return nil
}

// validateTypes refuses rules whose events would be called as the aggregate's: to consumers they would be one type.
func (a *AggregateMapping) validateTypes(s *StreamMapping) error {
	types := newAggregate(a).types
	own := []string{types.created, types.updated, types.deleted, types.truncated, types.read}
	var errs []error
	for i := range s.Tables {
		for j := range s.Tables[i].Rules {
			if r := &s.Tables[i].Rules[j]; slices.Contains(own, r.Type) {
				errs = append(errs, &Error{Where: r.Where, Table: s.Tables[i].Pattern,
					Problem: fmt.Sprintf("events of the aggregate %s are called %s, too", a.Name, r.Type), Fix: "give the rule another type, or the aggregate another name"})
			}
		}
	}
	return errors.Join(errs...)
}

// parts calls use with each part of an aggregate that the table is.
func (a *AggregateMapping) parts(rel *change.Relation, use func(child int, tm *TableMapping)) {
	name := rel.String()
	if a.Root.Pattern == name {
		use(0, &a.Root)
	}
	for i := range a.Children {
		if a.Children[i].Pattern == name {
			use(i+1, &a.Children[i].TableMapping)
		}
	}
}

// aggregated returns what the first of the stream's aggregates says of the table, nil when none has it.
func (s *StreamMapping) aggregated(rel *change.Relation) (first *TableMapping) {
	for i := range s.Aggregates {
		s.Aggregates[i].parts(rel, func(_ int, tm *TableMapping) {
			if first == nil {
				first = tm
			}
		})
	}
	return first
}

// aggregateRoute compiles what an aggregate says of one of its tables.
func aggregateRoute(rel *change.Relation, tm *TableMapping, agg *aggregate, child int, keys *sealers) (route, error) {
	masks, errs := newMasker(rel, tm, keys)
	shown := masks.seen(rel)
	key, err := newKeyer(shown, tm)
	errs = append(errs, masks.checkKey(&key)...)
	e := encoding{numbersAsText: tm.NumbersAsText}
	shape, problems := newShape(shown, &tm.Columns, e)
	shape.describe(masks)
	errs = append(errs, problems...)
	part := &partRoute{agg: agg, child: child}
	roots := encoding{numbersAsText: agg.mapping.Root.NumbersAsText} // whichever table has changed, the key is the root's
	for i, c := range key.columns {
		part.key = append(part.key, column{member: newMember(agg.keyNames[i], shown.Columns[c].Type, roots), index: c})
		part.keySchema = append(part.keySchema, event.SchemaColumn{Name: agg.keyNames[i], Type: shown.Columns[c].TypeName,
			JSON: roots.jsonKind(shown.Columns[c].Type), Mask: string(masks.kindOf(c))})
	}
	if child == 0 {
		errs = append(errs, agg.collisions(rel, shape)...)
	}
	r := route{key: key, shape: shape, masks: masks, part: part, where: tm.Where, plain: tm.Columns.all() && !tm.NumbersAsText && masks == nil}
	return r, errors.Join(err, joinErrors(errs))
}

// collisions are children that are called as a column of the root.
func (a *aggregate) collisions(rel *change.Relation, root *shape) (errs []*Error) {
	for _, c := range a.mapping.Children {
		for _, column := range root.schema {
			if column.Name == c.Name {
				errs = append(errs, &Error{Where: c.Where, Table: rel.String(), Columns: []string{c.Name},
					Problem: fmt.Sprintf("a column and a child of the aggregate %s are both called %s", a.mapping.Name, c.Name), Fix: "give the child another name"})
			}
		}
	}
	return errs
}

// partChange takes a half of a change into its aggregate.
func (m *Mapper) partChange(r *route, h *half, key []byte) error {
	var old []byte
	data, unchanged, err := m.render(r.shape, h)
	if err == nil && h.op == change.Update {
		old, err = m.oldValues(r.shape, h.new, h.old)
	}
	if err != nil {
		return err
	}
	row := h.row()
	start := len(m.buf)
	for i := range r.part.key {
		c := &r.part.key[i]
		v := &row[c.index]
		if v.Kind == change.Unchanged && h.before != nil {
			v = &h.before[c.index]
		}
		if v.Kind != change.Text {
			m.buf = c.appendNull(m.buf)
			continue
		}
		if m.buf, err = c.append(append(m.buf, c.name...), v.Data); err != nil {
			return valueError(r.shape.rel, c.index, err)
		}
	}
	m.buf = closeObject(m.buf, start)
	keyData := m.buf[start:]
	if h.op == change.Read {
		m.partRead(r, key, keyData, data)
		return nil
	}
	m.gathered.take(r, h.op, key, keyData, data, old, unchanged)
	if m.gathered.size() > m.gathered.limit {
		m.release(true)
	}
	return nil
}

// partRead tells of a row that was there already: on its own, since no transaction puts it beside others.
func (m *Mapper) partRead(r *route, key, keyData, data []byte) {
	a := r.part.agg
	if r.part.child > 0 {
		start := len(m.buf)
		m.buf = append(append(m.buf, keyData[:len(keyData)-1]...), a.children[r.part.child-1].name...)
		change := appendChange(nil, change.Read, data, nil, nil)
		if a.mapping.Children[r.part.child-1].One {
			m.buf = append(m.buf, change...)
		} else {
			m.buf = append(append(append(m.buf, '['), change...), ']')
		}
		m.buf = append(m.buf, '}')
		data = m.buf[start:]
	}
	e := m.partEvent(r.stream, a, a.types.read, change.Read, key, keyData)
	e.Data = data
}

// partEvent adds an event of an aggregate.
func (m *Mapper) partEvent(stream *event.Stream, a *aggregate, typ string, op change.Op, key, keyData []byte) *event.Event {
	e := event.Event{Stream: stream, Partition: stream.Partition(key), Type: typ, Key: key, Op: byte(op), Table: a.mapping.Root.Pattern, Time: m.time, Tx: m.xid}
	if e.Shape = a.schemas.of(op); e.Shape != nil {
		e.Schema = e.Shape.Version
	}
	if m.mapping.Envelope {
		e.KeyData = keyData
	}
	m.events = append(m.events, e)
	return &m.events[len(m.events)-1]
}

// Commit ends a transaction and makes the events of its aggregates, in the order in which their root rows were first touched.
// The slice and its bytes are valid until the next Map.
func (m *Mapper) Commit() []event.Event {
	m.reset()
	m.release(false)
	return m.number()
}

var partialHeaders = []byte(`{"partial":true}`)

// release makes events of what was gathered. Partial says that the transaction may have more.
func (m *Mapper) release(partial bool) {
	g := &m.gathered
	if n := len(g.arena) + 32*len(g.groups); n > cap(m.buf)-len(m.buf) {
		m.buf = make([]byte, 0, n+n/8) // at one go; what is in the old one stays as it is
	}
	for i := range g.groups {
		m.groupEvent(&g.groups[i], partial)
	}
	g.clear()
}

func (m *Mapper) groupEvent(g *group, partial bool) {
	root := &m.gathered.parts[g.first]
	op := root.op()
	typ := g.agg.types.updated
	switch op {
	case change.Insert:
		typ = g.agg.types.created
	case change.Delete:
		typ = g.agg.types.deleted
	}
	// The arena is soon used again, so the event has copies.
	start := len(m.buf)
	m.buf = append(m.buf, m.gathered.bytes(g.key)...)
	key := m.buf[start:]
	start = len(m.buf)
	m.buf = append(m.buf, m.gathered.bytes(g.keyData)...)
	e := m.partEvent(g.stream, g.agg, typ, op, key, m.buf[start:])
	start = len(m.buf)
	m.buf = m.gathered.appendData(m.buf, g)
	e.Data = m.buf[start:]
	if op == change.Update && !root.old.empty() {
		start = len(m.buf)
		m.buf = append(m.buf, m.gathered.bytes(root.old)...)
		e.Old = m.buf[start:]
	}
	if op != change.Delete {
		start = len(m.buf)
		m.buf = append(m.buf, m.gathered.bytes(root.unchanged)...)
		e.Unchanged = m.buf[start:]
	}
	if partial {
		e.Headers = partialHeaders
	}
}

// partTruncate tells every partition that a table of an aggregate was emptied, behind what was gathered before.
func (m *Mapper) partTruncate(t *table, r *route) {
	m.release(true)
	for p := range r.stream.Keys {
		e := m.partEvent(r.stream, r.part.agg, r.part.agg.types.truncated, change.Truncate, nil, nil)
		e.Partition, e.Table = p, t.name
	}
}
