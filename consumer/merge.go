package consumer

import (
	"container/heap"

	"github.com/walrill/walrill/event"
)

// entry is one stream entry as it was read, its fields not yet parsed.
type entry struct {
	id     string
	pos    event.Position
	fields map[string]any
}

// lane is one partition on its way through the merge.
type lane struct {
	key       string
	stream    *event.Stream
	partition int

	queue    []entry        // read and not handed out yet, in ID order
	read     event.Position // the last entry read: reading goes on behind it
	complete bool           // everything below the limit is in the queue or handed out

	last    event.Position // the last entry handed out, or known to stand before the first
	lastSeq uint64         // its seq; 0 when there is none or it is not known
	late    bool           // it came after the watermark had passed it
}

// hungry says that the lane may have an entry below the limit which has not
// been read: until it is fed nobody can tell which entry comes next.
func (l *lane) hungry() bool { return len(l.queue) == 0 && !l.complete }

// merge puts the entries of many partitions into one order, by ID and then by
// key. It does no I/O: its owner reads entries for the hungry lanes and takes
// entries out while there are any. It never hands out an entry at or above the
// limit, nor one that an unread entry might still precede.
type merge struct {
	lanes  []*lane
	ready  laneHeap // the lanes whose first entry is below the limit
	starve int      // how many lanes are hungry
	limit  uint64   // the watermark up to which entries may be handed out
	floor  uint64   // everything below it has been handed out
}

// add takes a new lane in. What it holds is read from l.read on.
func (m *merge) add(l *lane) {
	m.lanes = append(m.lanes, l)
	if l.hungry() {
		m.starve++
	}
}

// advance raises the limit. Call it when everything below the old one has been
// handed out, and after the new one has been learnt: a read that comes later
// then sees every entry below it.
func (m *merge) advance(limit uint64) {
	m.floor, m.limit = m.limit, limit
	m.ready, m.starve = m.ready[:0], 0
	for _, l := range m.lanes {
		l.complete = len(l.queue) > 0 && l.read.Commit >= limit
		if l.hungry() {
			m.starve++
		}
		if l.first(limit) {
			m.ready = append(m.ready, l)
		}
	}
	heap.Init(&m.ready)
}

// feed gives a lane, which must be hungry, what was read behind l.read since
// the limit was learnt. more says that the read may have left entries behind.
// The queue belongs to the merge from here on.
func (m *merge) feed(l *lane, queue []entry, more bool) {
	l.queue = queue
	if n := len(queue); n > 0 {
		l.read = queue[n-1].pos
	}
	l.complete = !more || l.read.Commit >= m.limit
	if !l.hungry() {
		m.starve--
	}
	if l.first(m.limit) {
		heap.Push(&m.ready, l)
	}
}

// next hands out the next entry, and false when there is none before more is
// read or the limit rises.
func (m *merge) next() (*lane, entry, bool) {
	if !m.waiting() {
		return nil, entry{}, false
	}
	l := m.ready[0]
	e := l.queue[0]
	l.queue[0] = entry{} // let go of its fields
	l.queue = l.queue[1:]
	if l.first(m.limit) {
		heap.Fix(&m.ready, 0)
	} else {
		heap.Pop(&m.ready)
	}
	if l.hungry() {
		m.starve++
	}
	return l, e, true
}

// waiting reports whether next has an entry to hand out.
func (m *merge) waiting() bool { return m.starve == 0 && len(m.ready) > 0 }

// drained reports whether everything below the limit has been handed out.
func (m *merge) drained() bool { return m.starve == 0 && len(m.ready) == 0 }

// first reports whether the lane's first entry is below the limit.
func (l *lane) first(limit uint64) bool {
	return len(l.queue) > 0 && l.queue[0].pos.Commit < limit
}

// laneHeap has the lane with the lowest first entry on top.
type laneHeap []*lane

func (h laneHeap) Len() int      { return len(h) }
func (h laneHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *laneHeap) Push(l any)   { *h = append(*h, l.(*lane)) }

func (h laneHeap) Less(i, j int) bool {
	if c := h[i].queue[0].pos.Compare(h[j].queue[0].pos); c != 0 {
		return c < 0
	}
	return h[i].key < h[j].key
}

func (h *laneHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
