package capture

import (
	"fmt"

	"github.com/walrill/walrill/change"
)

// window is the stretch of the stream between a chunk's low and high: it
// watches the changes of the chunk's table and decides at high what of the chunk is published.
//
// The chunk was read in a snapshot taken between low and high. A change delivered before
// low is in the snapshot, or the chunk is read again (hidden). A change delivered after high comes after
// the rows and so may differ from them. What changed in between is dropped from the
// chunk, because its own events say it all; all but the values that Postgres did not
// send, which the row in the chunk has: those rows are published merged.
type window struct {
	table  *armed
	number uint64
	before []uint32 // delivered before low and perhaps not in the snapshot
	open   bool     // low has come
	wiped  bool     // by TRUNCATE
	spoilt string   // why the chunk must be read again
	bytes  int
	rows   map[string]*touched // by key
	rel    *change.Relation    // of the rows, when there is no key

	chunk *chunk       // set when it has been read, before high can come
	pre   snapshot     // taken before low
	done  chan outcome // capacity 1
	end   change.LSN   // of high's commit
	count int          // rows handed out
}

// outcome is what became of a chunk.
type outcome struct {
	again string     // why it must be read again; empty: its rows are durable
	end   change.LSN // the end of high's commit
	count int        // rows that were published
}

// touched is a row that changed in the window, as it is after the last change.
type touched struct {
	rel     *change.Relation
	values  []change.Value // nil: deleted
	missing bool           // some value was not sent in the window
	moved   bool           // it came from another key, or its table was altered: the chunk's row under the key may be another one
}

// maxWindowBytes bounds what a window keeps of the stream. A chunk whose window sees more
// is read again, in smaller pieces.
const maxWindowBytes = 16 << 20

func (w *window) spoil(format string, args ...any) {
	if w.spoilt == "" {
		w.spoilt = fmt.Sprintf(format, args...)
	}
	w.rows, w.bytes = nil, 0
}

// see takes note of a change of the table.
func (w *window) see(c *change.Change, newKey, oldKey string) {
	if w.spoilt != "" {
		return
	}
	switch c.Op {
	case change.Truncate:
		w.wiped = true
		w.rows, w.bytes = map[string]*touched{}, 0
	case change.Delete:
		w.put(oldKey, &touched{})
	case change.Insert:
		w.put(newKey, newTouched(c, nil))
	case change.Update:
		t := newTouched(c, w.rows[oldKey])
		if oldKey != newKey {
			t.moved = true
			w.put(oldKey, &touched{})
		}
		w.put(newKey, t)
	}
}

// seeWhole is see for a table without a key: rows of the chunk that equal the row before or after the change are
// dropped. Equal rows are one to a reader.
func (w *window) seeWhole(c *change.Change, before string) {
	if w.spoilt != "" {
		return
	}
	if w.rel == nil {
		w.rel = c.Relation
	}
	if !sameShape(w.rel, c.Relation) {
		w.spoil("the table was altered")
		return
	}
	if c.Old != nil {
		w.put(before, &touched{})
	}
	if c.New != nil {
		after, ok := appendRow(nil, c.New, c.Old)
		if !ok {
			w.spoil("a change did not show the whole row")
			return
		}
		w.put(string(after), &touched{})
	}
}

func (w *window) put(key string, t *touched) {
	w.bytes += 2*len(key) + 128
	for i := range t.values {
		w.bytes += len(t.values[i].Data) + 32
	}
	if w.rows[key] = t; w.bytes > maxWindowBytes {
		w.spoil("more than %d MiB of changes of the table came between its marks", maxWindowBytes>>20)
	}
}

