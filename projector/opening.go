package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

const (
	// openPoll is how often the leader looks whether it is wanted, while workers keep the views.
	openPoll = 30 * time.Millisecond
	// overviewEvery is how often it looks where they are, and whether one of them is frozen.
	overviewEvery = time.Second
	// tidyEvery is how often rows are forgotten that workers deleted.
	tidyEvery = 10 * time.Second
	// A group that is closed again soon is opened later each time, up to lastOpening.
	firstOpening = 20 * time.Millisecond
	lastOpening  = 5 * time.Second
	steadyFor    = 2 * time.Second
)

// opening is what the leader of a group knows of its phases.
type opening struct {
	opened    bool
	applied   map[string]uint64 // by partition: events below are applied, as the seqs say
	skip      uint64            // the highest of these
	halted    uint64            // the commit that workers stopped at
	notBefore time.Time         // it is opened again
	backoff   time.Duration     // before that
	tidied    time.Time         // when rows that workers deleted were forgotten
}

// look does what is to be done between batches.
func (s *session) look(ctx context.Context) error {
	if s.worker != nil {
		return s.worker.attend(ctx, s.conn)
	}
	if s.pos.read < s.skip {
		return nil // the tables are ahead of the position, here and there
	}
	if err := s.lookAfter(ctx); err != nil {
		return err
	}
	if !s.mayOpen() {
		return nil
	}
	opened, err := s.openGroup(ctx)
	if err != nil || !opened {
		return err
	}
	if err := s.keepOpen(ctx); err != nil {
		return err
	}
	if err := s.closeGroup(ctx); err != nil {
		return err
	}
	if s.pos, err = s.loadPosition(ctx); err != nil {
		return err
	}
	return s.load(ctx)
}

// mayOpen reports whether workers can keep the views from here on.
func (s *session) mayOpen() bool {
	if s.opts.Workers == 0 || s.careful || s.reshaped || s.pos.gap != "" || s.pos.shown == 0 || s.pos.read <= s.halted || time.Now().Before(s.notBefore) ||
		len(s.fillers) > 0 || len(s.builders) > 0 || len(s.elsewhere) > 0 || slices.ContainsFunc(s.mirrors, func(m *mirror) bool { return m.filling }) {
		return false
	}
	for name, wanted := range s.wanted {
		v := s.views[name]
		if v == nil || v.state != stateLive || !v.pinned && !v.def.same(wanted) {
			return false
		}
		if _, open := v.asked(); open {
			return false
		}
	}
	return true
}

