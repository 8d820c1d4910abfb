package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// worker keeps the views as far as some partitions go, while the group is open.
type worker struct {
	opts    *Options
	number  int
	opening int64
	fence   int64

	partitions []string        // its own
	dealt      map[string]bool // all that were dealt out
	projector  *Projector      // has its status
	leaving    atomic.Bool     // it is to end between two batches
}

// run works until the group is closed, ctx ends or something fails. It returns nil when somebody else has the worker.
func (w *worker) run(ctx context.Context) error {
	s := &session{projector: w.projector, opts: w.opts, worker: w, failed: map[string]time.Time{}, stop: func() {}}
	var err error
	if s.conn, err = connect(ctx, w.opts.StoreURL, w.opts.Pipeline); err != nil {
		return err
	}
	defer s.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	defer s.reads.Wait()
	defer func() { s.stop() }()
	ok, err := w.take(ctx, s)
	if err != nil || !ok {
		return err
	}
	if err = s.settings(ctx); err == nil {
		err = s.loadWorker(ctx)
	}
	if err == nil {
		s.projector.note(func(st *Status) { st.State = StateRunning })
		err = s.follow(ctx)
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, errGivenUp):
		return s.leave()
	case errors.Is(err, errFenced):
		return nil
	}
	if halt := hard(err, s.batch.commit); halt != nil {
		return w.halt(ctx, s.conn, halt)
	}
	return err
}

// take takes the lease and raises the fence.
func (w *worker) take(ctx context.Context, s *session) (ok bool, err error) {
	err = s.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, hashtext($2 || '#' || $3::int || '#' || $4::bigint))", lockClass, w.opts.Pipeline, w.number, w.opening).Scan(&ok)
	if err != nil || !ok {
		return false, err
	}
	rows, err := s.conn.Query(ctx, "SELECT unnest(partitions) FROM walrill.workers WHERE pipeline = $1 AND opening = $2", w.opts.Pipeline, w.opening)
	if err != nil {
		return false, fmt.Errorf("take a worker of the views: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("take a worker of the views: %w", err)
	}
	w.dealt = map[string]bool{}
	for _, key := range keys {
		w.dealt[key] = true
	}
	var epoch uint8
	var lsn int64
	err = s.conn.QueryRow(ctx, `UPDATE walrill.workers w SET fence = w.fence + 1 FROM walrill.pipelines p
		WHERE w.pipeline = $1 AND worker = $2 AND w.opening = $3 AND p.pipeline = w.pipeline AND p.opening = w.opening AND p.open
		RETURNING w.fence, w.epoch, (w.lsn - '0/0')::bigint, w.partitions`, w.opts.Pipeline, w.number, w.opening).Scan(&w.fence, &epoch, &lsn, &w.partitions)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take a worker of the views: %w", err)
	}
	s.pos.shown = event.Clock(epoch, uint64(lsn))
	s.pos.read = s.pos.shown
	s.projector.note(func(st *Status) { st.Clock = s.pos.shown })
	return true, nil
}

// loadWorker makes what a worker needs to follow its partitions.
func (s *session) loadWorker(ctx context.Context) error {
	if err := s.loadViews(ctx); err != nil {
		return err
	}
	mirrors, err := s.loadMirrors(ctx)
	if err != nil {
		return err
	}
	s.bySrc, s.dirty = map[string][]*mirror{}, map[string]bool{}
	for _, m := range mirrors {
		if m.filling {
			return &haltError{why: "a view is being filled"}
		}
		m.leave(s.worker.lacking)
		s.mirrors = append(s.mirrors, m)
		s.bySrc[m.Source] = append(s.bySrc[m.Source], m)
	}
	if s.seqs, err = s.readSeqs(ctx); err != nil {
		return err
	}
	if err := s.countParked(ctx); err != nil {
		return err
	}
	return s.openFeed(ctx)
}

// open opens a feed of the worker's partitions.
func (w *worker) open(ctx context.Context, streams []string, after event.Position) (Feed, error) {
	feed, err := w.opts.OpenSome(ctx, streams, after, func(key string) (bool, error) {
		if !w.dealt[key] {
			return false, &haltError{why: key + " is a new partition"}
		}
		return slices.Contains(w.partitions, key), nil
	})
	return steadily(feed, w.opts.Log, err)
}

// check refuses what the worker of one partition cannot do alone.
func (w *worker) check(e *event.Event, m *mirror) error {
	switch {
	case e.Op == 't':
		return &haltError{fmt.Sprintf("table %s was emptied", e.Table), e.Position.Commit}
	case e.Schema != m.shape && e.Schema != 0:
		return &haltError{fmt.Sprintf("table %s has the version %d of its columns, which was not met before", e.Table, e.Schema), e.Position.Commit}
	}
	return nil
}

// lacking is for a row that came from another key and lacks values: those that the row of that key had.
func (w *worker) lacking(e *event.Event) (row, error) {
	return nil, &haltError{fmt.Sprintf("a row of table %s has another key, and Postgres did not send all of it", e.Table), e.Position.Commit}
}

// attend ends the session when the group is closed, or the worker goes to another process.
func (w *worker) attend(ctx context.Context, conn *pgx.Conn) error {
	if w.leaving.Load() {
		return errGivenUp
	}
	var on bool
	err := conn.QueryRow(ctx, `SELECT p.open AND p.halt = '' AND p.opening = $3 AND w.fence = $4 FROM walrill.pipelines p
		JOIN walrill.workers w ON w.pipeline = p.pipeline AND w.opening = p.opening AND w.worker = $2 WHERE p.pipeline = $1`, w.opts.Pipeline, w.number, w.opening, w.fence).Scan(&on)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !on {
		return errFenced
	}
	return err
}

// halt leaves word what the worker cannot do alone.
func (w *worker) halt(ctx context.Context, conn *pgx.Conn, h *haltError) error {
	conn.Exec(ctx, "ROLLBACK") //nolint:errcheck // there may be nothing to take back
	_, err := conn.Exec(ctx, `UPDATE walrill.pipelines SET halt = CASE halt WHEN '' THEN $3 ELSE halt END, halt_at = greatest(halt_at, $4::text::numeric)
		WHERE pipeline = $1 AND opening = $2 AND open`, w.opts.Pipeline, w.opening, h.why, fmt.Sprint(h.at))
	if err != nil {
		return fmt.Errorf("hand over what a worker of the views cannot do alone (%s): %w", h.why, err)
	}
	return nil
}

// save is the statement that moves the worker's position and checks its fence: it changes one row or none.
func (w *worker) save(clock uint64) statement {
	epoch, lsn := event.SplitClock(clock)
	return statement{rows: 1, args: []any{w.opts.Pipeline, w.number, w.opening, w.fence, int32(epoch), int64(lsn)}, sql: `
		UPDATE walrill.workers SET epoch = $5, lsn = '0/0'::pg_lsn + $6::bigint::numeric WHERE pipeline = $1 AND worker = $2 AND opening = $3 AND fence = $4`}
}
