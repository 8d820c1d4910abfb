package capture

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/walrill/walrill/change"
)

// world is a small model of Postgres with one table (k, a, big): big is in TOAST, so an update that
// leaves it alone does not send it. Transactions are visible some time after they are in the stream, as with
// a synchronous standby; the rows of an invisible one are locked. Without a key, changes carry whole rows,
// each version of a row is somewhere in the table, and the table is read in that order.
type world struct {
	whole  bool
	t      *rapid.T
	core   *backfillCore
	rel    *change.Relation
	armed  *armed
	now    map[string]row // all that is committed
	log    []modelTx
	xid    uint32
	lsn    change.LSN
	wal    []delivery
	at     int        // of the delivery that comes next
	heard  change.LSN // up to where the consumer has the changes
	kept   change.LSN // what is confirmed: a process that takes over is sent what committed from there on
	view   map[string]row
	gone   map[string]bool // keys that the consumer was told are gone
	wiped  bool
	number uint64

	run     string
	place   place // of the reader
	cur     *turn
	ahead   []*turn // read while cur is, or is published
	taken   []string
	done    bool
	saved   place // what is recorded of the reader, for a process that takes over
	moved   [][]string
	barrier uint32 // no chunk is read before the transactions up to here are visible
}

// delivery is a transaction of the stream.
type delivery struct {
	commit, end change.LSN
	run         func()
}

// place is how far the table is read.
type place struct {
	after   string
	scanned bool
}

// turn is a chunk on its way.
type turn struct {
	window    *window
	number    uint64
	read      *chunk
	keys      []string // of rows that are read again; nil: a range
	after, to string
	until     string // the last key that may be in it; empty: as many rows as fit
	last      bool
}

// row is a version of a row; tid is where it is.
type row struct {
	a, big string
	tid    string
}

func (r row) same(o row) bool { return r.a == o.a && r.big == o.big }

type modelTx struct {
	xid     uint32
	visible bool
	tid     string
	apply   func(map[string]row)
	locks   []string
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, whole: rapid.Bool().Draw(t, "whole"), now: map[string]row{}, xid: 100, view: map[string]row{}, gone: map[string]bool{}}
	text := &change.Type{OID: 25}
	w.rel = &change.Relation{OID: 1, Namespace: "public", Name: "t", Identity: change.IdentityDefault, PrimaryKey: []string{"k"},
		Columns: []change.Column{{Name: "k", Key: true, Type: text}, {Name: "a", Type: text}, {Name: "big", Type: text}}}
	for i := range 8 {
		w.now[strconv.Itoa(i)] = row{"a", fmt.Sprintf("big%d", i), fmt.Sprintf("%02d", 10+5*i)}
	}
	initial := maps.Clone(w.now)
	w.log = append(w.log, modelTx{xid: 99, visible: true, apply: func(m map[string]row) { maps.Copy(m, initial) }})
	if w.whole {
		w.rel.Identity = change.IdentityFull
	}
	w.start()
	return w
}

// start begins a process, which knows what an earlier one has recorded.
func (w *world) start() {
	w.run = strconv.Itoa(int(w.xid))
	w.core = newBackfillCore("p", w.run)
	w.core.record(true)
	w.cur, w.ahead, w.taken, w.number = nil, nil, nil, 0
	if w.place = w.saved; w.done {
		return
	}
	var key []string
	if !w.whole {
		key = []string{"k"}
	}
	w.armed = w.core.arm(1, key, w.moved)
}

// crash ends the process wherever it is, and starts the next.
func (w *world) crash() {
	w.at = slices.IndexFunc(w.wal, func(d delivery) bool { return d.commit >= w.kept })
	if w.at < 0 {
		w.at = len(w.wal)
	}
	w.barrier = w.xid
	w.start()
}

// save records how far the reader is.
func (w *world) save() {
	if w.done {
		return
	}
	keys, noted, _ := w.core.movedKeys(w.armed)
	w.saved, w.moved = w.place, nil
	for _, key := range slices.Concat(w.taken, keys) {
		w.moved = append(w.moved, keyTexts(key))
	}
	w.core.saved(w.armed, noted)
}

