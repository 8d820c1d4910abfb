package sink

import (
	"slices"

	"github.com/walrill/walrill/event"
)

const (
	multiCommand = "*1\r\n$5\r\nMULTI\r\n"
	execCommand  = "*1\r\n$4\r\nEXEC\r\n"

	// tail is kept free behind the entries for EXEC and a mark.
	tail = 512
	// keepBytes is the largest buffer that is kept for the next batch; a larger
	// one was grown by a huge row.
	keepBytes = 4 << 20
)

// batch is some entries in the order of Append, encoded, and a mark. It is the
// run loop's while it is filled and the publisher's while it is in flight.
type batch struct {
	buf     []byte // MULTI and the entries' XADD commands
	entries []entry
	mark    mark
	writer  *event.Writer
	guarded bool // with rows of a backfill

	maxEntries, maxBytes int
}

// entry is one XADD of a batch.
type entry struct {
	part     *partition
	pos      event.Position
	seq      uint64
	off, end int // in the batch's buffer
}

func newBatch(w *event.Writer, maxEntries, maxBytes int) *batch {
	return &batch{writer: w, maxEntries: maxEntries, maxBytes: maxBytes}
}

func (b *batch) full() bool {
	return len(b.entries) >= b.maxEntries || len(b.buf) >= b.maxBytes
}

// add encodes an event as one XADD.
func (b *batch) add(part *partition, e *event.Event) {
	if b.buf == nil {
		b.buf = make([]byte, 0, b.maxBytes/4)
	}
	if len(b.buf) == 0 {
		b.buf = append(b.buf, multiCommand...)
	}
	off := len(b.buf)
	b.buf = slices.Grow(b.buf, len(e.Data)+len(e.Old)+len(e.Unchanged)+len(e.Key)+2*tail) // a huge row at one go
	b.buf = append(b.buf, "*00\r\n$4\r\nXADD\r\n"...)
	buf, args := b.writer.Append(b.buf, e)
	b.buf = slices.Grow(setCount(buf, off, args+1), tail)
	b.entries = append(b.entries, entry{part, e.Position, e.Seq, off, len(b.buf)})
	b.guarded = b.guarded || e.Op == 'r'
}

// setCount writes the number of a command's arguments into its two digits at off+1.
// Redis takes no leading zero, so below ten the rest moves up by one.
func setCount(buf []byte, off, n int) []byte {
	if n < 10 {
		buf[off+1] = '0' + byte(n)
		return slices.Delete(buf, off+2, off+3)
	}
	buf[off+1], buf[off+2] = '0'+byte(n/10), '0'+byte(n%10)
	return buf
}

// wire is the batch as it goes to one server: a transaction, or a plain XADD
// when it is a single entry. It aliases the batch's buffer, with room for a mark behind it.
func (b *batch) wire() []byte {
	if len(b.entries) == 1 {
		return b.buf[len(multiCommand):]
	}
	return append(b.buf, execCommand...)
}

// reset empties the batch and keeps its memory, unless a huge row made it huge.
func (b *batch) reset() {
	b.buf = b.buf[:0]
	if cap(b.buf) > max(keepBytes, 2*b.maxBytes) {
		b.buf = nil
	}
	clear(b.entries)
	b.entries = b.entries[:0]
	b.mark, b.guarded = mark{}, false
}
