package projector

import (
	"context"
	"errors"
	"fmt"
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
	commit uint64    // of the last event
	open   bool      // the transaction has begun: a part is written already
	time   time.Time // of the last event
	tx     uint32
	part   map[string]bool // mirrors that were written in it
}

// follow applies events until something fails or ctx ends.
func (s *session) follow(ctx context.Context) error {
	for {
		if !s.batch.open && s.batch.events == 0 && time.Now().After(s.tend) {
			if err := s.lookAfter(ctx); err != nil {
				return err
			}
			s.tend = time.Now().Add(tendEvery)
		}
		e, ok, err := s.step(ctx)
		switch {
		case errors.Is(err, errIdle) && ctx.Err() == nil:
		case err != nil:
			return err
		case ok:
			if err := s.take(ctx, &e); err != nil {
				return err
			}
		default:
			if err := s.commit(ctx, s.feed.Watermark()); err != nil {
				return err
			}
		}
	}
}

// step waits for the feed, but no longer than until something is to be looked after.
func (s *session) step(ctx context.Context) (event.Event, bool, error) {
	if s.batch.events > 0 {
		return s.feed.Step(ctx)
	}
	wait := time.Second
	if len(s.fillers) > 0 {
		wait = tendEvery
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return s.feed.Step(ctx)
}

// take adds an event to the batch.
func (s *session) take(ctx context.Context, e *event.Event) error {
	if (s.batch.events >= maxBatch || s.emitsRows && s.batch.events > 0) && e.Position.Commit > s.batch.commit {
		if err := s.commit(ctx, e.Position.Commit); err != nil {
			return err
		}
	}
	if err := s.contiguous(e); err != nil {
		return err
	}
	s.batch.events++
	s.batch.commit, s.batch.time, s.batch.tx = e.Position.Commit, e.Time, e.Tx
	if err := s.takeFolds(ctx, e); err != nil {
		return err
	}
	for _, m := range s.bySrc[e.Table] {
		if m.Stream != e.Stream.Name {
			continue
		}
		if e.Schema != m.shape && e.Schema != 0 {
			m.shape, s.reshaped = e.Schema, true
		}
		if m.fold.bytes > maxFold && m.fold.mayFlush(e) {
			if err := s.write(ctx, m); err != nil {
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
		return m.stored(ctx, s.conn)(key)
	}
}

// contiguous checks that nothing is missing in the event's partition.
func (s *session) contiguous(e *event.Event) error {
	key := e.Stream.Keys[e.Partition]
	last, known := s.seqs[key]
	if (known || s.pos.read == 0 || s.foldsAll(e.Stream.Name)) && e.Seq != last+1 {
		return gap(key, last, e)
	}
	s.seqs[key] = e.Seq
	s.dirty[key] = true
	return nil
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
	if _, err := s.conn.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	return s.setPlace(ctx)
}

// setPlace says which source transaction mirrors and queries are at, when they emit events.
func (s *session) setPlace(ctx context.Context) error {
	if !s.emitsRows {
		return nil
	}
	_, err := s.conn.Exec(ctx, setPlace, placeOf(s.batch.commit, s.pos.read, s.batch.time, s.batch.tx))
	return err
}

// write sends what a mirror has gathered, within the batch's transaction.
func (s *session) write(ctx context.Context, mirrors ...*mirror) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	var list []statement
	for _, m := range mirrors {
		parked := s.parked[m.Name] > 0
		if parked {
			if err := m.fillParked(ctx, s.conn, s.opts.Pipeline); err != nil {
				return err
			}
		}
		list = append(list, m.statements(parked)...)
		if s.batch.part == nil {
			s.batch.part = map[string]bool{}
		}
		if m.changed != "" {
			s.batch.part[m.Name] = true
		}
	}
	if err := s.exec(ctx, list); err != nil {
		return err
	}
	for _, m := range mirrors {
		m.fold.reset()
	}
	return nil
}

// exec runs statements in one round trip; in careful mode one by one.
func (s *session) exec(ctx context.Context, list []statement) error {
	if s.careful {
		for _, st := range list {
			if err := s.execCarefully(ctx, st); err != nil {
				return err
			}
		}
		return nil
	}
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
	var mirrors []*mirror
	for _, m := range s.mirrors {
		if !m.fold.empty() {
			mirrors = append(mirrors, m)
		}
	}
	next := s.pos
	next.read = clock
	if s.pos.gap == "" {
		next.shown = clock
	}
	if len(mirrors) == 0 && !s.batch.open && !s.foldsPending() {
		return s.advance(ctx, next)
	}
	if err := s.apply(ctx, mirrors, next); err != nil {
		s.conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") //nolint:errcheck // the session ends
		return err
	}
	events := s.batch.events
	s.batch = batch{}
	s.careful = false
	clear(s.dirty)
	s.moved(next, events)
	return nil
}

// advance moves the position when no row changed: nothing is written but now and then.
func (s *session) advance(ctx context.Context, next position) error {
	if time.Since(s.saved) > saveEvery {
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
func (s *session) apply(ctx context.Context, mirrors []*mirror, next position) error {
	if err := s.write(ctx, mirrors...); err != nil {
		return err
	}
	var list []statement
	for _, q := range s.queries {
		if touched := s.touched(q); touched != nil {
			if s.careful {
				if err := s.recomputeCarefully(ctx, q, touched); err != nil {
					return err
				}
				continue
			}
			list = append(list, statement{sql: q.recomputeSQL(touched), rows: -1})
			if s.parked[q.name] > 0 {
				list = append(list, statement{rows: -1, args: []any{q.name}, sql: "DELETE FROM walrill.parked WHERE view = $1 AND key IN (SELECT to_jsonb(k) FROM (" + q.keysSQL(touched) + ") k)"})
			}
		}
	}
	if err := s.flushFolds(ctx); err != nil {
		return err
	}
	for _, m := range s.mirrors {
		if s.batch.part[m.Name] && m.changed != "" {
			list = append(list, m.empty(2*s.batch.events)) // the old and the new versions
		}
	}
	list = append(list, statement{sql: savePosition, args: s.positionArgs(next), rows: 1})
	if st, ok := s.seqStatement(); ok {
		list = append(list, st)
	}
	if err := s.exec(ctx, list); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, "COMMIT")
	if err != nil {
		return fmt.Errorf("commit to the view store: %w", err)
	}
	s.saved = time.Now()
	return nil
}

// touched are the mirrors of a view that the batch changed; nil for none.
func (s *session) touched(q *query) map[string]bool {
	var touched map[string]bool
	for _, m := range q.def.Mirrors {
		if s.batch.part[m.Name] {
			if touched == nil {
				touched = map[string]bool{}
			}
			touched[m.Name] = true
		}
	}
	return touched
}
