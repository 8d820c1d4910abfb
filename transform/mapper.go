// Package transform turns changes into events: it compiles the mapping for
// each table as its definition arrives, chooses streams, keys and types, and writes rows as the
// JSON that to_jsonb would make of them.
//
// It is pure and deterministic: the same changes and the same mapping always
// give the same events at the same positions, which is what makes replaying
// harmless. It must know no clock, no randomness and no I/O, and nothing of
// how changes are read or how events are published.
package transform

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Mapper makes events of changes. It is not safe for concurrent use: Map and
// Check reuse what they make.
type Mapper struct {
	mapping Mapping
	epoch   uint8

	streams []*event.Stream
	byName  map[string]*event.Stream
	byKey   map[string]string // Redis key to the stream that has it
	tables  map[uint32]*table // by OID, as far as seen
	met     int               // how many definitions of tables were compiled
	last    *table            // rows of one table come in runs
	// named are the tables, by OID, that the mapping was seen to name one by one.
	named map[uint32]naming

	aggregates map[*AggregateMapping]*aggregate
	declared   map[string]declarations // of messages, by stream

	// of the transaction
	gathered gathering
	commit   uint64
	time     time.Time
	xid      uint32
	ordinal  uint64

	consumes struct { // whether rows of the table asked for last are consumed
		rel  *change.Relation
		does bool
	}

	parked  *event.Stream // for changes that are set aside
	blocked event.Blocked

	// of the last Map
	changes uint64 // counted for what is kept during one
	events  []event.Event
	buf     []byte
	row     row     // what rules see, and what is published of it
	clear   row     // what conditions see of a table with masks
	trace   *tracer // nil but in Explain
	sealers sealers // of subjects, as far as their keys were given
	keyRow  row     // what key expressions see
}

// New checks the mapping as far as it can be without tables. The epoch is the
// first byte of every position.
func New(m Mapping, epoch uint8) (*Mapper, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	mapper := &Mapper{
		mapping: m,
		epoch:   epoch,
		byName:  map[string]*event.Stream{},
		byKey:   map[string]string{},
		tables:  map[uint32]*table{},
		parked:  &event.Stream{Name: m.Parked, Keys: []string{m.Parked}, Control: true},
		blocked: event.Blocked{},
		named:   map[uint32]naming{},

		aggregates: map[*AggregateMapping]*aggregate{},
		declared:   map[string]declarations{},
		gathered:   gathering{limit: maxGathered},
	}
	for i := range m.Streams {
		s := &m.Streams[i]
		if s.Name == eachTable {
			continue
		}
		if _, err := mapper.addStream(s.Name, s); err != nil {
			return nil, err
		}
		mapper.declared[s.Name] = declare(s.Messages.Events, s.Name, "", nil, s.Compatibility)
		for i := range s.Aggregates {
			mapper.aggregates[&s.Aggregates[i]] = newAggregate(&s.Aggregates[i])
		}
	}
	return mapper, nil
}

// Streams are the streams known so far: those that the mapping names, then
// those of "*" in the order in which Check or Map met their tables.
func (m *Mapper) Streams() []*event.Stream {
	return append([]*event.Stream(nil), m.streams...)
}

// Begin starts a transaction: the events of the changes that follow are at
// its commit LSN, numbered from 1. Commit ends it.
func (m *Mapper) Begin(tx change.Tx) {
	m.commit = event.Clock(m.epoch, uint64(tx.CommitLSN))
	m.time, m.xid = tx.Time, tx.XID
	m.ordinal = 0
	m.gathered.clear()
	for _, r := range []*row{&m.row, &m.clear} {
		r.commit, r.time, r.xid = m.commit, m.time, m.xid
	}
}