// openGroup deals the partitions out, at the position. It does not when there is none yet.
func (s *session) openGroup(ctx context.Context) (bool, error) {
	keys, err := s.opts.Partitions(ctx, s.streams())
	if err != nil || len(keys) == 0 {
		s.notBefore = time.Now().Add(time.Second)
		return false, nil //nolint:nilerr // without Redis nobody gets on
	}
	epoch, lsn := event.SplitClock(s.pos.read)
	err = s.in(ctx, s.pos, func(tx pgx.Tx) error {
		if err := s.saveSeqs(ctx, tx); err != nil {
			return err
		}
		b := &pgx.Batch{}
		for _, m := range s.mirrors {
			b.Queue("UPDATE walrill.mirrors SET shape = $3 WHERE pipeline = $1 AND name = $2 AND NOT filling AND shape <> $3", s.opts.Pipeline, m.id(), m.shape)
		}
		b.Queue("DELETE FROM walrill.gone WHERE pipeline = $1", s.opts.Pipeline)
		b.Queue("UPDATE walrill.pipelines SET open = true, opening = opening + 1, halt = '', halt_at = 0 WHERE pipeline = $1", s.opts.Pipeline)
		b.Queue("DELETE FROM walrill.workers WHERE pipeline = $1", s.opts.Pipeline)
		for i, hand := range deal(keys, s.opts.Workers, s.scattered()) {
			b.Queue(`INSERT INTO walrill.workers (pipeline, worker, opening, epoch, lsn, partitions)
				SELECT $1, $2, opening, $3, '0/0'::pg_lsn + $4::bigint::numeric, $5 FROM walrill.pipelines WHERE pipeline = $1`, s.opts.Pipeline, i+1, int32(epoch), int64(lsn), hand)
		}
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return false, fmt.Errorf("deal out the partitions: %w", err)
	}
	clear(s.dirty)
	s.opened, s.saved = true, time.Now()
	s.stop()
	return true, s.hide(ctx)
}

// scattered are the streams that order a mirror's table by other columns than those of its key: the events of a row may then be in
// several partitions, and one worker is to have them all.
func (s *session) scattered() map[string]bool {
	streams := map[string]bool{}
	for _, m := range s.mirrors {
		i := slices.IndexFunc(s.tables, func(t Table) bool { return t.Name == m.Source })
		if i < 0 || slices.ContainsFunc(s.tables[i].Order, func(c string) bool { return !slices.Contains(s.tables[i].Key, c) }) {
			streams[m.Stream] = true
		}
	}
	return streams
}

// keepOpen returns when the leader is wanted.
func (s *session) keepOpen(ctx context.Context) error {
	began := time.Now()
	var seen time.Time
	for {
		why, err := s.wantedFor(ctx)
		if err != nil {
			return err
		}
		if why != "" {
			s.opts.Log.Info("the workers of the views stop for a moment", "reason", why)
			break
		}
		if time.Since(seen) > overviewEvery {
			if err := s.overview(ctx); err != nil {
				return err
			}
			seen = time.Now()
		}
		if err := pause(ctx, openPoll); err != nil {
			return err
		}
	}
	s.backoff = min(max(2*s.backoff, firstOpening), lastOpening)
	if time.Since(began) > steadyFor {
		s.backoff = firstOpening
	}
	s.notBefore = time.Now().Add(s.backoff)
	return nil
}

// wantedFor is what the leader has to do itself; "" for nothing.
func (s *session) wantedFor(ctx context.Context) (why string, err error) {
	var fence int64
	var rebuild, retry, repair bool
	err = s.conn.QueryRow(ctx, `SELECT fence, halt,
			EXISTS (SELECT FROM walrill.views WHERE pipeline = $1 AND request <> '' AND NOT starts_with(answer, request || ':')),
			EXISTS (SELECT FROM walrill.parked WHERE pipeline = $1 AND retry), EXISTS (SELECT FROM walrill.repairs WHERE pipeline = $1)
		FROM walrill.pipelines WHERE pipeline = $1`, s.opts.Pipeline).Scan(&fence, &why, &rebuild, &retry, &repair)
	switch {
	case err != nil:
		return "", fmt.Errorf("look after the workers of the views: %w", err)
	case fence != s.fence:
		return "", errFenced
	case why != "":
		return why, nil
	case rebuild:
		return "somebody asks for a rebuild", nil
	case retry:
		return "somebody asks for parked keys to be tried again", nil
	case repair:
		return "somebody asks for keys to be repaired", nil
	}
	if s.opts.Repair != nil && !s.repairAt.IsZero() && time.Since(s.repairAt) > repairEvery {
		repair, err := s.opts.Repair(ctx)
		if err == nil && repair != s.repair {
			return "the slot was lost and repaired", nil
		}
		s.repairAt = time.Now()
	}
	return "", nil
}

// placesSQL is the position of each worker of a group, as its row has it, and as who has its lease shows it.
const placesSQL = `WITH l AS MATERIALIZED (SELECT pid, classid, objid, objsubid FROM pg_locks WHERE locktype = 'advisory' AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
	SELECT w.epoch, (w.lsn - '0/0')::bigint, greatest((w.lsn - '0/0')::bigint, (SELECT max(((p.classid::bigint & 16777215) << 32) | p.objid::bigint)
			FROM l p WHERE p.pid = o.pid AND p.objsubid = 1 AND (p.classid::bigint >> 24) = w.epoch))
	FROM walrill.workers w LEFT JOIN l o ON o.objsubid = 2 AND o.classid = $2 AND o.objid::bigint = (hashtext(w.pipeline || '#' || w.worker || '#' || w.opening)::bigint & 4294967295)
	WHERE w.pipeline = $1`

// overview makes known where the workers are, and ends what is frozen.
func (s *session) overview(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, placesSQL, s.opts.Pipeline, lockClass)
	if err != nil {
		return fmt.Errorf("look where the workers of the views are: %w", err)
	}
	var written, lowest uint64
	var epoch uint8
	var row, lsn int64
	if _, err := pgx.ForEachRow(rows, []any{&epoch, &row, &lsn}, func() error {
		if c := event.Clock(epoch, uint64(row)); written == 0 || c < written {
			written = c
		}
		if c := event.Clock(epoch, uint64(lsn)); lowest == 0 || c < lowest {
			lowest = c
		}
		return nil
	}); err != nil {
		return fmt.Errorf("look where the workers of the views are: %w", err)
	}
	s.pos.shown = max(s.pos.shown, written) // from where the streams may be read again
	if s.seqs, err = s.readSeqs(ctx); err != nil {
		return err
	}
	if time.Since(s.tidied) > tidyEvery {
		if _, err := s.conn.Exec(ctx, "DELETE FROM walrill.gone WHERE pipeline = $1 AND commit < $2::text::numeric", s.opts.Pipeline, strconv.FormatUint(written, 10)); err != nil {
			return fmt.Errorf("forget rows that were deleted: %w", err)
		}
		s.tidied = time.Now()
	}
	if err := s.countParked(ctx); err != nil {
		return err
	}
	if err := s.report(ctx); err != nil {
		return err
	}
	s.projector.note(func(st *Status) { st.Clock = max(st.Clock, lowest) })
	return s.endFrozen(ctx, frozenFor)
}

// leasesSQL finds the sessions that have a worker's lease, or take part in the sharing of them ($3).
const leasesSQL = `FROM pg_locks o JOIN pg_stat_activity a ON a.pid = o.pid
	WHERE o.locktype = 'advisory' AND o.objsubid = 2 AND o.classid = $2 AND o.granted AND o.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	  AND o.objid::bigint IN (SELECT hashtext(pipeline || '#' || worker || '#' || opening)::bigint & 4294967295 FROM walrill.workers WHERE pipeline = $1
		UNION ALL SELECT hashtext($1 || '#')::bigint & 4294967295 WHERE $3)`

