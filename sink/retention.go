package sink

import (
	"math"
	"time"

	"github.com/walrill/walrill/event"
)

// Retention says which entries of a partition may go. The zero value keeps all.
type Retention struct {
	MaxAge     time.Duration // since the commit; 0 is no limit
	MaxEntries uint64        // of a partition; 0 is no limit
	KeepUnread bool          // keep what a consumer group has not read or not acknowledged
}

// None reports whether nothing is ever trimmed.
func (r Retention) None() bool { return r.MaxAge == 0 && r.MaxEntries == 0 }

// Shares of a limit by which an entry is beyond it.
const (
	marginNone = 0
	// marginTrim is how far the first entry is beyond before a partition is trimmed at all: to look for the place is work.
	marginTrim = .01
	// marginWarn is when somebody has to do something about who keeps it from being trimmed.
	marginWarn = .5
)

// stored is what is known of an entry in Redis.
type stored struct {
	pos  event.Position
	seq  uint64
	time time.Time // of the commit
}

// surplus reports whether an entry is beyond a limit, by more than a share of it. top is the seq of the partition's last entry.
func (r Retention) surplus(e stored, top uint64, now time.Time, margin float64) bool {
	if r.MaxAge > 0 && now.Sub(e.time) > r.MaxAge+time.Duration(margin*float64(r.MaxAge)) {
		return true
	}
	return r.MaxEntries > 0 && e.seq+r.MaxEntries+uint64(margin*float64(r.MaxEntries)) <= top
}

// groupState is a consumer group of a partition.
type groupState struct {
	name      string
	delivered event.Position // the last entry that it was given
	pending   event.Position // the oldest one that it was given and has not acknowledged; zero when there is none
}

// unread is the lowest position that the group needs yet.
func (g groupState) unread() event.Position {
	if !g.pending.IsZero() && g.pending.Compare(g.delivered) <= 0 {
		return g.pending
	}
	return behind(g.delivered)
}

// behind is the position that follows p.
func behind(p event.Position) event.Position {
	if p.Ordinal == math.MaxUint64 {
		return event.Position{Commit: p.Commit + 1}
	}
	return event.Position{Commit: p.Commit, Ordinal: p.Ordinal + 1}
}

// bound is up to where a partition may be trimmed: what is below may go. That is never the last entry, from which a start reads
// where the partition stands, nor what is at or above the clock safe, which may be sent again. by is the group that sets the bound, if one does.
func bound(last event.Position, safe uint64, groups []groupState) (at event.Position, by string) {
	at = last
	if p := (event.Position{Commit: safe}); p.Compare(at) < 0 {
		at = p
	}
	for _, g := range groups {
		if p := g.unread(); p.Compare(at) < 0 {
			at, by = p, g.name
		}
	}
	return at, by
}

// search finds the first entry of a partition that is not surplus, by looking at few: those before it are surplus, those from it
// on are not. Redis finds an entry by its ID only.
type search struct {
	lo   stored         // is surplus
	hi   event.Position // the first entry from here on is not, or all below is to go
	next event.Position // to look at
	done bool
}

// newSearch looks below limit for more that is surplus behind first, which is.
func newSearch(first stored, limit event.Position) *search {
	return &search{lo: first, hi: limit, next: limit}
}

// found is told of the first entry at or behind next. Before the search is done there is another next; then hi is the result.
func (s *search) found(e stored, surplus bool) {
	switch {
	case s.next == s.hi && surplus: // the first question
		s.done = true
		return
	case surplus && e.pos.Compare(s.hi) < 0:
		s.lo = e
	default:
		s.hi = s.next
		if e.seq == s.lo.seq+1 {
			s.done = true
			return
		}
	}
	s.next = between(s.lo.pos, s.hi)
	s.done = s.next.Compare(s.hi) >= 0
}

// between is a position above lo and below hi, and hi when there is none: a clock in the middle, or in a transaction, how
// ever large, an ordinal.
func between(lo, hi event.Position) event.Position {
	switch {
	case hi.Commit > lo.Commit+1:
		return event.Position{Commit: lo.Commit + (hi.Commit-lo.Commit)/2}
	case hi.Commit > lo.Commit && hi.Ordinal > 0:
		return event.Position{Commit: hi.Commit}
	case hi.Commit > lo.Commit:
		if lo.Ordinal >= math.MaxUint64/2 {
			return behind(lo)
		}
		return event.Position{Commit: lo.Commit, Ordinal: 2*lo.Ordinal + 1}
	}
	return event.Position{Commit: lo.Commit, Ordinal: lo.Ordinal + max(1, (hi.Ordinal-lo.Ordinal)/2)}
}