// Check compiles the mapping for a table and returns the streams that it
// feeds, nil when it is not mapped. The error says all that is wrong with it.
func (m *Mapper) Check(rel *change.Relation) ([]*event.Stream, error) {
	routes, err := m.compileRoutes(rel)
	problems := []error{err}
	var streams []*event.Stream
	for i := range routes {
		problems = append(problems, routes[i].key.doubt, joinErrors(routes[i].doubts))
		streams = append(streams, routes[i].stream)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	m.name(rel)
	m.learn(rel, routes, false)
	return streams, nil
}

// RowsOf is the first stream that carries the rows of a table as they are: without rules, with
// all columns under their own names, numbers as numbers. order is the columns that a row's partition in it hangs on. Without
// such a stream it is nil, and why says what each stream that takes the table does instead; "" when none takes it.
func (m *Mapper) RowsOf(rel *change.Relation) (rows *event.Stream, order []string, why string) {
	routes, err := m.compileRoutes(rel)
	if err != nil {
		return nil, nil, "the mapping does not fit it" // the table's Check says how
	}
	var reasons []string
	for i := range routes {
		does := routes[i].instead()
		if does == "" {
			return routes[i].stream, columnNames(rel, routes[i].key.reads()), ""
		}
		reasons = append(reasons, "stream "+routes[i].stream.Name+" "+does)
	}
	return nil, nil, strings.Join(reasons, "; ")
}

// instead is what a route does with rows other than to carry them as they are; "" when it does.
func (r *route) instead() string {
	switch {
	case r.outbox != nil:
		return "takes it as an outbox"
	case r.part != nil:
		return "makes an aggregate of it"
	case r.rules != nil:
		return "has rules for it"
	case r.masks != nil:
		return "masks or encrypts columns of it"
	case !r.plain:
		return "leaves columns out, renames them or writes numbers as text"
	}
	return ""
}

// maxSpare is how much memory is kept between changes. A huge row's is let go.
const maxSpare = 1 << 20

// Map makes the events of a change; none for a table that is not mapped and
// for a logical message that no stream takes. The slice and its bytes are valid until the next
// Map. The error is an *Error; the change then has no events and takes no position.
func (m *Mapper) Map(c *change.Change) ([]event.Event, error) {
	if c.Op == change.Message {
		m.reset()
		if err := m.message(c); err != nil {
			return nil, err
		}
		return m.number(), nil
	}
	t, err := m.table(c.Relation)
	if err != nil || len(t.routes) == 0 {
		return nil, err
	}
	if err := t.check(c); err != nil {
		return nil, err
	}
	if err := t.needKeys(c); err != nil {
		return nil, err
	}
	m.sealers.missed = ""
	m.reset()
	if n := size(c.New) + size(c.Old); n > cap(m.buf) {
		m.buf = make([]byte, 0, n+n/8) // a huge row at one go
	}
	switch c.Op {
	case change.Insert, change.Read, change.Delete:
		err = m.whole(t, c)
	case change.Update:
		err = m.update(t, c)
	case change.Truncate:
		err = m.truncate(t)
	default:
		err = &Error{Table: t.name, Problem: fmt.Sprintf("unknown operation %q", byte(c.Op))}
	}
	if err == nil && m.sealers.missed != "" { // needKeys has overlooked it: nothing is published as if it were forgotten
		err = &KeyNeeded{m.sealers.missed, &m.sealers}
	}
	if err != nil {
		return nil, err
	}
	return m.number(), nil
}

// reset lets go of what the last Map made.
func (m *Mapper) reset() {
	m.changes++
	m.events, m.buf = m.events[:0], m.buf[:0]
	if cap(m.buf) > maxSpare {
		m.buf = nil
	}
}

// number gives the events their positions that have none yet.
func (m *Mapper) number() []event.Event {
	for i := range m.events {
		if !m.events[i].Position.IsZero() {
			continue
		}
		m.ordinal++
		m.events[i].Position = event.Position{Commit: m.commit, Ordinal: m.ordinal}
	}
	return m.events
}

// whole makes the events of a change that has one row.
func (m *Mapper) whole(t *table, c *change.Change) error {
	unclaimed := t.outbox && c.New != nil
	for i := range t.routes {
		r := &t.routes[i]
		if r.outbox != nil {
			if c.New == nil {
				continue
			}
			took, err := m.outboxEvent(t, r, c)
			if err != nil {
				return err
			}
			unclaimed = unclaimed && !took
			continue
		}
		if !r.wants(opSetOf(c.Op)) && m.trace == nil {
			continue
		}
		shown := r.masks.of(c)
		h := half{op: c.Op, rows: rows{new: shown.New, old: shown.Old}, clear: rows{new: c.New, old: c.Old}}
		var key []byte
		if r.rules == nil || len(m.blocked) > 0 { // rules that do not match need no key
			var err error
			if key, err = m.key(t, r, h.row(), nil); err != nil && r.rules == nil {
				return err
			}
			if err != nil { // no blocked key, as no key has been; a rule that matches says so
				if err = m.emitHalf(t, r, &h, nil); err != nil {
					return err
				}
				continue
			}
		}
		if err := m.place(t, r, &h, key); err != nil {
			return err
		}
	}
	if unclaimed {
		return m.unclaimed(t, c.New)
	}
	return nil
}

// update makes the events of an update: one a stream, or two when the key changed.
func (m *Mapper) update(t *table, c *change.Change) error {
	for i := range t.routes {
		r := &t.routes[i]
		if r.outbox != nil || !r.wants(opsOfUpdate) && m.trace == nil {
			continue
		}
		if r.key.doubt != nil && c.Old == nil {
			return r.key.doubt // the key may have changed
		}
		shown := r.masks.of(c)
		key, err := m.key(t, r, shown.New, shown.Old)
		if err != nil {
			return err
		}
		oldKey := key
		if c.Old != nil {
			if oldKey, err = m.key(t, r, shown.Old, nil); err != nil {
				return err
			}
		}
		if bytes.Equal(key, oldKey) {
			err = m.place(t, r, &half{op: change.Update, rows: rows{shown.New, shown.Old, shown.Old}, clear: rows{c.New, c.Old, c.Old}}, key)
		} else {
			err = m.move(t, r, c, shown, key, oldKey)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// move deletes the row under the key that it had before an update, and
// creates it under the one that it has now.
func (m *Mapper) move(t *table, r *route, c, shown *change.Change, key, oldKey []byte) error {
	gone := half{op: change.Delete, rows: rows{old: shown.Old}, clear: rows{old: c.Old}, moved: true}
	if err := m.place(t, r, &gone, oldKey); err != nil {
		return err
	}
	come := half{op: change.Insert, rows: rows{new: shown.New, before: shown.Old}, clear: rows{new: c.New, before: c.Old}, moved: true}
	return m.place(t, r, &come, key)
}

// emitHalf makes the events of a half of a change for a stream. key is nil when it is not known yet.
func (m *Mapper) emitHalf(t *table, r *route, h *half, key []byte) error {
	if r.part != nil {
		return m.partChange(r, h, key)
	}
	if r.rules != nil {
		m.row.set(h.op, h.new, h.old, h.before, h.moved)
		m.clear.set(h.op, h.clear.new, h.clear.old, h.clear.before, h.moved)
		return m.ruleEvents(t, r, key)
	}
	data, unchanged, err := m.render(r.shape, h)
	if err != nil {
		return err
	}
	var old []byte
	if h.op == change.Update {
		if old, err = m.oldValues(r.shape, h.new, h.old); err != nil {
			return err
		}
	}
	e := m.emit(t, r, t.types.of(h.op), h.op, key)
	e.Data, e.Old, e.Unchanged = data, old, unchanged
	return m.addKeyData(e, r, h.row(), h.before)
}

// truncate tells every partition, so that the readers of each see it in its place.
func (m *Mapper) truncate(t *table) error {
	for i := range t.routes {
		r := &t.routes[i]
		if r.part != nil {
			m.partTruncate(t, r)
		}
		if r.outbox != nil || r.part != nil {
			continue
		}
		if r.rules != nil {
			m.row.set(change.Truncate, nil, nil, nil, false)
			m.clear.set(change.Truncate, nil, nil, nil, false)
			if err := m.ruleEvents(t, r, nil); err != nil {
				return err
			}
			continue
		}
		m.everywhere(t, r, t.types.truncated)
	}
	return nil
}

// everywhere emits an event of a truncate to every partition.
func (m *Mapper) everywhere(t *table, r *route, typ string) {
	for p := range r.stream.Keys {
		m.emit(t, r, typ, change.Truncate, nil).Partition = p
	}
}

// emit adds an event; what it does not know is the caller's to fill in.
func (m *Mapper) emit(t *table, r *route, typ string, op change.Op, key []byte) *event.Event {
	m.events = append(m.events, event.Event{
		Stream:    r.stream,
		Partition: r.stream.Partition(key),
		Type:      typ,
		Key:       key,
		Op:        byte(op),
		Table:     t.name,
		Time:      m.time,
		Tx:        m.xid,
		Schema:    r.schema.Version,
		Shape:     r.schema,
	})
	return &m.events[len(m.events)-1]
}

// render writes a row whole, once a change; what it was sent without is taken from before.
func (m *Mapper) render(s *shape, h *half) (data, unchanged []byte, err error) {
	if s.change == m.changes && !h.moved {
		return s.data, s.unchanged, nil
	}
	start := len(m.buf)
	if m.buf, err = s.appendRow(m.buf, h.row(), h.before); err != nil {
		return nil, nil, err
	}
	end := len(m.buf)
	m.buf = s.appendUnchanged(m.buf, h.row(), h.before)
	data, unchanged = m.buf[start:end:end], m.buf[end:]
	if !h.moved { // of those there are two in a change
		s.data, s.unchanged, s.change = data, unchanged, m.changes
	}
	return data, unchanged, nil
}

// oldValues writes the old values that an update changed, or all of them for an envelope.
func (m *Mapper) oldValues(s *shape, new, old []change.Value) (_ []byte, err error) {
	start := len(m.buf)
	switch {
	case old == nil:
		return nil, nil
	case s.oldChange == m.changes:
		return s.old, nil
	case m.mapping.Envelope:
		m.buf, err = s.appendRow(m.buf, old, nil)
	default:
		m.buf, err = s.appendOld(m.buf, new, old)
	}
	s.old, s.oldChange = m.buf[start:], m.changes
	return s.old, err
}

func (m *Mapper) key(t *table, r *route, row, before []change.Value) ([]byte, error) {
	start := len(m.buf)
	if r.key.expr != nil {
		return m.keyValue(t, r, row, before)
	}
	var missing int
	m.buf, missing = appendKey(m.buf, r.key.columns, row, before)
	if missing >= 0 {
		name := t.rel.Columns[missing].Name
		return nil, &Error{Where: r.where, Table: t.name, Columns: []string{name},
			Problem: fmt.Sprintf("Postgres did not send key column %s", name),
			Fix:     fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", sqlName(t.rel))}
	}
	return m.buf[start:], nil
}

// addKeyData sets KeyData when the mapping asks for it.
func (m *Mapper) addKeyData(e *event.Event, r *route, row, before []change.Value) (err error) {
	if r.keyShape == nil {
		return nil
	}
	start := len(m.buf)
	m.buf, err = r.keyShape.appendRow(m.buf, row, before)
	e.KeyData = m.buf[start:]
	return err
}

// keyValue is a key that an expression makes; NULL is the empty key, as a column's NULL is.
func (m *Mapper) keyValue(t *table, r *route, row, before []change.Value) ([]byte, error) {
	if r.masks == nil {
		m.keyRow.begin(t.rel, t.appenders)
	} else {
		m.keyRow.begin(r.masks.rel, r.masks.appenders)
	}
	m.keyRow.set(change.Read, row, nil, before, false)
	v := r.key.value(&m.keyRow)
	if f := m.keyRow.failed; f != nil {
		return nil, &Error{Where: f.expr.where(f.at), Table: t.name, Problem: "the key cannot be made: " + f.problem, Fix: f.fix}
	}
	start := len(m.buf)
	if v.kind != kindNull { // text or a whole number
		v, _ = toText(v, &m.keyRow.scratch)
		m.buf = append(m.buf, v.text...)
	}
	return m.buf[start:], nil
}

// size is how many bytes a row's values have.
func size(row []change.Value) int {
	n := 0
	for i := range row {
		n += len(row[i].Data)
	}
	return n
}
