package capture

import (
	"time"

	"github.com/walrill/walrill/change"
)

// ledger decides which position is reported to Postgres, and when. It is
// pure: the time is passed in.
//
// What is reported is only ever a watermark that the sink acknowledged: the
// server may forget all that came before it.
type ledger struct {
	interval time.Duration // a report is due this long after the last one, whatever happens
	window   time.Duration // a position is reported only when it has been durable for so long

	held     []heldMark // durable, but younger than window; in order
	durable  change.LSN // may be reported
	reported change.LSN
	at       time.Time // of the last report
	asked    bool      // the server wants a report now
}

type heldMark struct {
	at  time.Time
	lsn change.LSN
}

const (
	// Every report makes the walsender work, so an advance waits for others.
	reportAdvance = 100 * time.Millisecond
	// A server that is shutting down asks again as soon as it is answered.
	reportAsked = 10 * time.Millisecond
	// How finely a replay window is cut: no more marks than this are held.
	heldMarks = 256
)

// confirm takes a watermark below which everything is durable. Lower ones
// than before are ignored.
func (l *ledger) confirm(lsn change.LSN, now time.Time) {
	if l.window <= 0 {
		l.durable = max(l.durable, lsn)
		return
	}
	if n := len(l.held); n == 0 && lsn > l.durable || n > 0 && lsn > l.held[n-1].lsn {
		if n > 1 && now.Sub(l.held[n-2].at) < l.window/heldMarks {
			l.held[n-1] = heldMark{now, lsn} // close to the last but one: the last may go
		} else {
			l.held = append(l.held, heldMark{now, lsn})
		}
	}
	l.release(now)
}

// release lets go of the marks that have been durable for long enough.
func (l *ledger) release(now time.Time) {
	n := 0
	for n < len(l.held) && now.Sub(l.held[n].at) >= l.window {
		l.durable = l.held[n].lsn
		n++
	}
	l.held = l.held[:copy(l.held, l.held[n:])]
}

// due is when the next report has to be sent.
func (l *ledger) due() time.Time {
	switch {
	case l.asked:
		return l.at.Add(reportAsked)
	case l.durable > l.reported:
		return l.at.Add(reportAdvance)
	case len(l.held) > 0:
		return earlier(l.held[0].at.Add(l.window), l.at.Add(l.interval))
	}
	return l.at.Add(l.interval)
}

// report notes that a report is sent now and returns what to say.
func (l *ledger) report(now time.Time) change.LSN {
	l.release(now)
	l.reported, l.at, l.asked = l.durable, now, false
	return l.durable
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
