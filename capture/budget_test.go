package capture

import (
	"testing"
	"time"

	"github.com/walrill/walrill/change"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// slotAt is a slot that confirmed nothing since 0 while Postgres writes at current.
func slotAt(current change.LSN, safe int64, status string) SlotState {
	return SlotState{Confirmed: 1, Restart: 1, Current: current, SafeBytes: safe, WALStatus: status}
}

func TestBudgetTimeLeft(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what   string
		states []SlotState // ten seconds apart
		left   time.Duration
	}{
		{"one look is no rate", []SlotState{slotAt(mib, 100*mib, "reserved")}, unknown},
		{"1 MiB a second, 100 MiB left", []SlotState{slotAt(mib, 110*mib, "reserved"), slotAt(11*mib, 100*mib, "reserved")}, 100 * time.Second},
		{"nothing is written", []SlotState{slotAt(mib, 100*mib, "reserved"), slotAt(mib, 100*mib, "reserved")}, unknown},
		{"no limit", []SlotState{slotAt(mib, -1, "reserved"), slotAt(11*mib, -1, "extended")}, unknown},
		{"nothing is left", []SlotState{slotAt(mib, 10*mib, "reserved"), slotAt(11*mib, 0, "extended")}, 0},
		{"beyond the limit", []SlotState{slotAt(mib, 10*mib, "reserved"), slotAt(11*mib, -mib, "unreserved")}, 0},
		{"lost already", []SlotState{slotAt(mib, 10*mib, "reserved"), slotAt(11*mib, -1, "lost")}, unknown},
		{"WAL goes back: another server", []SlotState{slotAt(90*mib, 100*mib, "reserved"), slotAt(11*mib, 100*mib, "reserved")}, unknown},
		{"a rate so small that it is never", []SlotState{slotAt(mib, 1<<62, "reserved"), slotAt(mib+10, 1<<62, "reserved")}, 10 * 365 * 24 * time.Hour},
	} {
		var b Budget
		var left time.Duration
		for i, s := range c.states {
			left, _ = b.Observe(start.Add(time.Duration(i)*10*time.Second), s)
		}
		if left != c.left {
			t.Errorf("%s: %v left, want %v", c.what, left, c.left)
		}
	}
}

// The rate is that of the last minutes: an old burst is forgotten.
func TestBudgetForgets(t *testing.T) {
	var b Budget
	at, current := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), change.LSN(gib)
	b.Observe(at, slotAt(1, gib, "reserved"))
	var left time.Duration
	for range 400 { // 800 seconds at 1 KiB a second
		at, current = at.Add(2*time.Second), current+2048
		left, _ = b.Observe(at, slotAt(current, 1<<20, "reserved"))
	}
	if left != 1024*time.Second {
		t.Errorf("%v left, want 1024s", left)
	}
	if n := len(b.samples); n > 200 {
		t.Errorf("%d samples are kept", n)
	}
}

// A warning comes once, comes for worse things again, and comes anew only after it was fine by a margin.
func TestBudgetWarnsOnce(t *testing.T) {
	var b Budget
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		slot SlotState
		news BudgetWarning
	}{
		{slotAt(10*mib, 90*mib, "reserved"), BudgetFine},
		{slotAt(81*mib, 19*mib, "extended"), BudgetShort},
		{slotAt(82*mib, 18*mib, "extended"), BudgetFine},
		{SlotState{Confirmed: 60 * mib, Restart: 57 * mib, Current: 82 * mib, SafeBytes: 75 * mib, WALStatus: "reserved"}, BudgetFine}, // little time: 82 MiB were written in seconds
		{slotAt(83*mib, -mib, "unreserved"), BudgetUnreserved},
		{slotAt(84*mib, -2*mib, "unreserved"), BudgetFine},
		{SlotState{Confirmed: 84 * mib, Restart: 84 * mib, Current: 84 * mib, SafeBytes: 100 * mib, WALStatus: "reserved"}, BudgetFine},
		{slotAt(85*mib, 15*mib, "extended"), BudgetShort},
	} {
		at = at.Add(10 * time.Second)
		if _, news := b.Observe(at, c.slot); news != c.news {
			t.Errorf("look %d: news %d, want %d", i, news, c.news)
		}
	}
	b = Budget{}
	for i, c := range []struct {
		retained change.LSN
		news     BudgetWarning
	}{{gib, BudgetFine}, {11 * gib, BudgetDisk}, {9 * gib, BudgetFine}, {11 * gib, BudgetFine}, {gib, BudgetFine}, {11 * gib, BudgetDisk}} {
		s := SlotState{Confirmed: 20*gib - c.retained, Restart: 20*gib - c.retained, Current: 20 * gib, SafeBytes: -1, WALStatus: "extended"}
		if _, news := b.Observe(at.Add(time.Duration(i)*time.Second), s); news != c.news {
			t.Errorf("%d GiB kept, look %d: news %d, want %d", c.retained/gib, i, news, c.news)
		}
	}
}
