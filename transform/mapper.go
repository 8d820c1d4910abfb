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
	"fmt"
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
	last    *table            // rows of one table come in runs
	// named are the tables, by OID, that the mapping was seen to name one by one.
	named map[uint32]naming

	// of the transaction
	commit  uint64
	time    time.Time
	xid     uint32
	ordinal uint64

	// of the last Map
	events []event.Event
	buf    []byte
	keyRow []change.Value
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
		named:   map[uint32]naming{},
	}
	for i := range m.Streams {
		s := &m.Streams[i]
		if s.Name == eachTable {
			continue
		}
		if _, err := mapper.addStream(s.Name, s); err != nil {
			return nil, err
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
// its commit LSN, numbered from 1.
func (m *Mapper) Begin(tx change.Tx) {
	m.commit = event.Clock(m.epoch, uint64(tx.CommitLSN))
	m.time, m.xid = tx.Time, tx.XID
	m.ordinal = 0
}

// Check compiles the mapping for a table and returns the streams that it
// feeds, nil when it is not mapped. The error is an *Error that says what is wrong with it.
func (m *Mapper) Check(rel *change.Relation) ([]*event.Stream, error) {
	routes, err := m.compileRoutes(rel)
	if err != nil {
		return nil, err
	}
	var streams []*event.Stream
	for i := range routes {
		if routes[i].doubt != nil {
			return nil, routes[i].doubt
		}
		streams = append(streams, routes[i].stream)
	}
	m.name(rel)
	return streams, nil
}

// maxSpare is how much memory is kept between changes. A huge row's is let go.
const maxSpare = 1 << 20

// Map makes the events of a change; none for a table that is not mapped and
// for a logical message. The slice and its bytes are valid until the next
// Map. The error is an *Error; the change then has no events and takes no position.
func (m *Mapper) Map(c *change.Change) ([]event.Event, error) {
	if c.Op == change.Message {
		return nil, nil
	}
	t, err := m.table(c.Relation)
	if err != nil || len(t.routes) == 0 {
		return nil, err
	}
	if err := t.check(c); err != nil {
		return nil, err
	}
	m.events, m.buf = m.events[:0], m.buf[:0]
	if cap(m.buf) > maxSpare {
		m.buf = nil
	}
	if n := size(c.New) + size(c.Old); n > cap(m.buf) {
		m.buf = make([]byte, 0, n+n/8) // a huge row at one go
	}
	switch c.Op {
	case change.Insert:
		err = m.whole(t, t.types.created, c.Op, c.New)
	case change.Read:
		err = m.whole(t, t.types.read, c.Op, c.New)
	case change.Delete:
		err = m.whole(t, t.types.deleted, c.Op, c.Old)
	case change.Update:
		err = m.update(t, c)
	case change.Truncate:
		m.truncate(t)
	default:
		err = &Error{Table: t.name, Problem: fmt.Sprintf("unknown operation %q", byte(c.Op))}
	}
	if err != nil {
		return nil, err
	}
	for i := range m.events {
		m.ordinal++
		m.events[i].Position = event.Position{Commit: m.commit, Ordinal: m.ordinal}
	}
	return m.events, nil
}

// whole makes the events of a change that has one row.
func (m *Mapper) whole(t *table, typ string, op change.Op, row []change.Value) error {
	data, err := m.row(t, row, nil)
	if err != nil {
		return err
	}
	unchanged := m.unchanged(t, row, nil)
	for i := range t.routes {
		r := &t.routes[i]
		key, err := m.key(t, r, row, nil)
		if err != nil {
			return err
		}
		e := m.emit(t, r, typ, op, key)
		e.Data, e.Unchanged = data, unchanged
		if err := m.addKeyData(e, t, r, row, nil); err != nil {
			return err
		}
	}
	return nil
}

// update makes the events of an update: one, or two when the key changed.
func (m *Mapper) update(t *table, c *change.Change) error {
	data, err := m.row(t, c.New, c.Old)
	if err != nil {
		return err
	}
	unchanged := m.unchanged(t, c.New, c.Old)
	var old []byte
	if c.Old != nil {
		start := len(m.buf)
		if m.mapping.Envelope {
			m.buf, err = t.appendRow(m.buf, c.Old, nil)
		} else {
			m.buf, err = t.appendOld(m.buf, c.New, c.Old)
		}
		if err != nil {
			return err
		}
		old = m.buf[start:]
	}
	for i := range t.routes {
		r := &t.routes[i]
		if r.doubt != nil && c.Old == nil {
			return r.doubt // the key may have changed
		}
		key, err := m.key(t, r, c.New, c.Old)
		if err != nil {
			return err
		}
		if c.Old != nil {
			oldKey, err := m.key(t, r, c.Old, nil)
			if err != nil {
				return err
			}
			if !bytes.Equal(key, oldKey) {
				if err := m.moved(t, r, c, oldKey); err != nil {
					return err
				}
				e := m.emit(t, r, t.types.created, change.Insert, key)
				e.Data, e.Unchanged = data, unchanged
				if err := m.addKeyData(e, t, r, c.New, c.Old); err != nil {
					return err
				}
				continue
			}
		}
		e := m.emit(t, r, t.types.updated, change.Update, key)
		e.Data, e.Old, e.Unchanged = data, old, unchanged
		if err := m.addKeyData(e, t, r, c.New, c.Old); err != nil {
			return err
		}
	}
	return nil
}

// moved deletes the row under the key that it had before an update.
func (m *Mapper) moved(t *table, r *route, c *change.Change, oldKey []byte) error {
	data, err := m.row(t, c.Old, nil)
	if err != nil {
		return err
	}
	e := m.emit(t, r, t.types.deleted, change.Delete, oldKey)
	e.Data = data
	return m.addKeyData(e, t, r, c.Old, nil)
}

// truncate tells every partition, so that the readers of each see it in its place.
func (m *Mapper) truncate(t *table) {
	for i := range t.routes {
		r := &t.routes[i]
		for p := range r.stream.Keys {
			m.emit(t, r, t.types.truncated, change.Truncate, nil).Partition = p
		}
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

func (m *Mapper) row(t *table, row, before []change.Value) ([]byte, error) {
	start := len(m.buf)
	var err error
	m.buf, err = t.appendRow(m.buf, row, before)
	return m.buf[start:], err
}

func (m *Mapper) unchanged(t *table, row, before []change.Value) []byte {
	start := len(m.buf)
	m.buf = t.appendUnchanged(m.buf, row, before)
	return m.buf[start:]
}

func (m *Mapper) key(t *table, r *route, row, before []change.Value) ([]byte, error) {
	start := len(m.buf)
	var missing int
	m.buf, missing = appendKey(m.buf, r.key, row, before)
	if missing >= 0 {
		name := t.rel.Columns[missing].Name
		return nil, &Error{Where: r.where, Table: t.name, Columns: []string{name},
			Problem: fmt.Sprintf("Postgres did not send key column %s", name),
			Fix:     fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", sqlName(t.rel))}
	}
	return m.buf[start:], nil
}

// addKeyData sets KeyData when the mapping asks for it.
func (m *Mapper) addKeyData(e *event.Event, t *table, r *route, row, before []change.Value) error {
	if !m.mapping.Envelope {
		return nil
	}
	return m.writeKeyData(e, t, r, row, before)
}

func (m *Mapper) writeKeyData(e *event.Event, t *table, r *route, row, before []change.Value) (err error) {
	m.keyRow = m.keyRow[:0]
	for range row {
		m.keyRow = append(m.keyRow, change.Value{Kind: change.Absent})
	}
	for _, i := range r.key {
		m.keyRow[i] = row[i]
	}
	e.KeyData, err = m.row(t, m.keyRow, before)
	return err
}

// size is how many bytes a row's values have.
func size(row []change.Value) int {
	n := 0
	for i := range row {
		n += len(row[i].Data)
	}
	return n
}