// endFrozen ends the sessions of processes that do nothing for so long: each looks around all the time.
func (s *session) endFrozen(ctx context.Context, idle time.Duration) error {
	if _, err := s.opts.Watermark(ctx); err != nil {
		return nil //nolint:nilerr // without Redis nobody gets on
	}
	rows, err := s.conn.Query(ctx, "SELECT DISTINCT a.pid, pg_terminate_backend(a.pid) "+leasesSQL+`
		AND (a.state LIKE 'idle%' OR a.wait_event_type = 'Client') AND clock_timestamp() - a.state_change > $4::bigint * interval '1 microsecond'`,
		s.opts.Pipeline, lockClass, true, idle.Microseconds())
	if err != nil {
		return fmt.Errorf("look for workers that are frozen: %w", err)
	}
	var pid int32
	var ended bool
	if _, err := pgx.ForEachRow(rows, []any{&pid, &ended}, func() error {
		s.opts.Log.Warn("a process that takes part in keeping the views does nothing: ending its session", "pid", pid)
		return nil
	}); err != nil {
		return fmt.Errorf("look for workers that are frozen: %w", err)
	}
	return nil
}

// closeGroup takes the views back from the workers: afterwards none of them writes any more, and the position is the lowest of theirs.
func (s *session) closeGroup(ctx context.Context) error {
	for {
		err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) (err error) {
			// A transaction that is about to commit is waited for, but not one that is frozen.
			if err := tryExec(ctx, tx, "SET LOCAL lock_timeout = '1s'"); err != nil {
				return err
			}
			s.applied, err = fenceWorkers(ctx, tx, s.opts.Pipeline)
			return err
		})
		if err == nil {
			break
		}
		if e := pgError(err); e != nil && e.Code == "55P03" {
			err = s.endFrozen(ctx, frozenFor)
		}
		if err != nil {
			return fmt.Errorf("take the views back from their workers: %w", err)
		}
	}
	s.skip = 0
	for _, clock := range s.applied {
		s.skip = max(s.skip, clock)
	}
	var at string
	if err := s.conn.QueryRow(ctx, "SELECT halt_at::text FROM walrill.pipelines WHERE pipeline = $1", s.opts.Pipeline).Scan(&at); err != nil {
		return fmt.Errorf("read what the workers of the views stopped at: %w", err)
	}
	var err error
	if s.halted, err = strconv.ParseUint(at, 10, 64); err != nil {
		return fmt.Errorf("read what the workers of the views stopped at: %w", err)
	}
	s.opened = false
	return s.awaitLeases(ctx)
}

// awaitLeases waits until no worker is at work.
func (s *session) awaitLeases(ctx context.Context) error {
	for looked := time.Now(); ; {
		var n int
		if err := s.conn.QueryRow(ctx, "SELECT count(*) "+leasesSQL, s.opts.Pipeline, lockClass, false).Scan(&n); err != nil {
			return fmt.Errorf("wait for the workers of the views: %w", err)
		}
		if n == 0 {
			return nil
		}
		if time.Since(looked) > overviewEvery {
			if err := s.endFrozen(ctx, frozenFor); err != nil {
				return err
			}
			looked = time.Now()
		}
		if err := pause(ctx, openPoll); err != nil {
			return err
		}
	}
}

// fenceWorkers raises the fences of a group's workers, and gives it the lowest of their positions when it was open. It returns where each
// partition was brought to.
func fenceWorkers(ctx context.Context, tx pgx.Tx, pipeline string) (applied map[string]uint64, err error) {
	rows, err := tx.Query(ctx, "UPDATE walrill.workers SET fence = fence + 1 WHERE pipeline = $1 RETURNING epoch, (lsn - '0/0')::bigint, partitions", pipeline)
	if err != nil {
		return nil, err
	}
	applied = map[string]uint64{}
	var lowest uint64
	var epoch uint8
	var lsn int64
	var partitions []string
	if _, err := pgx.ForEachRow(rows, []any{&epoch, &lsn, &partitions}, func() error {
		c := event.Clock(epoch, uint64(lsn))
		for _, key := range partitions {
			applied[key] = c
		}
		if lowest == 0 || c < lowest {
			lowest = c
		}
		return nil
	}); err != nil || lowest == 0 {
		return applied, err
	}
	epoch, low := event.SplitClock(lowest)
	_, err = tx.Exec(ctx, `UPDATE walrill.pipelines SET open = false, epoch = $2, read_epoch = $2, lsn = '0/0'::pg_lsn + $3::bigint::numeric, read_lsn = '0/0'::pg_lsn + $3::bigint::numeric
		WHERE pipeline = $1 AND open`, pipeline, int32(epoch), int64(low))
	return applied, err
}

var errGivenUp = errors.New("another process takes the worker")
