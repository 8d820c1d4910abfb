package capture

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/walrill/walrill/change"
)

// windowBench is a core with one table (k, big) that is watched, and a stream of transactions.
type windowBench struct {
	t    *testing.T
	core *backfillCore
	t1   *armed
	rel  *change.Relation
	lsn  change.LSN
}

func newWindowBench(t *testing.T, key ...string) *windowBench {
	b := &windowBench{t: t, core: newBackfillCore("p", "me"), rel: shaped("k", "big")}
	b.core.record(true)
	b.t1 = b.core.arm(1, key, nil)
	return b
}

func shaped(columns ...string) *change.Relation {
	rel := &change.Relation{OID: 1, Namespace: "public", Name: "t"}
	for _, name := range columns {
		rel.Columns = append(rel.Columns, change.Column{Name: name, Type: &change.Type{OID: 25}})
	}
	return rel
}

// tx delivers a change in a transaction of its own, and returns where it was committed and the rows to hand out.
func (b *windowBench) tx(c change.Change) (change.LSN, *emission) {
	b.lsn += 10
	tx := change.Tx{XID: 50, CommitLSN: b.lsn, EndLSN: b.lsn + 5}
	b.core.see(&change.Item{Kind: change.ItemBegin, Tx: tx}, nil)
	rows := b.core.see(&change.Item{Kind: change.ItemChanges, Changes: []change.Change{c}}, nil)
	b.core.see(&change.Item{Kind: change.ItemCommit, Tx: tx}, nil)
	return b.lsn, rows
}

func (b *windowBench) mark(run, at string) *emission {
	content, err := json.Marshal(mark{Run: run, Chunk: 1, At: at})
	if err != nil {
		b.t.Fatal(err)
	}
	_, rows := b.tx(change.Change{Op: change.Message, Prefix: "p", Content: content})
	return rows
}

// open begins a window over a chunk with one row, in a snapshot that sees everything.
func (b *windowBench) open() *window {
	w := b.core.register(b.t1, 1, snapshot{xmin: 100, xmax: 100})
	b.mark("me", markLow)
	c := &chunk{rel: shaped("k", "big"), snap: snapshot{xmin: 100, xmax: 100}}
	c.add([][]byte{[]byte("1"), []byte("read")})
	b.core.fill(w, c)
	return w
}

// close ends it and returns the rows that are published.
func (b *windowBench) close() (rows []string) {
	e := b.mark("me", markHigh)
	var item change.Item
	for e != nil && e.next(&item) {
		for _, c := range item.Changes {
			rows = append(rows, string(c.New[0].Data)+" "+string(c.New[1].Data))
		}
	}
	return rows
}

func text(values ...string) (row []change.Value) {
	for _, v := range values {
		if v == "unchanged" {
			row = append(row, change.Value{Kind: change.Unchanged})
		} else {
			row = append(row, value(v))
		}
	}
	return row
}

func (b *windowBench) again(w *window, part string) {
	b.t.Helper()
	select {
	case out := <-w.done:
		if !strings.Contains(out.again, part) {
			b.t.Errorf("it is read again because of %q, want %q", out.again, part)
		}
	default:
		b.t.Errorf("it is not read again; want %q", part)
	}
}

// More rows than are noted one by one have the table read again; nothing behind the first is confirmed before that is recorded.
func TestWindowFlood(t *testing.T) {
	b := newWindowBench(t, "k")
	move := func(i int) change.LSN {
		lsn, _ := b.tx(change.Change{Op: change.Update, Relation: b.rel, Old: text(strconv.Itoa(i), "unchanged"), New: text("new"+strconv.Itoa(i), "unchanged")})
		return lsn
	}
	first := move(0)
	for i := 1; i < maxMoved; i++ {
		move(i)
	}
	if keys, noted, flood := b.core.movedKeys(b.t1); flood || len(keys) != maxMoved || noted != maxMoved {
		t.Errorf("%d keys, %d noted, flood %v", len(keys), noted, flood)
	}
	if got := b.core.durable(1 << 40); got != first {
		t.Errorf("%v may be confirmed, the first row that moved did at %v", got, first)
	}
	move(maxMoved)
	move(maxMoved + 1) // nobody counts any more
	keys, noted, flood := b.core.movedKeys(b.t1)
	if !flood || noted != maxMoved+1 {
		t.Errorf("%d noted, flood %v", noted, flood)
	}
	b.core.saved(b.t1, noted-1)
	if b.core.durable(1<<40) != first {
		t.Error("rows that were noted meanwhile count as recorded")
	}
	b.core.saved(b.t1, noted)
	if b.core.durable(1<<40) != 1<<40 {
		t.Error("everything is recorded and not confirmed")
	}
	b.core.take(b.t1, keys)
	if keys, _, flood := b.core.movedKeys(b.t1); flood || len(keys) != 0 {
		t.Errorf("%d keys are left, flood %v", len(keys), flood)
	}
}

