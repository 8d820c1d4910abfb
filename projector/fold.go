package projector

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/walrill/walrill/event"
)

// Column is a column of a mirror.
type Column struct {
	Name string `json:"name"` // in the source
	As   string `json:"as"`   // in the mirror
	Type string `json:"type"` // in the mirror

	Collation string `json:"collation,omitempty"` // where it is not the type's own
}

// sql is a column's type as CREATE TABLE takes it.
func (c *Column) sql() string {
	if c.Collation == "" {
		return c.Type
	}
	return c.Type + " COLLATE " + c.Collation
}

// row is the values of a mirror's columns as JSON; nil is a value that Postgres did not send.
type row [][]byte

func (r row) complete() bool {
	for _, v := range r {
		if v == nil {
			return false
		}
	}
	return true
}

// fill takes what is missing from an earlier version of the row.
func (r row) fill(from row) {
	for i, v := range r {
		if v == nil {
			r[i] = from[i]
		}
	}
}

// change is what is to become of one row of a mirror.
type change struct {
	key    []byte // JSON object of the key's columns
	row    row    // nil: deleted
	before row    // of a deletion: what an earlier change of this batch had made of the row, if any
}

// missing is the set of columns that keep the mirror's value, as text to group rows by.
func (c *change) missing() string {
	if c.row.complete() {
		return ""
	}
	set := make([]byte, len(c.row))
	for i, v := range c.row {
		set[i] = '1'
		if v == nil {
			set[i] = '0'
		}
	}
	return string(set)
}

// fold gathers the events of one table into the last state of each row. Only the state at
// the end of a batch counts, because a batch is whole transactions. It does no I/O.
type fold struct {
	columns []Column
	names   [][]byte // of the columns in the mirror, as they stand in a JSON object
	key     []int    // of columns
	index   map[string]int

	truncated bool // before all else
	changes   map[string]*change
	order     []*change // as first met; some may not be in changes any more
	bytes     int
	last      *event.Event // when it was a deletion

	buries  bool    // of a worker: deletions are kept
	graves  []grave // those
	lacking absent  // for a row that came from a key whose deletion was not added here; nil when each is

	scratch row // of the old key
}

// maxFold is how many bytes of rows a fold may hold before they are sent to the store.
const maxFold = 4 << 20

func newFold(columns []Column, key []string) *fold {
	f := &fold{columns: columns, index: map[string]int{}, changes: map[string]*change{}, scratch: make(row, len(columns))}
	for i, c := range columns {
		f.index[c.Name] = i
		quoted, _ := json.Marshal(c.As) // of a string: never fails
		f.names = append(f.names, append(quoted, ':'))
	}
	for _, name := range key {
		f.key = append(f.key, f.index[name])
	}
	return f
}

// reset forgets what was sent to the store, or was given up.
func (f *fold) reset() {
	f.truncated, f.bytes, f.last = false, 0, nil
	clear(f.changes)
	f.order, f.graves = f.order[:0], f.graves[:0]
}

func (f *fold) empty() bool { return !f.truncated && len(f.order) == 0 }

// mayFlush reports whether what is gathered may go to the store before the event: a deletion
// that the event continues, because the row moved to another key, stays with it.
func (f *fold) mayFlush(e *event.Event) bool {
	return f.last == nil || !continues(f.last, e)
}

// continues reports whether e is the second half of an update that changed the key.
func continues(last, e *event.Event) bool {
	return last.Position.Commit == e.Position.Commit && last.Position.Ordinal+1 == e.Position.Ordinal && last.Table == e.Table && e.Op == 'c'
}

// lookup fetches the mirror's row of a key; nil when there is none. Changes that are gathered are not in it.
type lookup func(key []byte) (row, error)

// A SchemaError says that an entry's columns are not those that a mirror was made for.
type SchemaError struct {
	Table, Column string
	Position      event.Position
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("the entry at %v of table %s has no column %s, which a view uses: the table was altered", e.Position, e.Table, e.Column)
}

// add takes an event. It keeps its bytes.
func (f *fold) add(e *event.Event, stored lookup) error {
	last := f.last
	f.last = nil
	switch e.Op {
	case 't':
		f.reset()
		f.truncated = true
		return nil
	case 'd':
		values, err := f.parse(e, e.Data, false)
		if err != nil {
			return err
		}
		key := f.keyOf(values)
		f.bury(e, key)
		f.delete(key)
		f.last = e
		return nil
	case 'c', 'r', 'u':
	default:
		return nil // a logical message
	}
	values, err := f.parse(e, e.Data, true)
	if err != nil {
		return err
	}
	key := f.keyOf(values)
	oldKey, err := f.oldKey(e, values, last)
	if err != nil {
		return err
	}
	if e.Op == 'c' && oldKey == nil && f.lacking != nil && !values.complete() {
		before, err := f.lacking(e)
		if err != nil {
			return err
		}
		if before != nil {
			values.fill(before)
		}
	}
	if oldKey != nil && !bytes.Equal(oldKey, key) {
		if !values.complete() {
			before, err := f.current(oldKey, stored)
			if err != nil {
				return err
			}
			if before != nil {
				values.fill(before)
			}
		}
		f.delete(oldKey)
	}
	f.upsert(key, values)
	return nil
}

