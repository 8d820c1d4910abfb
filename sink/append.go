package sink

import (
	"fmt"
	"time"

	"github.com/walrill/walrill/event"
)

// Append takes one event into the current batch, or skips it when its partition
// has it already. It sets e.Seq and copies everything else, so the event is the
// caller's again when Append returns. Positions of a partition must ascend, and
// its stream must have been added.
func (p *Publisher) Append(e *event.Event) {
	if e.Stream != p.lastOf {
		p.lastOf, p.last = e.Stream, p.streams[e.Stream]
	}
	if e.Partition >= len(p.last) {
		p.fail(fmt.Errorf("sink: stream %s, partition %d: it was not added", e.Stream.Name, e.Partition))
		return
	}
	part := p.last[e.Partition]
	if e.Position.Compare(part.filled.pos) <= 0 {
		p.skipped.Add(1)
		return
	}
	part.filled.pos = e.Position
	part.filled.seq++
	e.Seq = part.filled.seq
	p.cur.add(part, e)
	p.appended++
}

// Rewind takes back what was appended of the transaction that commits at this clock, as
// far as it was not offered. Only Offer and Drain may follow: what comes next would have the wrong seq.
func (p *Publisher) Rewind(commit uint64) {
	b := p.cur
	for len(b.entries) > 0 && b.entries[len(b.entries)-1].pos.Commit >= commit {
		last := len(b.entries) - 1
		b.buf = b.buf[:b.entries[last].off]
		b.entries = b.entries[:last]
		p.appended--
	}
	if len(b.entries) == 0 {
		b.buf = b.buf[:0]
	}
}

// Mark says that everything below watermark (epoch<<56 | LSN) has been
// appended; t is when that was in the source. Marks that do not ascend are ignored.
func (p *Publisher) Mark(watermark uint64, t time.Time) {
	if watermark <= p.marked {
		return
	}
	p.marked = watermark
	p.cur.mark = mark{watermark: watermark, time: t, appended: p.appended}
}

// Full reports whether the current batch has reached its limits: time to stop
// reading until Offer succeeds.
func (p *Publisher) Full() bool { return p.cur.full() }

// Pending reports whether the current batch has entries or a new mark.
func (p *Publisher) Pending() bool { return len(p.cur.entries) > 0 || !p.cur.mark.isZero() }

// Offer hands the current batch over. It reports false when another one is in
// flight, and then nothing has changed.
func (p *Publisher) Offer() bool {
	if p.busy.Load() {
		return false
	}
	if !p.Pending() {
		return true
	}
	if len(p.cur.entries) == 0 {
		// A mark alone waits for its turn beside the batches, so that it does
		// not make the events behind it wait.
		if p.marks.put(p.cur.mark, false, time.Now()) {
			signal(p.poke)
		}
		p.cur.reset()
		return true
	}
	p.busy.Store(true)
	p.work <- p.cur
	p.cur, p.other = p.other, p.cur
	return true
}

// Idle reports whether everything appended and marked is durable and published.
func (p *Publisher) Idle() bool {
	return !p.busy.Load() && !p.Pending() && p.marks.get().isZero()
}

// Flushed reports whether Redis has acknowledged every entry that was appended.
func (p *Publisher) Flushed() bool { return !p.busy.Load() && len(p.cur.entries) == 0 }