// A row that moved with all its values, or that did not move, need not be read again; a truncate ends them all.
func TestWindowMoves(t *testing.T) {
	b := newWindowBench(t, "k")
	b.tx(change.Change{Op: change.Update, Relation: b.rel, Old: text("1", "x"), New: text("2", "unchanged")})
	b.tx(change.Change{Op: change.Update, Relation: b.rel, Old: text("3", "x"), New: text("4", "y")})
	b.tx(change.Change{Op: change.Update, Relation: b.rel, New: text("5", "unchanged")})
	if keys, _, _ := b.core.movedKeys(b.t1); len(keys) != 0 {
		t.Errorf("%q are noted", keys)
	}
	b.tx(change.Change{Op: change.Update, Relation: b.rel, Old: text("6", "unchanged"), New: text("7", "unchanged")})
	if keys, _, _ := b.core.movedKeys(b.t1); !slices.Equal(keys, []string{joinKey([]string{"7"})}) {
		t.Errorf("%q are noted", keys)
	}
	b.tx(change.Change{Op: change.Truncate, Relation: b.rel})
	if keys, _, _ := b.core.movedKeys(b.t1); len(keys) != 0 {
		t.Errorf("%q are noted after a truncate", keys)
	}
	b.core.disarm(b.t1)
	if next := b.core.arm(1, []string{"k"}, [][]string{{"8"}}); len(next.moved) != 1 {
		t.Errorf("what an earlier session noted is %v", next.moved)
	}
	if other := b.core.arm(1, []string{"big"}, nil); len(other.moved) != 0 {
		t.Error("rows noted by another key are kept")
	}
}