// confirm makes durable what was delivered.
func (w *world) confirm() {
	if w.at > 0 {
		w.kept = max(w.kept, w.core.durable(w.wal[w.at-1].end))
	}
}

// free is where a new version of a row goes: where nothing is, and nothing invisible was.
func (w *world) free() string {
	taken := map[string]bool{}
	for _, r := range w.now {
		taken[r.tid] = true
	}
	for _, tx := range w.log {
		if !tx.visible {
			taken[tx.tid] = true
		}
	}
	for {
		if tid := fmt.Sprintf("%02d", rapid.IntRange(0, 99).Draw(w.t, "place")); !taken[tid] {
			return tid
		}
	}
}

func value(s string) change.Value { return change.Value{Kind: change.Text, Data: []byte(s)} }

// write is a transaction of one change.
func (w *world) write() {
	key, other := strconv.Itoa(rapid.IntRange(0, 9).Draw(w.t, "key")), strconv.Itoa(rapid.IntRange(0, 9).Draw(w.t, "other"))
	what := rapid.SampledFrom([]string{"insert", "update", "update", "big", "delete", "move", "move", "truncate"}).Draw(w.t, "what")
	tx := modelTx{locks: []string{key, other}}
	for _, earlier := range w.log {
		if !earlier.visible && (what == "truncate" || slices.ContainsFunc(earlier.locks, func(k string) bool { return slices.Contains(tx.locks, k) || k == "*" })) {
			return // it would wait
		}
	}
	w.xid++
	tx.xid = w.xid
	old, exists := w.now[key]
	_, taken := w.now[other]
	a := fmt.Sprintf("a%d", tx.xid)
	c := change.Change{Relation: w.rel}
	unchanged := change.Value{Kind: change.Unchanged}
	before := []change.Value{value(key), value(old.a), value(old.big)}
	if !w.whole {
		before[1], before[2] = change.Value{Kind: change.Absent}, change.Value{Kind: change.Absent}
	}
	tid := w.free()
	tx.tid = tid
	switch {
	case what == "insert" && !exists:
		n := row{a, "new" + a, tid}
		c.Op, c.New = change.Insert, []change.Value{value(key), value(n.a), value(n.big)}
		tx.apply = func(m map[string]row) { m[key] = n }
	case what == "update" && exists:
		c.Op, c.New = change.Update, []change.Value{value(key), value(a), unchanged}
		tx.apply = func(m map[string]row) { m[key] = row{a, m[key].big, tid} }
	case what == "big" && exists:
		c.Op, c.New = change.Update, []change.Value{value(key), value(old.a), value("big" + a)}
		tx.apply = func(m map[string]row) { m[key] = row{m[key].a, "big" + a, tid} }
	case what == "delete" && exists:
		c.Op, c.Old = change.Delete, before
		tx.apply = func(m map[string]row) { delete(m, key) }
	case what == "move" && exists && !taken:
		c.Op, c.Old, c.New = change.Update, before, []change.Value{value(other), value(a), unchanged}
		tx.apply = func(m map[string]row) { m[other] = row{a, m[key].big, tid}; delete(m, key) }
	case what == "truncate" && rapid.IntRange(0, 5).Draw(w.t, "really") == 0:
		c.Op = change.Truncate
		tx.locks = []string{"*"}
		tx.apply = func(m map[string]row) { clear(m) }
	default:
		return
	}
	if w.whole && c.Op == change.Update {
		c.Old = before
	}
	tx.visible = rapid.IntRange(0, 3).Draw(w.t, "hidden") > 0
	tx.apply(w.now)
	w.log = append(w.log, tx)
	w.deliver(tx.xid, c)
}

// release makes an invisible transaction visible.
func (w *world) release() {
	for i := range w.log {
		if !w.log[i].visible {
			w.log[i].visible = true
			return
		}
	}
}

