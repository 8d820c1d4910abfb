package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// loadParked finds out which keys are blocked where streaming goes on. What is parked behind that place is
// not counted: it will be parked again, as the same entries.
func (s *session) loadParked(ctx context.Context) error {
	s.blocked = event.Blocked{}
	s.mapper.SetBlocked(s.blocked)
	entries, err := s.parkedBefore(ctx, math.MaxUint64)
	if err != nil || len(entries) == 0 {
		return err
	}
	last := entries[len(entries)-1].Position
	if s.highest.Compare(last) < 0 {
		s.highest = last
	}
	entries = slices.DeleteFunc(entries, func(p event.Parked) bool { return p.Position.Commit >= s.complete })
	left, err := event.Unresolved(entries)
	if err != nil {
		return err
	}
	for i := range left {
		s.blocked.Add(left[i].Stream, left[i].Key)
	}
	if n := len(left); n > 0 {
		s.bridge.opts.Log.Warn("changes are parked, and those that follow of their keys will be", "changes", n, "keys", len(s.blocked), "see", "walrill parked list")
	}
	return s.forgetParked(ctx, entries, last)
}

// tellParked says in the log that a key is parked, once for each: those behind the first have no reason.
func (s *session) tellParked(e *event.Event) {
	var p event.Parked
	if err := json.Unmarshal(e.Data, &p); err == nil && e.Type == event.ParkedChange && p.Reason != "" {
		s.bridge.opts.Log.Warn("a rule failed: the change is parked, and all later ones of its key will be", "stream", p.Stream, "key", string(e.Key), "reason", p.Reason)
	}
}

// parkedBefore reads what was written to :parked of transactions below a clock.
func (s *session) parkedBefore(ctx context.Context, clock uint64) (entries []event.Parked, err error) {
	err = s.meanwhile(ctx, func(ctx context.Context) (err error) { entries, err = s.bridge.opts.Parked(ctx); return err })
	for i := range entries {
		if entries[i].Position.Commit >= clock {
			return entries[:i], err
		}
	}
	return entries, err
}

// forgetParked removes what was resolved so long ago that Postgres cannot repeat it. The last entry stays: its
// seq and ID are where the stream goes on.
func (s *session) forgetParked(ctx context.Context, entries []event.Parked, last event.Position) error {
	var old []event.Parked
	for _, e := range entries {
		if e.Position.Commit < s.clock(s.stream.Start()) {
			old = append(old, e)
		}
	}
	left, err := event.Unresolved(old)
	if err != nil {
		return err
	}
	keep, blocked := map[event.Position]bool{}, event.Blocked{}
	for _, e := range left {
		keep[e.Position] = true
		blocked.Add(e.Stream, e.Key)
	}
	var gone []event.Position
	for _, e := range old {
		if e.Position != last && !keep[e.Position] && (e.Kind == event.ParkedChange || !blocked.Has(e.Stream, []byte(e.Key))) {
			gone = append(gone, e.Position)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return s.meanwhile(ctx, func(ctx context.Context) error { return s.bridge.opts.Unpark(ctx, gone) })
}

// resolve does what `walrill parked` asks for, in the transaction of its message: what it publishes has its place there,
// above everything that the streams hold, and a replay comes to the same.
func (s *session) resolve(ctx context.Context, content []byte) error {
	var request event.ParkedRequest
	if err := json.Unmarshal(content, &request); err != nil {
		s.bridge.opts.Log.Warn("a logical message with walrill's prefix is none of walrill's", "prefix", event.ParkedPrefix)
		return nil
	}
	if request.Pipeline != s.bridge.opts.Pipeline {
		return nil
	}
	if err := s.published(ctx); err != nil {
		return err
	}
	entries, err := s.parkedBefore(ctx, s.clock(s.tx.CommitLSN))
	if err != nil {
		return err
	}
	all, err := event.Unresolved(entries)
	if err != nil {
		return err
	}
	var left []event.Parked
	for _, p := range all {
		if p.Stream == request.Stream && p.Key == request.Key {
			left = append(left, p)
		}
	}
	if len(left) == 0 {
		return nil
	}
	outcome := event.Parked{Kind: event.ParkedDropped, Key: request.Key, Stream: request.Stream}
	done, failure := len(left), error(nil)
	if request.Action == "retry" {
		outcome.Kind = event.ParkedReleased
		if done, failure, err = s.retry(ctx, left); err != nil {
			return err
		}
	}
	if failure != nil {
		outcome.Kind, outcome.Reason = event.ParkedFailed, failure.Error()
	}
	if done > 0 {
		outcome.UpTo = left[done-1].Position.ID()
	}
	if done == len(left) {
		s.blocked.Remove(request.Stream, request.Key)
	}
	events, err := s.mapper.Resolve(&outcome)
	if err != nil {
		return fatal{err}
	}
	s.bridge.opts.Log.Info("parked changes: "+outcome.Kind, "stream", request.Stream, "key", request.Key, "changes", done, "left", len(left)-done)
	return s.append(ctx, events)
}

// retry publishes parked changes of a key until one fails again. It returns how many went well.
func (s *session) retry(ctx context.Context, list []event.Parked) (done int, failure, err error) {
	for i := range list {
		events, err := s.mapper.Retry(&list[i], s.tableNamed(list[i].Table))
		if err != nil {
			return i, err, nil
		}
		if err := s.append(ctx, events); err != nil {
			return i, nil, err
		}
		if s.pub.Full() {
			if err := s.handOver(ctx); err != nil {
				return i, nil, err
			}
		}
	}
	return len(list), nil, nil
}

// tableNamed is a table as it was when streaming began, nil when it is not mapped.
func (s *session) tableNamed(name string) *change.Relation {
	for _, rel := range s.source.Tables {
		if rel.String() == name {
			return rel
		}
	}
	return nil
}

// published waits until Redis has everything that was handed to the publisher: what was parked just now is to be found there.
func (s *session) published(ctx context.Context) error {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for s.offer(); !s.pub.Flushed(); s.offer() {
		select {
		case <-s.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := errors.Join(s.confirm(), s.stream.Beat()); err != nil {
			return err
		}
	}
	return nil
}
