package capture

import (
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/walrill/walrill/change"
)

// backfillCore is what the stream and the readers of a backfill share: which
// transactions the stream has delivered, which chunks are on their way and which tables are watched. It does no I/O and
// knows no time. The stream's goroutine calls see, committed and durable, the readers the rest.
type backfillCore struct {
	prefix, run string
	on          atomic.Bool // there is something to watch; read by the stream for each item

	mu        sync.Mutex
	tables    map[uint32]*armed // by OID
	windows   map[uint64]*window
	delivered map[uint32][]uint32 // XIDs that a snapshot to come may not see, and the tables that they changed
	touching  []uint32            // tables that the present transaction has changed
	commit    change.LSN          // of the transaction that is being delivered
	closing   *window             // its high has come in this transaction
	published []*window           // handed out, not durable yet
}

// armed is a table that is being backfilled. As long as it is, rows are noted that an update
// moved to another key without sending all their values: when the old key was not read yet and
// the new one was, no chunk would have those values. They are read again by their key.
type armed struct {
	oid     uint32
	key     []string         // empty: a row is known by all its columns
	rel     *change.Relation // that places is for
	places  []int
	windows []*window           // open
	moved   map[string]struct{} // keys of rows to read again
	unsaved change.LSN          // the first transaction with one that is not recorded; 0 when all are
	noted   int                 // how many were ever noted
	flood   bool                // too many: the table is read again from its beginning
}

// maxMoved bounds the rows of a table that are noted one by one.
const maxMoved = 10000

func (t *armed) again(key string, commit change.LSN) {
	if t.flood {
		return
	}
	t.moved[key] = struct{}{}
	t.noted++
	if t.unsaved == 0 {
		t.unsaved = commit
	}
	t.flood = len(t.moved) > maxMoved
}

func newBackfillCore(prefix, run string) *backfillCore {
	return &backfillCore{prefix: prefix, run: run, tables: map[uint32]*armed{}, windows: map[uint64]*window{}, delivered: map[uint32][]uint32{}}
}

// mark is the content of low and high. The run tells ours from those of an earlier
// process, which may be in the WAL still or, from one that does not know yet that it is dead, come any time.
type mark struct {
	Run   string `json:"run"`
	Table string `json:"table"`
	Chunk uint64 `json:"chunk"`
	At    string `json:"at"` // low or high
}

const (
	markLow  = "low"
	markHigh = "high"
)

// see takes note of an item of the stream. It returns the rows to hand out after it.
func (b *backfillCore) see(item *change.Item, announced map[uint32]*change.Relation) *emission {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch item.Kind {
	case change.ItemBegin:
		b.commit, b.touching = item.Tx.CommitLSN, b.touching[:0]
	case change.ItemChanges:
		for i := range item.Changes {
			c := &item.Changes[i]
			if c.Op == change.Message {
				if c.Prefix == b.prefix {
					return b.marked(c.Content, announced)
				}
				continue
			}
			if oid := c.Relation.OID; !slices.Contains(b.touching, oid) {
				b.touching = append(b.touching, oid)
			}
			if t := b.tables[c.Relation.OID]; t != nil {
				t.see(c, b.commit)
			}
		}
	case change.ItemCommit:
		if len(b.touching) > 0 {
			b.delivered[item.Tx.XID] = slices.Clone(b.touching)
		}
		if w := b.closing; w != nil {
			w.end, b.closing = item.Tx.EndLSN, nil
			b.published = append(b.published, w)
		}
	}
	return nil
}

// see takes note of a change of the table, for its window and for the rows to read again.
func (t *armed) see(c *change.Change, commit change.LSN) {
	if c.Op == change.Truncate {
		clear(t.moved)
		for _, w := range t.windows {
			w.see(c, "", "")
		}
		return
	}
	if len(t.key) == 0 {
		t.seeWhole(c, commit)
		return
	}
	if len(t.windows) == 0 && (c.Op != change.Update || c.Old == nil) {
		return // only a move counts outside of a window
	}
	newKey, oldKey, ok := t.keys(c)
	if !ok {
		for _, w := range t.windows {
			w.spoil("a change did not show the row's key")
		}
		return
	}
	if c.Op == change.Update && oldKey != newKey && lacks(c) {
		t.again(newKey, commit)
	}
	for _, w := range t.windows {
		w.see(c, newKey, oldKey)
	}
}

// seeWhole is see for a table without a key. A row that its changes do not show whole may have moved from where is
// still to be read to where was, and its toasted values would never come: the table is read again.
func (t *armed) seeWhole(c *change.Change, commit change.LSN) {
	before, known := "", c.Op == change.Insert
	if c.Old != nil {
		b, ok := appendRow(nil, c.Old, nil)
		before, known = string(b), ok
	}
	if !known {
		t.flood = true
		if t.noted++; t.unsaved == 0 {
			t.unsaved = commit
		}
	}
	for _, w := range t.windows {
		if known {
			w.seeWhole(c, before)
		} else {
			w.spoil("a change did not show the whole row")
		}
	}
}

// leave takes a window out that is closed, or given up.
func (t *armed) leave(w *window) {
	t.windows = slices.DeleteFunc(t.windows, func(open *window) bool { return open == w })
}

