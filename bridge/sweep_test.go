package bridge

import (
	"errors"
	"sync"
	"testing"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// fakeSweeper keeps the rows that it is shown until it is told to let them go.
type fakeSweeper struct {
	mu     sync.Mutex
	wake   func()
	rows   []change.LSN
	passed change.LSN // told to be durable
	err    error
	closed bool
}

func (s *fakeSweeper) See(_ *change.Change, tx *change.Tx) {
	commit := tx.CommitLSN
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows = append(s.rows, commit)
}

func (s *fakeSweeper) Durable(lsn change.LSN) change.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed = lsn
	if len(s.rows) > 0 {
		return min(lsn, s.rows[0])
	}
	return lsn
}

func (s *fakeSweeper) Err() error { s.mu.Lock(); defer s.mu.Unlock(); return s.err }
func (s *fakeSweeper) Close()     { s.mu.Lock(); defer s.mu.Unlock(); s.closed = true }

func (s *fakeSweeper) then(do func()) {
	s.mu.Lock()
	do()
	s.mu.Unlock()
	s.wake()
}

// A position is not confirmed beyond a row that is to be deleted and is still there: after a crash Postgres must send it again.
func TestRunHoldsConfirmationForRows(t *testing.T) {
	stream, pub, sweeper := newFakeStream(append(transaction(200), transaction(300)...)...), &fakePublisher{}, &fakeSweeper{}
	o := options(stream, pub)
	o.Sweep = func(wake func()) Sweeper { sweeper.wake = wake; return sweeper }
	_, stop := run(t, o)
	eventually(t, "both transactions are durable", func() bool {
		sweeper.mu.Lock()
		defer sweeper.mu.Unlock()
		stream.Wake()
		return sweeper.passed == 300
	})
	for len(stream.confirmed) > 0 {
		if lsn := <-stream.confirmed; lsn > 199 {
			t.Errorf("confirmed %d, and the row that committed at 199 is there", lsn)
		}
	}
	sweeper.then(func() { sweeper.rows = sweeper.rows[1:] })
	if lsn := <-stream.confirmed; lsn != 299 {
		t.Errorf("confirmed %d, the next row committed at 299", lsn)
	}
	sweeper.then(func() { sweeper.rows = nil })
	if lsn := <-stream.confirmed; lsn != 300 {
		t.Errorf("confirmed %d, want all", lsn)
	}
	if err := stop(); err != nil || !sweeper.closed {
		t.Errorf("ended with %v, the sweeper is closed: %t", err, sweeper.closed)
	}
}

func TestRunEndsWhenRowsCannotBeDeleted(t *testing.T) {
	stream, pub, sweeper := newFakeStream(transaction(200)...), &fakePublisher{}, &fakeSweeper{err: fatalf("no right")}
	o := options(stream, pub)
	o.Sweep = func(wake func()) Sweeper { sweeper.wake = wake; return sweeper }
	if err := New(o).Run(t.Context()); !errors.Is(err, sweeper.err) {
		t.Errorf("ended with %v", err)
	}
}

// Rows of transactions that an earlier session has published are shown again, if this mapping made their events.
func TestRunShowsRowsOfEarlierSessions(t *testing.T) {
	rel := &change.Relation{Namespace: "public", Name: "outbox"}
	for _, c := range []struct {
		meta  event.Meta // of the earlier session
		since uint64     // when this one's mapping takes the place of the earlier one
		want  int
	}{
		{event.Meta{Mapping: "now"}, 200, 1},
		{event.Meta{Mapping: "now", Since: 150}, 200, 1},
		{event.Meta{Mapping: "now", Since: 250}, 300, 0},
		{event.Meta{Mapping: "other", Since: 150}, 200, 0},                                                          // which may have taken the table in another way
		{event.Meta{Mapping: "other", Since: 150, Outboxes: map[string]uint64{"public.outbox": 120}}, 200, 1},       // and did not
		{event.Meta{Mapping: "other", Since: 150, Outboxes: map[string]uint64{"public.outbox": 199}}, 250, 1},       // just so
		{event.Meta{Mapping: "other", Since: 250, Outboxes: map[string]uint64{"public.outbox": 250}}, 300, 0},       // not yet
		{event.Meta{Mapping: "other", Since: 150, Outboxes: map[string]uint64{"public.letters": 120}}, 200, 0},      // another table
		{event.Meta{Mapping: "now", Since: 150, Outboxes: map[string]uint64{"public.outbox": 120, "x": 1}}, 200, 1}, // x is none any more
	} {
		sweeper := &fakeSweeper{}
		s := &session{bridge: New(Options{}), mapper: fakeMapper{}, sweeper: sweeper, tx: change.Tx{CommitLSN: 199}, meta: c.meta}
		s.mapBy("now", c.since)
		s.seeAgain([]change.Change{{Op: change.Insert, Relation: rel}, {Op: change.Update, Relation: rel}})
		if len(sweeper.rows) != c.want {
			t.Errorf("%+v, then since %d: %d rows, want %d", c.meta, c.since, len(sweeper.rows), c.want)
		}
		if len(s.meta.Outboxes) != 1 {
			t.Errorf("%+v: outboxes %v", c.meta, s.meta.Outboxes)
		}
	}
}