// bury keeps what the batch has made of a row that is deleted.
func (f *fold) bury(e *event.Event, key []byte) {
	if !f.buries {
		return
	}
	g := grave{at: e.Position, key: key}
	if c := f.changes[string(key)]; c != nil {
		g.row = c.row
	}
	f.graves = append(f.graves, g)
	f.bytes += len(key) + 64
}

// oldKey is the key that the row had before an update; nil when it is not known to differ.
func (f *fold) oldKey(e *event.Event, values row, last *event.Event) ([]byte, error) {
	if e.Op == 'c' && last != nil && continues(last, e) {
		before, err := f.parse(last, last.Data, false)
		if err != nil {
			return nil, err
		}
		return f.keyOf(before), nil
	}
	if e.Op != 'u' || len(e.Old) == 0 {
		return nil, nil
	}
	old := f.scratch
	copy(old, values)
	moved := false
	err := eachField(e.Old, func(name, value []byte) {
		if i, ok := f.index[string(name)]; ok {
			old[i] = value
			moved = moved || f.isKey(i)
		}
	})
	if err != nil || !moved {
		return nil, err
	}
	return f.keyOf(old), nil
}

func (f *fold) isKey(column int) bool {
	for _, k := range f.key {
		if k == column {
			return true
		}
	}
	return false
}

// current is the row of a key as it is now, gathered changes included.
func (f *fold) current(key []byte, stored lookup) (row, error) {
	if c := f.changes[string(key)]; c != nil {
		before := c.row
		if before == nil {
			before = c.before
		}
		if before != nil && before.complete() {
			return before, nil
		}
	}
	if f.truncated {
		return nil, nil
	}
	return stored(key)
}

// parse reads an entry's row. With whole, every column must be there or among the unchanged ones.
func (f *fold) parse(e *event.Event, data []byte, whole bool) (row, error) {
	values := make(row, len(f.columns))
	if err := eachField(data, func(name, value []byte) {
		if i, ok := f.index[string(name)]; ok {
			values[i] = value
		}
	}); err != nil {
		return nil, fmt.Errorf("read data of the entry at %v: %w", e.Position, err)
	}
	missing := 0
	for i, v := range values {
		if v == nil {
			missing++
			if f.isKey(i) {
				return nil, &SchemaError{e.Table, f.columns[i].Name, e.Position}
			}
		}
	}
	if !whole || missing == 0 {
		return values, nil
	}
	var unchanged []string
	if len(e.Unchanged) > 0 {
		if err := json.Unmarshal(e.Unchanged, &unchanged); err != nil {
			return nil, fmt.Errorf("read unchanged of the entry at %v: %w", e.Position, err)
		}
	}
	for i, v := range values {
		if v == nil && !contains(unchanged, f.columns[i].Name) {
			return nil, &SchemaError{e.Table, f.columns[i].Name, e.Position}
		}
	}
	return values, nil
}

// keyOf writes the key's columns as a JSON object with the mirror's names.
func (f *fold) keyOf(values row) []byte {
	b := []byte{'{'}
	for i, k := range f.key {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, f.names[k]...), values[k]...)
	}
	return append(b, '}')
}

// object writes the values that a row has as a JSON object with the mirror's names.
func (f *fold) object(r row) []byte {
	size := 1
	for i, v := range r {
		size += len(f.names[i]) + len(v) + 1
	}
	b := append(make([]byte, 0, size), '{')
	for i, v := range r {
		if v == nil {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(b, f.names[i]...), v...)
	}
	return append(b, '}')
}

func (f *fold) upsert(key []byte, values row) {
	c := f.changes[string(key)]
	if c == nil {
		c = f.note(key)
	} else if before := c.row; before != nil {
		values.fill(before)
	} else if c.before != nil {
		values.fill(c.before)
	}
	c.row, c.before = values, nil
	for _, v := range values {
		f.bytes += len(v)
	}
}

func (f *fold) delete(key []byte) {
	c := f.changes[string(key)]
	if c == nil {
		c = f.note(key)
	}
	if c.row != nil {
		c.before = c.row
	}
	c.row = nil
}

func (f *fold) note(key []byte) *change {
	c := &change{key: key}
	f.changes[string(key)] = c
	f.order = append(f.order, c)
	f.bytes += len(key) + 64
	return c
}

// deleted is the keys of the rows that go, each a JSON object.
func (f *fold) deleted() [][]byte {
	var keys [][]byte
	for _, c := range f.order {
		if c.row == nil {
			keys = append(keys, c.key)
		}
	}
	return keys
}

// upserted groups the rows that stay by the columns that they lack; each row is a JSON object.
func (f *fold) upserted() map[string][][]byte {
	groups := map[string][][]byte{}
	for _, c := range f.order {
		if c.row == nil {
			continue
		}
		set := c.missing()
		groups[set] = append(groups[set], f.object(c.row))
	}
	return groups
}

// array makes a JSON array of JSON values.
func array(values [][]byte) []byte {
	return append(append([]byte{'['}, bytes.Join(values, []byte{','})...), ']')
}
