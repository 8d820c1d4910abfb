package capture

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/walrill/walrill/change"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestLedgerReportsWhatIsConfirmedOnly(t *testing.T) {
	l := ledger{interval: time.Second, at: epoch}
	l.confirm(100, epoch)
	l.confirm(50, epoch)
	if got := l.report(epoch); got != 100 {
		t.Errorf("reported %d, want 100", got)
	}
}

func TestLedgerDue(t *testing.T) {
	l := ledger{interval: time.Second, at: epoch}
	if got := l.due().Sub(epoch); got != time.Second {
		t.Errorf("idle: due after %s, want the interval", got)
	}
	l.confirm(1, epoch)
	if got := l.due().Sub(epoch); got != reportAdvance {
		t.Errorf("advanced: due after %s, want %s", got, reportAdvance)
	}
	l.asked = true
	if got := l.due().Sub(epoch); got != reportAsked {
		t.Errorf("asked: due after %s, want %s", got, reportAsked)
	}
	l.report(epoch.Add(time.Minute))
	if got := l.due().Sub(epoch); got != time.Minute+time.Second {
		t.Errorf("reported: due after %s, want a minute and the interval", got)
	}
}

// Whatever is confirmed whenever: a report never goes back, never names what
// was not confirmed a window ago, and lags by little more than the window.
func TestLedgerReplayWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := time.Duration(rapid.IntRange(1, 5000).Draw(t, "window")) * time.Millisecond
		l := ledger{interval: time.Second, window: window, at: epoch}
		now, lsn, last := epoch, change.LSN(0), change.LSN(0)
		confirmed := map[change.LSN]time.Time{}
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "ms")) * time.Millisecond)
			lsn += change.LSN(rapid.IntRange(0, 3).Draw(t, "advance"))
			if _, ok := confirmed[lsn]; !ok && lsn > 0 {
				confirmed[lsn] = now
			}
			l.confirm(lsn, now)
			got := l.report(now)
			if got < last {
				t.Fatalf("report went back from %d to %d", last, got)
			}
			if got > 0 && now.Sub(confirmed[got]) < window {
				t.Fatalf("reported %d after %s, the window is %s", got, now.Sub(confirmed[got]), window)
			}
			last = got
		}
		if len(l.held) > 2*heldMarks {
			t.Fatalf("%d marks held", len(l.held))
		}
		if got := l.report(now.Add(window)); got != lsn {
			t.Fatalf("after the window: reported %d, want %d", got, lsn)
		}
	})
}
