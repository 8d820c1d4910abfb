package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/walrill/walrill/bridge"
	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
	"github.com/walrill/walrill/sink"
	"github.com/walrill/walrill/web"
)

// watchInterval is how often the slot is looked at and rates are taken.
const watchInterval = 2 * time.Second

// reporter puts together what the parts know of themselves.
type reporter struct {
	config *config.Config
	log    *slog.Logger

	mu       sync.Mutex
	pipeline *pipeline // nil until it is made
	views    *viewReporter
	retained *retention // nil when nothing is trimmed
	reload   web.Reload
	slot     capture.SlotState
	slotErr  error
	budget   capture.Budget
	left     time.Duration // until the slot is lost, below 0 when that is not to be feared
	totals   totals
	sampled  time.Time
	entries  uint64 // when sampled
	rate     float64
}

// totals sums up publishers: each session of the bridge has one of its own.
type totals struct {
	last   sink.Status // of the latest publisher
	of     *sink.Publisher
	before sink.Status // of all that came before
}

// reloading notes what became of the configuration file.
func (r *reporter) reloading(state string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state == reloadNone && r.reload.State != reloadFailed {
		return
	}
	if state == reloadDone {
		r.reload.Count++
	}
	if state == reloadNone && r.reload.Count > 0 {
		state = reloadDone // the file is what it was then
	}
	r.reload.State, r.reload.At, r.reload.Error = state, time.Now().UTC(), ""
	if err != nil {
		r.reload.Error = redact(r.config, err.Error())
	}
}

// watch follows the slot until ctx ends, and warns before it is lost.
func (r *reporter) watch(ctx context.Context, p *pipeline) {
	r.mu.Lock()
	r.pipeline = p
	r.mu.Unlock()
	p.source.WatchSlot(ctx, watchInterval, func(state capture.SlotState, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.slotErr = err; err == nil {
			var news capture.BudgetWarning
			r.slot = state
			r.left, news = r.budget.Observe(time.Now(), state)
			warnBudget(r.log, state, r.left, news)
		}
		r.sample(time.Now())
	})
}

// sample takes the rate of entries since the last sample.
func (r *reporter) sample(now time.Time) {
	s := r.sinkStatus()
	if !r.sampled.IsZero() && now.After(r.sampled) {
		r.rate = float64(s.Entries-r.entries) / now.Sub(r.sampled).Seconds()
	}
	r.sampled, r.entries = now, s.Entries
}

// sinkStatus is the present publisher's status with the counts of all.
func (r *reporter) sinkStatus() sink.Status {
	t := &r.totals
	if p, ok := r.pipeline.bridge.Status().Publisher.(*sink.Publisher); ok {
		if t.of != nil && t.of != p {
			t.before = sum(t.before, t.last)
		}
		t.of, t.last = p, p.Status()
	}
	return sum(t.before, t.last)
}

// sum is b with a's counts added.
func sum(a, b sink.Status) sink.Status {
	b.Entries += a.Entries
	b.Skipped += a.Skipped
	b.Batches += a.Batches
	b.Bytes += a.Bytes
	errors := maps.Clone(b.Errors)
	for kind, n := range a.Errors {
		errors[kind] += n
	}
	b.Errors = errors
	b.BatchEntries = sumHistogram(a.BatchEntries, b.BatchEntries)
	b.AckSeconds = sumHistogram(a.AckSeconds, b.AckSeconds)
	return b
}

func sumHistogram(a, b sink.Histogram) sink.Histogram {
	b.Counts = slices.Clone(b.Counts)
	for i, n := range a.Counts {
		b.Counts[i] += n
	}
	b.Sum += a.Sum
	return b
}

// report is the pipeline's state now. Any goroutine may ask for it.
func (r *reporter) report() web.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := web.Report{Pipeline: r.config.Pipeline, Version: version, State: "starting", Reload: r.reload}
	report.Source.Slot = r.config.Source.Slot
	if r.views != nil {
		report.Views = r.views.report(r.config)
	}
	if r.pipeline == nil {
		report.Source.SafeBytes, report.Source.SecondsToLoss = -1, -1 // not looked at
		if v := report.Views; v != nil {                              // views alone
			report.Source.Slot = ""
			report.State, report.Error = v.State, v.Error
			if v.State == projector.StateRunning {
				report.State = "streaming"
			}
		}
		return report
	}
	status := r.pipeline.bridge.Status()
	report.State, report.Since, report.Error = string(status.State), status.Since, redact(r.config, status.Error)
	if r.lostSlot(status) {
		report.State, report.Error = stateSlotLost, slotLostAdvice
	}
	report.Source.Changes, report.Source.Transactions = status.Changes, status.Transactions
	if status.Received != 0 {
		report.Source.Received = status.Received.String()
	}
	r.fillSlot(&report.Source)
	r.fillSink(&report.Sink)
	if trims(status.State) {
		report.Retention = r.retained.now()
	}
	fillBackfill(&report.Backfill, r.pipeline.source.Backfills())
	report.Sink.Duplicates += status.Repeated
	report.Sink.ParkedKeys = status.ParkedKeys
	report.Sink.SchemaBreaks = status.SchemaBreaks
	if watermark := report.Sink.Watermark; watermark != "" {
		report.Source.LagSeconds = r.lag(watermark, status.ReceivedAt)
	}
	return report
}

