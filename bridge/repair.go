package bridge

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Repair replaces a slot that was lost. It holds a lock, so that one instance repairs at a time.
type Repair interface {
	// Run does it. It may be done again after it was broken off anywhere.
	Run(ctx context.Context, id string) (Source, error)
	Close()
}

// prepare brings Postgres up to date, and repairs a slot that is lost when that is asked for.
//
// A repair is recorded in :meta before anything is touched, and until the streams have begun behind the gap
// (see baseline). A process that finds such a record does the repair again, whatever came of the first.
func (s *session) prepare(ctx context.Context) (Source, error) {
	opts := &s.bridge.opts
	source, err := opts.Prepare(ctx, s.origin())
	underWay := s.meta.RepairFrom != 0
	switch {
	case opts.BeginRepair != nil && (underWay && (err == nil || isSlotLost(err)) || isSlotLost(err) && s.meta.Begun()):
		return s.mend(ctx, err)
	case underWay && err == nil:
		return source, fatalf("the repair of a lost slot was begun and not finished: what was changed since %s is not in the streams\n"+
			"  fix: set source.on_slot_loss to backfill again and start, or run `walrill adopt` to go on from here with that gap, in a new epoch", lsnOf(s.meta.RepairFrom))
	}
	return source, err
}

// mend repairs. Lost is what Postgres said of the slot, nil when an earlier repair is to be finished.
func (s *session) mend(ctx context.Context, lost error) (source Source, err error) {
	opts := &s.bridge.opts
	s.bridge.status.enter(StateRepairing, lost)
	repair, err := opts.BeginRepair(ctx)
	if err != nil {
		return source, err
	}
	s.lock = repair
	// Another instance may have been at it until now.
	if s.meta, s.top, err = s.pub.Connect(ctx); err != nil {
		return source, err
	}
	if source, err = opts.Prepare(ctx, s.origin()); err != nil && !isSlotLost(err) {
		return source, err
	}
	if s.meta.RepairFrom == 0 {
		if !isSlotLost(err) || !s.meta.Begun() {
			return source, err
		}
		if err := checkTimeline(s.meta, lsnOf(s.top), source); err != nil {
			return source, err
		}
		reason, _, _ := strings.Cut(err.Error(), "\n") // without the fix: this is it
		opts.Log.Warn("the slot is lost and is going to be repaired", "reason", reason)
		s.meta.Repair, s.meta.RepairFrom = rand.Text(), max(s.top, event.Clock(s.meta.Epoch, 1))
		if err := s.pub.SaveMeta(ctx, s.meta); err != nil {
			return source, err
		}
	}
	s.repaired = true
	return repair.Run(ctx, s.meta.Repair)
}

// unlock lets other instances repair.
func (s *session) unlock() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}

func lsnOf(clock uint64) change.LSN {
	_, lsn := event.SplitClock(clock)
	return change.LSN(lsn)
}
