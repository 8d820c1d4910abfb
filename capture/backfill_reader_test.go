package capture

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"
)

// reader does the next step of the backfill.
func (w *world) reader() {
	switch {
	case w.done:
	case w.cur == nil:
		w.cur = w.next()
	case w.cur.read == nil:
		if !rapid.Bool().Draw(w.t, "ahead") || !w.readAhead() {
			w.fetch(w.cur)
		}
	default:
		select {
		case out := <-w.cur.window.done:
			w.settle(out.again == "")
		default:
			w.readAhead()
		}
	}
}

// next begins a turn at the reader's place, or for rows to be read again.
func (w *world) next() *turn {
	if now := w.snapshot(); now.xmin <= uint64(w.barrier) {
		w.core.forgetSeen(now)
		return nil
	}
	if !w.place.scanned {
		return w.begin(&turn{after: w.place.after, until: w.cut(w.place.after)})
	}
	keys, _, _ := w.core.movedKeys(w.armed)
	if len(keys) == 0 {
		w.save()
		w.core.disarm(w.armed)
		w.done = true
		return nil
	}
	w.core.take(w.armed, keys)
	w.taken = keys
	return w.begin(&turn{keys: keys})
}

func (w *world) begin(t *turn) *turn {
	w.number++
	t.number = w.number
	t.window = w.core.register(w.armed, t.number, w.snapshot())
	w.mark(t.number, markLow)
	return t
}

// cut draws where a turn ends: at a key, or where it is full.
func (w *world) cut(after string) string {
	until := strconv.Itoa(rapid.IntRange(0, 9).Draw(w.t, "until"))
	if w.whole || until <= after || rapid.Bool().Draw(w.t, "open") {
		return ""
	}
	return until
}

// readAhead does a step of a turn behind the first one, if there is one to do.
func (w *world) readAhead() bool {
	last := w.cur
	if n := len(w.ahead); n > 0 {
		last = w.ahead[n-1]
	}
	end := last.until
	if end == "" && last.read != nil && !last.last {
		end = last.to
	}
	if w.cur.keys == nil && end != "" && len(w.ahead) < 2 && rapid.Bool().Draw(w.t, "another") {
		w.ahead = append(w.ahead, w.begin(&turn{after: end, until: w.cut(end)}))
		return true
	}
	for _, t := range slices.Backward(w.ahead) {
		if t.read == nil {
			w.fetch(t)
			return true
		}
	}
	return false
}

func (w *world) fetch(t *turn) {
	c := &chunk{rel: w.rel, snap: w.snapshot()}
	rows := map[string]row{}
	for _, tx := range w.log {
		if tx.visible {
			tx.apply(rows)
		}
	}
	where := func(key string) string {
		if w.whole {
			return rows[key].tid
		}
		return key
	}
	order := slices.SortedFunc(maps.Keys(rows), func(a, b string) int { return strings.Compare(where(a), where(b)) })
	t.to = t.after
	for _, key := range order {
		if t.keys == nil && where(key) > t.after && (t.until == "" || key <= t.until) || slices.Contains(t.keys, joinKey([]string{key})) {
			c.add([][]byte{[]byte(key), []byte(rows[key].a), []byte(rows[key].big)})
			t.to = where(key)
		}
		if t.keys == nil && len(c.rows) == 3 {
			break
		}
	}
	if t.last = len(c.rows) < 3 && t.until == ""; len(c.rows) < 3 && t.until != "" {
		t.to = t.until
	}
	t.read = c
	w.core.fill(t.window, c)
	w.mark(t.number, markHigh)
}

// settle goes on behind a turn that was published, or drops what was read after one that was not.
func (w *world) settle(published bool) {
	t := w.cur
	switch {
	case published:
		if w.cur = nil; t.keys == nil {
			w.place = place{t.to, t.last}
		}
		if len(w.ahead) > 0 && w.ahead[0].after == t.to {
			w.cur, w.ahead = w.ahead[0], w.ahead[1:]
		} else {
			w.giveUp()
		}
		w.taken = nil
		w.save()
	case t.keys != nil:
		w.cur = w.begin(&turn{keys: t.keys})
	default:
		w.cur = nil
		w.giveUp()
	}
}

func (w *world) giveUp() {
	for _, t := range w.ahead {
		w.core.drop(t.window)
	}
	w.ahead = nil
}