// keys are the row's keys after and before the change.
func (t *armed) keys(c *change.Change) (newKey, oldKey string, ok bool) {
	if t.rel != c.Relation {
		t.rel, t.places = c.Relation, columnsOf(c.Relation, t.key)
	}
	if t.places == nil {
		return "", "", false
	}
	var b []byte
	if c.New != nil {
		if b, ok = appendKey(nil, c.New, c.Old, t.places); !ok {
			return "", "", false
		}
		newKey = string(b)
		oldKey = newKey
	}
	if c.Old != nil {
		if b, ok = appendKey(nil, c.Old, nil, t.places); !ok {
			return "", "", false
		}
		oldKey = string(b)
	}
	return newKey, oldKey, true
}

// lacks reports whether the event of an update is without some value of the row.
func lacks(c *change.Change) bool {
	for i := range c.New {
		if c.New[i].Kind == change.Unchanged && (c.Old == nil || c.Old[i].Kind != change.Text) {
			return true
		}
	}
	return false
}

// marked handles a logical message with our prefix.
func (b *backfillCore) marked(content []byte, announced map[uint32]*change.Relation) *emission {
	var m mark
	if json.Unmarshal(content, &m) != nil || m.Run != b.run {
		return nil // another process's
	}
	w := b.windows[m.Chunk]
	if w == nil {
		return nil // given up
	}
	if m.At == markLow {
		b.low(w)
		return nil
	}
	delete(b.windows, m.Chunk)
	w.table.leave(w)
	if reason := w.verdict(); reason != "" || !w.open {
		if reason == "" {
			reason = "its low mark was not seen"
		}
		w.done <- outcome{again: reason}
		return nil
	}
	b.closing = w
	return newEmission(b, w, announced[w.table.oid])
}

func (b *backfillCore) low(w *window) {
	w.open, w.table.windows = true, append(w.table.windows, w)
	w.rows = map[string]*touched{}
	for xid, tables := range b.delivered {
		if slices.Contains(tables, w.table.oid) && !w.pre.sees(xid) {
			w.before = append(w.before, xid)
		}
	}
	b.forget(&w.pre)
}

// forget drops the delivered transactions that every chunk's snapshot to come sees:
// those that this snapshot sees, and those of the chunks whose low is still on its way.
func (b *backfillCore) forget(s *snapshot) {
	for xid := range b.delivered {
		seen := s.sees(xid)
		for _, w := range b.windows {
			seen = seen && (w.open || w.pre.sees(xid))
		}
		if seen {
			delete(b.delivered, xid)
		}
	}
}

// forgetSeen is forget for a snapshot taken while no chunk is read.
func (b *backfillCore) forgetSeen(s snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(&s)
}

// arm begins to watch a table.
func (b *backfillCore) arm(oid uint32, key []string, moved [][]string) *armed {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tables[oid]
	if t == nil || !slices.Equal(t.key, key) {
		t = &armed{oid: oid, key: key, moved: map[string]struct{}{}}
		b.tables[oid] = t
	}
	for _, texts := range moved {
		t.moved[joinKey(texts)] = struct{}{}
	}
	return t
}

// disarm ends it.
func (b *backfillCore) disarm(t *armed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tables[t.oid] == t {
		delete(b.tables, t.oid)
	}
}

// record makes delivered transactions be remembered, or no longer.
func (b *backfillCore) record(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.on.Store(on); !on {
		clear(b.delivered)
		clear(b.tables)
		clear(b.windows)
		b.published, b.closing = nil, nil
	}
}

// register announces a chunk. Its snapshot must be taken after this, and pre before.
func (b *backfillCore) register(t *armed, number uint64, pre snapshot) *window {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := &window{table: t, number: number, pre: pre, done: make(chan outcome, 1)}
	b.windows[number] = w
	return w
}

// fill hands over what was read; high must be written after this.
func (b *backfillCore) fill(w *window, c *chunk) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.chunk = c
}

// drop gives a chunk up, wherever it is.
func (b *backfillCore) drop(w *window) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.windows, w.number)
	w.table.leave(w)
}

// durable says that everything that committed before lsn is. It returns what may be
// confirmed: less, as long as a row to read again is recorded nowhere.
func (b *backfillCore) durable(lsn change.LSN) change.LSN {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := b.published[:0]
	for _, w := range b.published {
		if w.end <= lsn {
			w.done <- outcome{end: w.end, count: w.count}
		} else {
			rest = append(rest, w)
		}
	}
	clear(b.published[len(rest):])
	b.published = rest
	for _, t := range b.tables {
		if t.unsaved != 0 {
			lsn = min(lsn, t.unsaved)
		}
	}
	return lsn
}

// movedKeys are the keys of the rows to read again, sorted, and how many were ever noted;
// flood when they are too many to note.
func (b *backfillCore) movedKeys(t *armed) (keys []string, noted int, flood bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range t.moved {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, t.noted, t.flood
}

// take forgets rows to read again, because they are about to be read: one that is noted from now on counts anew.
func (b *backfillCore) take(t *armed, keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		delete(t.moved, key)
	}
	t.flood = false
}

// unsaved reports whether rows were noted that are recorded nowhere.
func (b *backfillCore) unsaved(t *armed) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return t.unsaved != 0
}

// saved says that the rows that movedKeys returned are recorded. If others were noted since, it is not enough.
func (b *backfillCore) saved(t *armed, noted int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.noted == noted {
		t.unsaved = 0
	}
}

// noteAgain is for a row whose values cannot be put together from the chunk and its window.
func (b *backfillCore) noteAgain(t *armed, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t.again(key, b.commit)
}
