package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

const (
	// maxBatch is how many events may go into one transaction of the store; whole source transactions only.
	maxBatch = 5000
	// tendEvery is how often fillings and requests are looked after.
	tendEvery = 300 * time.Millisecond
	// saveEvery is how often a position is written that moved without changes.
	saveEvery = 30 * time.Second
)

// batch is what is gathered for one transaction of the store.
type batch struct {
	events int
	commit uint64          // of the last event
	open   bool            // the transaction has begun: a part is written already
	part   map[string]bool // tables of changed rows that were written in it, and that no query has seen yet
}

// follow applies events until something fails or ctx ends.
func (s *session) follow(ctx context.Context) error {
	for {
		if !s.batch.open && s.batch.events == 0 && time.Now().After(s.tend) {
			if err := s.look(ctx); err != nil {
				return err
			}
			s.tend = time.Now().Add(tendEvery)
		}
		if !s.batch.open && s.batch.events == 0 && s.builderDone() {
			if err := s.lookAfterBuilders(ctx); err != nil {
				return err
			}
			s.tend = time.Time{}
		}
		e, ok, err := s.next(ctx)
		switch {
		case errors.Is(err, errIdle) && ctx.Err() == nil:
		case err != nil:
			return err
		case ok:
			if err := s.take(ctx, &e); err != nil {
				return err
			}
		default:
			s.calm = 0 // nothing is behind: another refusal costs little
			if err := s.commit(ctx, s.feed.Watermark()); err != nil {
				return err
			}
		}
	}
}

// next waits for the feed, but no longer than until something is to be looked after.
func (s *session) next(ctx context.Context) (event.Event, bool, error) {
	if s.batch.events > 0 {
		return s.feed.Step(ctx)
	}
	wait := time.Second
	if len(s.fillers) > 0 || s.worker != nil || s.opts.Workers > 0 {
		wait = tendEvery
	}
	if len(s.builders) > 0 {
		wait = builderPoll
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return s.feed.Step(ctx)
}

// most is how many events a batch has until it ends with a source transaction. Where a row is refused, what is emitted is found out of one
// source transaction after the other.
func (s *session) most() int {
	if s.careful && s.inSteps() {
		return 1
	}
	return maxBatch
}

// take adds an event to the batch.
func (s *session) take(ctx context.Context, e *event.Event) error {
	if s.batch.events >= s.most() && e.Position.Commit > s.batch.commit {
		if err := s.commit(ctx, e.Position.Commit); err != nil {
			return err
		}
	}
	seen, err := s.contiguous(e)
	if err != nil {
		return err
	}
	s.batch.events++
	s.batch.commit = e.Position.Commit
	if seen {
		return nil
	}
	if err := s.takeFolds(ctx, e); err != nil {
		return err
	}
	for _, m := range s.bySrc[e.Table] {
		if m.Stream != e.Stream.Name {
			continue
		}
		if s.worker != nil {
			if err := s.worker.check(e, m); err != nil {
				return err
			}
		}
		if e.Schema != m.shape && e.Schema != 0 {
			m.shape, s.reshaped = e.Schema, true
		}
		if m.stepped {
			if err := s.step(ctx, m, e); err != nil {
				return err
			}
		}
		if m.fold.bytes > maxFold && m.fold.mayFlush(e) && !(s.careful && m.emits) {
			if err := s.writePart(ctx, m); err != nil {
				return err
			}
		}
		if err := m.fold.add(e, s.lookup(ctx, m)); err != nil {
			return err
		}
	}
	return nil
}

// lookup reads a mirror within the batch's transaction.
func (s *session) lookup(ctx context.Context, m *mirror) lookup {
	return func(key []byte) (row, error) {
		if err := s.begin(ctx); err != nil {
			return nil, err
		}
		if err := s.send(ctx); err != nil {
			return nil, err
		}
		return m.stored(ctx, s.conn)(key)
	}
}

// contiguous checks that nothing is missing in the event's partition. What was seen is applied already: by a worker that came further. Another
// event of an early seq is of streams that have begun anew.
func (s *session) contiguous(e *event.Event) (seen bool, err error) {
	key := e.Stream.Keys[e.Partition]
	last := s.seqs[key] // 0 for a partition that came to be since its stream is read
	if e.Seq <= last && e.Position.Commit < s.applied[key] {
		return true, nil
	}
	if e.Seq != last+1 {
		return false, gap(key, last, e)
	}
	s.seqs[key] = e.Seq
	s.dirty[key] = true
	return false, nil
}

// gap says what is missing before an event of a partition of which last came before.
func gap(key string, last uint64, e *event.Event) error {
	if last == 0 {
		return &MissingError{fmt.Errorf("%s begins with event %d at %v: what was before has been trimmed", key, e.Seq, e.Position)}
	}
	return &MissingError{fmt.Errorf("%s: event %d at %v comes behind event %d", key, e.Seq, e.Position, last)}
}

func (s *session) begin(ctx context.Context) error {
	if s.batch.open {
		return nil
	}
	s.batch.open = true
	_, err := s.conn.Exec(ctx, "BEGIN")
	return err
}

// step ends what is at work of an earlier source transaction, before a mirror takes an event.
func (s *session) step(ctx context.Context, m *mirror, e *event.Event) error {
	if s.steps.emits && e.Position.Commit > s.steps.commit {
		if err := s.endStep(ctx); err != nil {
			return err
		}
	}
	s.steps.commit, s.steps.time, s.steps.tx = e.Position.Commit, e.Time, e.Tx
	s.steps.emits = s.steps.emits || m.emits
	return nil
}

// writePart sends what a mirror has gathered of a large source transaction.
func (s *session) writePart(ctx context.Context, m *mirror) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.bringMirror(ctx, m, true); err != nil {
		return err
	}
	return s.send(ctx)
}