// newTouched copies the row after a change. What was not sent is taken from the row before.
func newTouched(c *change.Change, before *touched) *touched {
	t := &touched{rel: c.Relation, values: make([]change.Value, len(c.New))}
	size := 0
	for i := range c.New {
		size += len(c.New[i].Data)
	}
	buf := make([]byte, 0, size)
	for i, v := range c.New {
		if v.Kind == change.Unchanged && c.Old != nil && (c.Old[i].Kind == change.Text || c.Old[i].Kind == change.Null) {
			v = c.Old[i]
		}
		if v.Kind == change.Unchanged && before != nil && before.rel == c.Relation {
			t.values[i] = before.values[i] // a copy already
		} else {
			start := len(buf)
			buf = append(buf, v.Data...)
			t.values[i] = change.Value{Kind: v.Kind, Data: buf[start:len(buf):len(buf)]}
		}
		t.missing = t.missing || t.values[i].Kind == change.Unchanged
	}
	t.moved = before != nil && (before.moved || before.rel != c.Relation)
	return t
}

// hidden returns a transaction that was delivered before low but is not in the chunk's snapshot.
func (w *window) hidden() (uint32, bool) {
	for _, xid := range w.before {
		if !w.chunk.snap.sees(xid) {
			return xid, true
		}
	}
	return 0, false
}

// verdict says at high why the chunk must be read again; empty when it need not.
func (w *window) verdict() string {
	if w.spoilt != "" {
		return w.spoilt
	}
	if w.chunk == nil {
		return "its high mark came before its rows"
	}
	if w.rel != nil && !sameShape(w.rel, w.chunk.rel) {
		return "the table was altered"
	}
	if xid, yes := w.hidden(); yes {
		return fmt.Sprintf("transaction %d is committed but not visible yet, it may wait for a synchronous standby", xid)
	}
	return ""
}

// emission hands out a chunk's rows after its high mark, a few at a time.
type emission struct {
	core    *backfillCore
	w       *window
	rel     *change.Relation
	key     []int
	at      int
	scratch []byte
	values  []change.Value
	changes []change.Change
}

// emissionRows is how many rows are one item: the sink looks after each item whether its batch is full.
const emissionRows = 100

func newEmission(core *backfillCore, w *window, announced *change.Relation) *emission {
	e := &emission{core: core, w: w, rel: w.chunk.rel, key: columnsOf(w.chunk.rel, w.table.key)}
	if announced != nil && sameShape(announced, e.rel) {
		e.rel = announced // one pointer, so that the mapping is compiled once
	}
	return e
}

// next fills item with the next rows and reports false when there are none.
func (e *emission) next(item *change.Item) bool {
	e.values, e.changes = e.values[:0], e.changes[:0]
	width := len(e.rel.Columns)
	if need := width * emissionRows; cap(e.values) < need {
		e.values = make([]change.Value, 0, need)
	}
	for len(e.changes) < emissionRows && e.at < len(e.w.chunk.rows) && !e.w.wiped {
		start := len(e.values)
		e.values = e.w.chunk.row(e.at, e.values)
		e.at++
		row := e.values[start:len(e.values):len(e.values)]
		if e.keep(row) {
			e.changes = append(e.changes, change.Change{Op: change.Read, Relation: e.rel, New: row})
		} else {
			e.values = e.values[:start]
		}
	}
	if len(e.changes) == 0 {
		return false
	}
	e.w.count += len(e.changes)
	item.Kind, item.Changes = change.ItemChanges, e.changes
	return true
}

// keep decides whether a row of the chunk is published, and merges it with what the window saw.
func (e *emission) keep(row []change.Value) bool {
	if len(e.w.rows) == 0 {
		return true
	}
	var known bool
	if len(e.key) == 0 {
		e.scratch, known = appendRow(e.scratch[:0], row, nil)
	} else {
		e.scratch, known = appendKey(e.scratch[:0], row, nil, e.key)
	}
	if !known {
		return true // a key is never NULL
	}
	t := e.w.rows[string(e.scratch)]
	switch {
	case t == nil:
		return true
	case t.values == nil, !t.missing:
		return false
	case t.moved, !sameShape(t.rel, e.w.chunk.rel):
		e.core.noteAgain(e.w.table, string(e.scratch)) // when the table was altered, nobody has yet
		return false
	}
	for i := range row {
		if t.values[i].Kind != change.Unchanged {
			row[i] = t.values[i]
		}
	}
	return true
}