func TestWindow(t *testing.T) {
	renamed := shaped("k", "huge")
	keyless := shaped("id", "big")
	turned := shaped("big", "k")
	for name, tc := range map[string]struct {
		whole   bool
		key     string // default k
		changes []change.Change
		rows    []string
		again   string
		noted   bool
	}{
		"nothing":            {rows: []string{"1 read"}},
		"another row":        {changes: []change.Change{{Op: change.Insert, New: text("2", "x")}}, rows: []string{"1 read"}},
		"changed":            {changes: []change.Change{{Op: change.Update, New: text("1", "x")}}},
		"inserted":           {changes: []change.Change{{Op: change.Insert, New: text("1", "x")}}},
		"deleted":            {changes: []change.Change{{Op: change.Delete, Old: text("1", "x")}}},
		"moved away":         {changes: []change.Change{{Op: change.Update, Old: text("1", "x"), New: text("2", "x")}}},
		"moved here":         {changes: []change.Change{{Op: change.Update, Old: text("2", "unchanged"), New: text("1", "unchanged")}}, noted: true},
		"emptied":            {changes: []change.Change{{Op: change.Truncate}}},
		"merged":             {changes: []change.Change{{Op: change.Update, New: text("1", "unchanged")}}, rows: []string{"1 read"}},
		"partly sent":        {key: "big", changes: []change.Change{{Op: change.Update, New: text("unchanged", "read")}}, rows: []string{"1 read"}},
		"known from before":  {changes: []change.Change{{Op: change.Update, New: text("1", "x")}, {Op: change.Update, New: text("1", "unchanged")}}},
		"altered":            {changes: []change.Change{{Op: change.Update, Relation: renamed, New: text("1", "unchanged")}}, noted: true},
		"filled from before": {changes: []change.Change{{Op: change.Update, Old: text("1", "old"), New: text("1", "unchanged")}}},
		"moved here, then changed": {changes: []change.Change{{Op: change.Update, Old: text("2", "unchanged"), New: text("1", "unchanged")},
			{Op: change.Update, New: text("1", "unchanged")}}, noted: true},
		"altered and sent": {changes: []change.Change{{Op: change.Update, Relation: renamed, New: text("1", "x")}, {Op: change.Update, New: text("1", "unchanged")}}, noted: true},
		"altered, never sent": {changes: []change.Change{{Op: change.Update, Relation: renamed, New: text("1", "unchanged")}, {Op: change.Update, New: text("1", "unchanged")}},
			noted: true},
		"key elsewhere":          {changes: []change.Change{{Op: change.Insert, New: text("2", "x")}, {Op: change.Insert, Relation: turned, New: text("x", "1")}}},
		"no key":                 {changes: []change.Change{{Op: change.Insert, Relation: keyless, New: text("1", "x")}}, again: "did not show the row's key"},
		"too much":               {changes: []change.Change{{Op: change.Insert, New: text("2", strings.Repeat("x", maxWindowBytes))}}, again: "16 MiB"},
		"whole, nothing":         {whole: true, rows: []string{"1 read"}},
		"whole, the same before": {whole: true, changes: []change.Change{{Op: change.Update, Old: text("1", "read"), New: text("1", "x")}}},
		"whole, the same after":  {whole: true, changes: []change.Change{{Op: change.Update, Old: text("1", "x"), New: text("1", "read")}}},
		"whole, filled":          {whole: true, changes: []change.Change{{Op: change.Update, Old: text("0", "read"), New: text("1", "unchanged")}}},
		"whole, another":         {whole: true, changes: []change.Change{{Op: change.Insert, New: text("1", "other")}}, rows: []string{"1 read"}},
		"whole, deleted":         {whole: true, changes: []change.Change{{Op: change.Delete, Old: text("1", "read")}}},
		"whole, altered":         {whole: true, changes: []change.Change{{Op: change.Insert, Relation: renamed, New: text("2", "x")}}, again: "altered"},
		"whole, altered later": {whole: true, changes: []change.Change{{Op: change.Insert, New: text("2", "x")}, {Op: change.Insert, Relation: renamed, New: text("3", "x")}},
			again: "altered"},
		"whole, not shown": {whole: true, changes: []change.Change{{Op: change.Update, New: text("1", "x")}}, again: "whole row", noted: true},
		"whole, partly":    {whole: true, changes: []change.Change{{Op: change.Delete, Old: text("1", "unchanged")}}, again: "whole row", noted: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newWindowBench(t, cmp.Or(tc.key, "k"))
			if tc.whole {
				b = newWindowBench(t)
			}
			w := b.open()
			for _, c := range tc.changes {
				if c.Relation == nil {
					c.Relation = b.rel
				}
				b.tx(c)
			}
			if rows := b.close(); !slices.Equal(rows, tc.rows) {
				t.Errorf("rows %q, want %q", rows, tc.rows)
			}
			if tc.again != "" {
				b.again(w, tc.again)
			} else if len(w.done) > 0 {
				t.Errorf("it ended as %+v before it is durable", <-w.done)
			}
			if keys, _, flood := b.core.movedKeys(b.t1); (len(keys) > 0 || flood) != tc.noted {
				t.Errorf("%q are noted, flood %v", keys, flood)
			}
			if limit := b.core.durable(1 << 40); (limit < 1<<40) != tc.noted {
				t.Errorf("%v may be confirmed", limit)
			}
		})
	}
}

// Marks of another process, and of a chunk whose low was not seen or whose window was given up, publish nothing.
func TestWindowMarks(t *testing.T) {
	b := newWindowBench(t, "k")
	w := b.open()
	if b.mark("another", markHigh) != nil || !slices.Contains(b.t1.windows, w) {
		t.Error("a mark of another process counts")
	}
	b.core.drop(w)
	if len(b.t1.windows) != 0 || b.mark("me", markHigh) != nil {
		t.Error("a window that was given up is open")
	}
	w = b.core.register(b.t1, 1, snapshot{xmin: 100, xmax: 100})
	b.core.fill(w, &chunk{rel: b.rel, snap: snapshot{xmin: 100, xmax: 100}})
	if b.mark("me", markHigh) != nil {
		t.Error("a chunk without its low is published")
	}
	b.again(w, "low mark was not seen")
}