// exec runs statements in one round trip.
func (s *session) exec(ctx context.Context, list []statement) error {
	if len(list) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	for _, st := range list {
		b.Queue(st.sql, st.args...)
	}
	results := s.conn.SendBatch(ctx, b)
	for _, st := range list {
		tag, err := results.Exec()
		if err == nil {
			err = st.check(tag.RowsAffected())
		}
		if err != nil {
			results.Close() //nolint:errcheck // err says why
			return err
		}
	}
	return results.Close()
}

func (st *statement) check(rows int64) error {
	if st.rows >= 0 && rows != st.rows {
		if st.mirror == nil {
			return errFenced
		}
		return &MissingError{fmt.Errorf("mirror %s lacks %d rows that were updated", st.mirror.Name, st.rows-rows)}
	}
	return nil
}

// commit writes the batch, with every view that it touches and the position, and commits. Everything below
// clock has been handed out.
func (s *session) commit(ctx context.Context, clock uint64) error {
	next := s.pos
	next.read = clock
	if s.pos.gap == "" {
		next.shown = clock
	}
	if !s.batch.open && !s.foldsPending() && !slices.ContainsFunc(s.mirrors, func(m *mirror) bool { return !m.fold.empty() }) {
		return s.advance(ctx, next)
	}
	if err := s.apply(ctx, next); err != nil {
		s.conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") //nolint:errcheck // the session ends
		return err
	}
	events := s.batch.events
	s.batch = batch{}
	s.calm -= events
	s.careful = clock <= s.until || s.calm > 0
	clear(s.dirty)
	s.moved(next, events)
	return nil
}

// advance moves the position when no row changed: nothing is written but now and then.
func (s *session) advance(ctx context.Context, next position) error {
	was, _ := event.SplitClock(s.pos.shown)
	epoch, _ := event.SplitClock(next.shown)
	if time.Since(s.saved) > saveEvery || epoch != was { // the lock's number is of the epoch that is written
		if err := s.in(ctx, next, func(tx pgx.Tx) error { return s.saveSeqs(ctx, tx) }); err != nil {
			return err
		}
		clear(s.dirty)
		s.saved = time.Now()
	}
	if next.gap == "" {
		if err := s.show(ctx, next.shown); err != nil {
			return err
		}
	}
	events := s.batch.events
	s.batch = batch{}
	s.moved(next, events)
	return nil
}

// moved makes the new position known.
func (s *session) moved(next position, events int) {
	s.pos = next
	s.projector.note(func(st *Status) {
		st.Clock, st.Gap = next.shown, next.gap
		st.Events += uint64(events)
		st.Transactions++
	})
	if time.Since(s.told) > progressEvery {
		s.tellProgress()
	}
}

// apply is the transaction of a batch: mirrors, views, position.
func (s *session) apply(ctx context.Context, next position) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.endStep(ctx); err != nil {
		return err
	}
	var mirrors []*mirror
	for _, m := range s.mirrors {
		if !m.fold.empty() {
			mirrors = append(mirrors, m)
		}
	}
	if err := s.bring(ctx, mirrors, s.mirrors, s.queries); err != nil {
		return err
	}
	if s.foldsPending() {
		if err := s.send(ctx); err != nil {
			return err
		}
		if err := s.flushFolds(ctx); err != nil {
			return err
		}
	}
	s.queue.list = append(s.queue.list, s.saveStatement(next))
	if st, ok := s.seqStatement(); ok {
		s.queue.list = append(s.queue.list, st)
	}
	if err := s.send(ctx); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, "COMMIT")
	if err != nil {
		return fmt.Errorf("commit to the view store: %w", err)
	}
	s.saved = time.Now()
	return nil
}
