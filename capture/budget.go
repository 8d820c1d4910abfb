package capture

import "time"

// Budget estimates when the slot is lost: how much WAL may still be written, against how fast it is. It also
// decides what to warn of, once each time. It is pure: the time is passed in.
type Budget struct {
	samples []budgetSample // of the last budgetWindow, in order
	warned  BudgetWarning
}

type budgetSample struct {
	at      time.Time
	current uint64 // where Postgres writes
}

// BudgetWarning is what is wrong with the slot's WAL, the worst of it.
type BudgetWarning int

// In the order of how bad they are.
const (
	BudgetFine       BudgetWarning = iota
	BudgetDisk                     // without a limit, Postgres keeps so much that its disk is the limit
	BudgetShort                    // the slot is lost soon at the present rate, or little of its limit is left
	BudgetUnreserved               // Postgres may remove WAL that the slot needs at its next checkpoint
)

const (
	budgetWindow = 5 * time.Minute // over which the rate is taken
	// A warning comes when the slot has less than this left, in time or in a share of its limit …
	budgetSoon  = time.Hour
	budgetShare = 0.2
	// … or, where there is no limit, when Postgres keeps more than this for it.
	budgetDisk = 10 << 30
	// It is taken back, and can come again, when there is so much more than that.
	budgetSlack = 1.5
)

// Observe takes in the slot's state, as read every few seconds. It returns the time until the slot is lost, below 0
// when that is not known or not to be feared, and a warning when there is a new or a worse one.
func (b *Budget) Observe(now time.Time, s SlotState) (left time.Duration, news BudgetWarning) {
	b.note(now, uint64(s.Current))
	left = b.left(s)
	switch level := b.judge(s, left, 1); {
	case level > b.warned:
		b.warned = level
		return left, level
	case level < b.warned:
		// What is only just no longer as bad is not taken back yet.
		b.warned = min(b.warned, b.judge(s, left, budgetSlack))
	}
	return left, BudgetFine
}

// note keeps the sample, at most one a second, and forgets those that are too old. WAL that goes back is another server's.
func (b *Budget) note(now time.Time, current uint64) {
	if n := len(b.samples); n > 0 && current < b.samples[n-1].current {
		b.samples = nil
	}
	if n := len(b.samples); n > 1 && now.Sub(b.samples[n-2].at) < time.Second {
		b.samples = b.samples[:n-1]
	}
	b.samples = append(b.samples, budgetSample{now, current})
	for len(b.samples) > 2 && now.Sub(b.samples[1].at) >= budgetWindow {
		b.samples = b.samples[1:]
	}
}

// rate is how many bytes of WAL are written in a second.
func (b *Budget) rate() float64 {
	if len(b.samples) < 2 {
		return 0
	}
	first, last := b.samples[0], b.samples[len(b.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return float64(last.current-first.current) / seconds
}

const unknown = -1 * time.Second

// left is the time until the slot is in danger, if it stands still.
func (b *Budget) left(s SlotState) time.Duration {
	rate := b.rate()
	switch {
	case s.WALStatus == "lost" || !s.limited():
		return unknown
	case s.SafeBytes <= 0:
		return 0
	case rate <= 0:
		return unknown
	}
	const most = 10 * 365 * 24 * time.Hour
	return time.Duration(min(float64(s.SafeBytes)/rate, most.Seconds()) * float64(time.Second))
}

// limited reports whether max_slot_wal_keep_size is set: Postgres says what is safe only then, and has nothing to say any more
// when the slot is beyond it.
func (s SlotState) limited() bool { return s.SafeBytes >= 0 || s.WALStatus == "unreserved" }

// judge says how bad it is; with a slack above 1 it takes more to be fine. WAL that is kept is a multiple of what is
// confirmed in time, so little left matters only while something is kept.
func (b *Budget) judge(s SlotState, left time.Duration, slack float64) BudgetWarning {
	retained := float64(s.RetainedBytes())
	switch {
	case s.WALStatus == "unreserved":
		return BudgetUnreserved
	case s.WALStatus == "lost":
		return BudgetFine // an error of its own
	case s.limited():
		limit := retained + float64(s.SafeBytes)
		behind := s.LagBytes() > budgetBehind
		if behind && (left >= 0 && left.Seconds() < slack*budgetSoon.Seconds() || float64(s.SafeBytes) < slack*budgetShare*limit) {
			return BudgetShort
		}
	case retained > budgetDisk/slack:
		return BudgetDisk
	}
	return BudgetFine
}

// budgetBehind is a lag that is none: a slot that follows is not lost, however small its limit.
const budgetBehind = 1 << 20