// Rows that differ have different keys, NULLs and empty texts among them.
func TestRowKeysDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (row []change.Value) {
			for range 3 {
				if rapid.Bool().Draw(t, name+" null") {
					row = append(row, change.Value{Kind: change.Null})
				} else {
					row = append(row, value(rapid.StringOfN(rapid.SampledFrom([]rune("\x00\x01\x02a")), 0, 3, -1).Draw(t, name)))
				}
			}
			return row
		}
		a, b := draw("a"), draw("b")
		same := slices.EqualFunc(a, b, func(x, y change.Value) bool { return x.Kind == y.Kind && string(x.Data) == string(y.Data) })
		keyA, okA := appendRow(nil, a, nil)
		keyB, okB := appendRow(nil, b, nil)
		if !okA || !okB || (string(keyA) == string(keyB)) != same {
			t.Fatalf("%v and %v: keys %q and %q", a, b, keyA, keyB)
		}
	})
}

func TestSnapshotEdges(t *testing.T) {
	s, err := parseSnapshot("10:20:12,15")
	if err != nil {
		t.Fatal(err)
	}
	for xid, want := range map[uint32]bool{9: true, 10: true, 11: true, 12: false, 15: false, 19: true, 20: false, 21: false} {
		if s.sees(xid) != want {
			t.Errorf("it sees %d: %v", xid, !want)
		}
	}
}

// A delivered transaction is remembered until the snapshots of all chunks to come see it, also of one whose low is on its way
// with an older snapshot than another's; and only for the tables that it changed.
func TestWindowRemembersDelivered(t *testing.T) {
	b := newWindowBench(t, "k")
	b.tx(change.Change{Op: change.Insert, Relation: b.rel, New: text("2", "x")}) // transaction 50
	b.tx(change.Change{Op: change.Message, Prefix: "another"})
	old := b.core.register(b.t1, 1, snapshot{xmin: 50, xmax: 60, running: []uint64{50}})
	t2 := b.core.arm(2, []string{"k"}, nil)
	fresh := b.core.register(t2, 2, snapshot{xmin: 60, xmax: 60})
	b.core.low(fresh)
	if len(b.core.delivered) != 1 || len(fresh.before) != 0 {
		t.Errorf("%v is remembered, the other table's chunk minds %v", b.core.delivered, fresh.before)
	}
	b.core.low(old)
	if !slices.Equal(old.before, []uint32{50}) {
		t.Errorf("the chunk minds %v", old.before)
	}
	b.core.forgetSeen(snapshot{xmin: 60, xmax: 60})
	if len(b.core.delivered) != 0 {
		t.Errorf("%v is remembered though everybody sees it", b.core.delivered)
	}
	b.core.drop(fresh)
	b.core.delivered[51] = []uint32{2}
	b.core.low(b.core.register(t2, 3, snapshot{xmin: 60, xmax: 60}))
	if len(b.core.delivered) != 0 {
		t.Errorf("%v is remembered behind a low that sees it", b.core.delivered)
	}
}

// A chunk is done when its high's whole transaction is durable, and the stream's changes are no more noted for it from high on.
func TestWindowDurable(t *testing.T) {
	b := newWindowBench(t, "k")
	w := b.open()
	if rows := b.close(); len(rows) != 1 || len(b.t1.windows) != 0 {
		t.Errorf("rows %q, window %v", rows, b.t1.windows)
	}
	end := b.lsn + 5
	b.core.durable(end - 1)
	select {
	case out := <-w.done:
		t.Errorf("%+v before it is durable", out)
	default:
	}
	b.core.durable(end)
	if out := <-w.done; out.again != "" || out.end != end || out.count != 1 {
		t.Errorf("it ended as %+v", out)
	}
}