func (w *world) deliver(xid uint32, c change.Change) {
	w.lsn += 10
	truth := maps.Clone(w.now)
	tx := change.Tx{XID: xid, CommitLSN: w.lsn, EndLSN: w.lsn + 5}
	w.wal = append(w.wal, delivery{tx.CommitLSN, tx.EndLSN, func() {
		w.core.see(&change.Item{Kind: change.ItemBegin, Tx: tx}, nil)
		rows := w.core.see(&change.Item{Kind: change.ItemChanges, Changes: []change.Change{c}}, nil)
		if w.heard < tx.CommitLSN { // else the sink refuses it: it has it
			w.heard = tx.CommitLSN
			w.consume(&c)
		}
		var item change.Item
		for rows != nil && rows.next(&item) {
			for i := range item.Changes {
				w.consume(&item.Changes[i])
				r := item.Changes[i].New
				if key, got := string(r[0].Data), (row{a: string(r[1].Data), big: string(r[2].Data)}); !got.same(truth[key]) {
					w.t.Fatalf("row %s was read as %v, it was %v at high", key, got, truth[key])
				}
			}
		}
		w.core.see(&change.Item{Kind: change.ItemCommit, Tx: tx}, nil)
	}})
}

// stream delivers what comes next.
func (w *world) stream() {
	if w.at < len(w.wal) {
		w.at++
		w.wal[w.at-1].run()
	}
}

// consume is a reader of the streams that checks what is read by the backfill against what it knows.
func (w *world) consume(c *change.Change) {
	if c.Op == change.Message {
		return
	}
	if c.Op == change.Truncate {
		clear(w.view)
		w.wiped = true
		return
	}
	var before row
	if c.Old != nil {
		key := string(c.Old[0].Data)
		before = w.view[key]
		delete(w.view, key)
		w.gone[key] = true
	}
	if c.New == nil {
		return
	}
	key := string(c.New[0].Data)
	known, is := w.view[key]
	if is {
		before = known
	}
	n := row{a: string(c.New[1].Data), big: string(c.New[2].Data)}
	if c.New[2].Kind == change.Unchanged {
		n.big = before.big
		if w.whole {
			n.big = string(c.Old[2].Data)
		}
	}
	if c.Op == change.Read {
		if is && (known.a != n.a || known.big != "" && known.big != n.big) {
			w.t.Fatalf("row %s was read as %v, it is %v", key, n, known)
		}
		if !is && (w.gone[key] || w.wiped) {
			w.t.Fatalf("row %s was read as %v, it is gone", key, n)
		}
	}
	w.view[key] = n
	delete(w.gone, key)
}

func (w *world) snapshot() snapshot {
	s := snapshot{xmax: uint64(w.xid) + 1}
	s.xmin = s.xmax
	for _, tx := range w.log {
		if !tx.visible {
			s.running = append(s.running, uint64(tx.xid))
			s.xmin = min(s.xmin, uint64(tx.xid))
		}
	}
	slices.Sort(s.running)
	return s
}

func (w *world) mark(number uint64, at string) {
	w.xid++
	w.log = append(w.log, modelTx{xid: w.xid, visible: true, apply: func(map[string]row) {}})
	content, err := json.Marshal(mark{Run: w.run, Chunk: number, At: at})
	if err != nil {
		w.t.Fatal(err)
	}
	w.deliver(w.xid, change.Change{Op: change.Message, Prefix: "p", Content: content})
}

// Whatever is changed, moved and truncated while chunks are read, however late the stream is
// and a transaction becomes visible, wherever the process ends and another goes on: no row is read stale or after its end, and all are complete in the end.
func TestBackfillCore(t *testing.T) {
	for range 30 { // rapid's own number is for tests that take long
		rapid.Check(t, oneWorld)
	}
}

func oneWorld(t *rapid.T) {
	w := newWorld(t)
	steps := rapid.IntRange(30, 150).Draw(t, "steps")
	for range steps {
		switch rapid.IntRange(0, 15).Draw(t, "step") {
		case 0, 1, 2:
			w.write()
		case 3:
			w.release()
		case 4, 5, 6:
			w.stream()
		case 7, 8:
			w.confirm()
		case 9:
			w.save()
		case 10:
			w.crash()
		default:
			w.reader()
		}
	}
	for i := 0; !w.done || w.at < len(w.wal); i++ {
		w.release()
		w.stream()
		w.confirm()
		w.reader()
		if i > 10000 {
			t.Fatal("the backfill does not end")
		}
	}
	if !maps.EqualFunc(w.view, w.now, row.same) {
		t.Fatalf("the streams say %v, the table has %v", w.view, w.now)
	}
}
