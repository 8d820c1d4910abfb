package sink

import (
	"strconv"
	"sync"
	"time"

	"github.com/walrill/walrill/event"
)

const (
	markInterval = 5 * time.Millisecond // between two entries of :commits that tell of events, or two that do not
	markPatience = time.Millisecond     // how long a mark waits for the next batch to ride with
	maxCommits   = 200_000              // entries kept in :commits, about
)

// mark is a watermark: everything below it was appended.
type mark struct {
	watermark uint64
	time      time.Time
	appended  uint64 // entries that the publisher had taken by then
}

func (m mark) isZero() bool { return m.watermark == 0 }

// markSlot is the one mark that waits to be written to :commits; a later one
// takes the place of an earlier. What it covers is acknowledged already. Its
// methods may be called from both goroutines.
type markSlot struct {
	mu      sync.Mutex
	pending mark
	due     time.Time // of pending
	last    mark      // written
	at      time.Time // when last was written
	told    time.Time // when one was written that told of events
}

// put hands over a mark whose entries are acknowledged. A patient one comes
// with a full batch: the next one is probably on its way and can carry it,
// which saves a round trip. It reports whether the publisher is to look when the mark is due.
func (s *markSlot) put(m mark, patient bool, now time.Time) (look bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.watermark <= max(s.pending.watermark, s.last.watermark) {
		return false
	}
	if look = s.pending.isZero() || s.tells(m) && !s.tells(s.pending); look {
		s.due = s.earliest(m)
		if soon := now.Add(markPatience); patient && s.due.Before(soon) {
			s.due = soon
		}
	}
	s.pending = m
	return look
}

// tells reports whether a mark is about events that no mark was written for yet.
func (s *markSlot) tells(m mark) bool { return m.appended > s.last.appended }

// earliest is when a mark may be written. One that tells of events does not wait behind one that did not: what a view
// writes to the source's own server moves the WAL, and would delay the next event.
func (s *markSlot) earliest(m mark) time.Time {
	if s.tells(m) {
		return s.told.Add(markInterval)
	}
	return s.at.Add(markInterval)
}

// get is the mark that waits; zero when there is none.
func (s *markSlot) get() mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending
}

// wait is how long the pending mark has to wait yet, and whether there is one.
func (s *markSlot) wait(now time.Time, hurry bool) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hurry {
		return 0, !s.pending.isZero()
	}
	return max(0, s.due.Sub(now)), !s.pending.isZero()
}

// ride is the mark that a batch sent now can carry; zero when there is none or
// the last one was written too recently.
func (s *markSlot) ride(now time.Time) mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.earliest(s.pending)) {
		return mark{}
	}
	return s.pending
}

// written notes that m is in :commits.
func (s *markSlot) written(m mark, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tells(m) {
		s.told = now
	}
	s.last, s.at = m, now
	if s.pending.watermark <= m.watermark {
		s.pending = mark{}
	} else {
		s.due = s.earliest(s.pending)
	}
}

// lastWritten is the mark that was written last.
func (s *markSlot) lastWritten() mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// restore has the last mark written again: the server has lost it, though not
// the entries that it is about.
func (s *markSlot) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending.isZero() {
		s.pending, s.due = s.last, time.Time{}
	}
}

// appendMark appends the XADD of m to :commits. before is the mark written last:
// the field events counts from there. A stream that is there must not be made.
func appendMark(dst []byte, key string, m, before mark, there bool) []byte {
	var scratch [48]byte
	if there {
		dst = append(dst, "*11\r\n$4\r\nXADD\r\n"...)
		dst = append(event.AppendBulkString(dst, key), "$10\r\nNOMKSTREAM\r\n"...)
	} else {
		dst = append(dst, "*10\r\n$4\r\nXADD\r\n"...)
		dst = event.AppendBulkString(dst, key)
	}
	dst = append(dst, "$6\r\nMAXLEN\r\n$1\r\n~\r\n"...)
	dst = event.AppendBulk(dst, strconv.AppendUint(scratch[:0], maxCommits, 10))
	dst = event.AppendBulk(dst, event.Position{Commit: m.watermark}.AppendID(scratch[:0]))
	dst = append(dst, "$4\r\ntime\r\n"...)
	dst = event.AppendBulk(dst, m.time.UTC().AppendFormat(scratch[:0], event.TimeFormat))
	dst = append(dst, "$6\r\nevents\r\n"...)
	return event.AppendBulk(dst, strconv.AppendUint(scratch[:0], m.appended-before.appended, 10))
}