// lostSlot reports whether the slot is known to be lost before the bridge has come to see it, which waits for Redis.
func (r *reporter) lostSlot(status bridge.Status) bool {
	if status.State != bridge.StateConnecting && status.State != bridge.StateRetrying {
		return false
	}
	return r.slotErr == nil && r.slot.WALStatus == "lost" || errors.Is(r.slotErr, capture.ErrNoSlot) && status.Received != 0
}

func fillBackfill(b *web.Backfill, list []capture.BackfillProgress) {
	for _, p := range list {
		b.Rows += p.Rows
		switch p.State {
		case capture.BackfillWaiting:
			b.Waiting++
		case capture.BackfillRunning:
			b.Running++
		case capture.BackfillFailed:
			b.Failed++
		}
	}
}

func (r *reporter) fillSlot(s *web.Source) {
	if r.slotErr != nil {
		s.Error = redact(r.config, r.slotErr.Error())
	}
	fillSlot(s, r.slot)
	s.SecondsToLoss = r.left.Seconds()
}

// warnBudget says what has come to be wrong with the slot's WAL.
func warnBudget(log *slog.Logger, s capture.SlotState, left time.Duration, news capture.BudgetWarning) {
	const fix = "see why walrill lags (walrill status), or raise max_slot_wal_keep_size"
	kept := []any{"retained", size(s.RetainedBytes()), "lag", size(s.LagBytes())}
	switch news {
	case capture.BudgetDisk:
		log.Warn("Postgres keeps much WAL for the slot, and its disk is the only limit", append(kept,
			"fix", "see why walrill lags (walrill status); max_slot_wal_keep_size would give up the slot before the disk is full")...)
	case capture.BudgetShort:
		if left >= 0 {
			kept = append(kept, "lost_in", left)
		}
		log.Warn("the slot may be lost before long", append(kept, "safe", size(s.SafeBytes), "fix", fix)...)
	case capture.BudgetUnreserved:
		log.Warn("the slot is about to be lost: Postgres may remove WAL that it needs at its next checkpoint", append(kept, "fix", fix)...)
	}
}

func fillSlot(s *web.Source, slot capture.SlotState) {
	s.WALStatus, s.ActivePID, s.SafeBytes = slot.WALStatus, slot.ActivePID, slot.SafeBytes
	s.LagBytes, s.RetainedBytes = slot.LagBytes(), slot.RetainedBytes()
	if slot.Current != 0 {
		s.Current, s.Confirmed = slot.Current.String(), slot.Confirmed.String()
	}
}

func (r *reporter) fillSink(s *web.Sink) {
	status := r.sinkStatus()
	s.State, s.Since = status.State, status.Since
	if status.State != sink.StateConnected {
		s.ErrorKind, s.Error = status.ErrorKind, redact(r.config, status.Error)
	}
	s.Entries, s.Duplicates, s.Batches, s.Bytes, s.Rate = status.Entries, status.Skipped, status.Batches, status.Bytes, r.rate
	s.BatchEntries, s.AckSeconds = web.Histogram(status.BatchEntries), web.Histogram(status.AckSeconds)
	s.Errors = status.Errors
	epoch, lsn := event.SplitClock(status.Durable)
	s.Epoch = epoch
	if lsn != 0 {
		s.Watermark = change.LSN(lsn).String()
	}
}

// lag is how old the durable watermark is, 0 when Postgres has written nothing since.
func (r *reporter) lag(watermark string, at time.Time) float64 {
	lsn, err := change.ParseLSN(watermark)
	if err != nil || lsn >= r.slot.Current || at.IsZero() {
		return 0
	}
	return max(0, time.Since(at).Seconds())
}
