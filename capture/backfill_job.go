package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/change"
)

// job is the backfill of one table by one session.
type job struct {
	b      *backfills
	rel    *change.Relation // as Prepare saw it
	name   string
	state  BackfillState
	armed  *armed        // nil until the table was looked up
	taken  [][]string    // keys of the rows that are being read again
	limit  atomic.Int64  // rows of the next chunk
	spares chan *chunk   // memory for chunks
	delay  time.Duration // before a chunk is read again
	cancel context.CancelFunc
	done   chan struct{}
}

// stop ends the job and waits for it.
func (j *job) stop() {
	j.cancel()
	<-j.done
}

const (
	firstBackfillRetry = 100 * time.Millisecond
	lastBackfillRetry  = 5 * time.Second
	minChunkRows       = 100
	rereadRows         = 500
)

// run works until the table is done, has failed for good, or ctx ends; then the state
// stays as it is recorded, and the next session goes on.
func (j *job) run(ctx context.Context) {
	defer func() {
		if j.armed != nil {
			j.b.core.disarm(j.armed)
		}
	}()
	j.limit.Store(int64(j.b.source.opts.Backfill.ChunkRows))
	if !j.place(ctx) {
		return
	}
	defer j.b.places.give()
	for delay := firstBackfillRetry; ; delay = min(2*delay, lastBackfillRetry) {
		err := j.attempt(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case hopeless(err):
			j.fail(ctx, err)
			return
		}
		j.b.log.Warn("a backfill was interrupted and goes on", "table", j.name, "error", err, "retry_in", delay)
		if !pause(ctx, delay) {
			return
		}
	}
}

// place waits for a reader's place.
func (j *job) place(ctx context.Context) bool {
	ticker := time.NewTicker(backfillPoll)
	defer ticker.Stop()
	places := j.b.places
	places.waiting.Add(1)
	defer places.waiting.Add(-1)
	select {
	case places.taken <- struct{}{}:
		return true
	default:
	}
	for !places.takeOver() {
		select {
		case places.taken <- struct{}{}:
			return true
		case <-ticker.C:
			j.saveMoved(ctx)
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// hopeless tells an error that trying again does not mend: of the table, of `where`.
func hopeless(err error) bool {
	var setup *SetupError
	if errors.As(err, &setup) {
		return true
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch class := pgErr.Code[:min(2, len(pgErr.Code))]; class {
	case "42", "22", "0A", "25", "2F", "38", "P0":
		// But for what follows another error, and the server's limits to how long a transaction may take.
		return pgErr.Code != "42P03" && pgErr.Code != "25P02" && pgErr.Code != "25P03" && pgErr.Code != "25P04"
	}
	return false
}

func (j *job) fail(ctx context.Context, err error) {
	j.b.log.Error("the backfill failed", "table", j.name, "error", err,
		"fix", fmt.Sprintf("mend it, then: walrill backfill start %s", j.name))
	j.state.State, j.state.Error = BackfillFailed, err.Error()
	j.insist(ctx)
}

// insist records the state, as often as it takes.
func (j *job) insist(ctx context.Context) {
	for delay := firstBackfillRetry; ; delay = min(2*delay, lastBackfillRetry) {
		err := j.b.save(ctx, j.name, j.state)
		if err == nil || ctx.Err() != nil {
			return
		}
		j.b.log.Warn("a backfill's state could not be recorded; it is tried again", "table", j.name, "error", err)
		if !pause(ctx, delay) {
			return
		}
	}
}

// attempt goes on from the last recorded chunk to the end.
func (j *job) attempt(ctx context.Context) error {
	conn, err := j.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a chunk that is not committed is read again
	r, err := j.prepare(ctx, conn)
	if err != nil {
		return err
	}
	if err := j.begin(ctx, r); err != nil {
		return err
	}
	for {
		more, err := j.pass(ctx, r)
		if err != nil {
			return err
		}
		if !more {
			return j.finish(ctx, r)
		}
	}
}

func (j *job) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := j.b.source.connectCancelling(ctx)
	if err != nil {
		return nil, err
	}
	// An error is better than rows left out. The limit is new in Postgres 17, and a chunk takes as long as it takes.
	_, err = conn.Exec(ctx, `SELECT set_config(name, value, false) FROM (VALUES ('row_security', 'off'), ('transaction_timeout', '0')) s(name, value)
		WHERE current_setting(name, true) IS NOT NULL`)
	if err != nil {
		_ = conn.Close(ctx) // the error that counts is at hand
		return nil, fmt.Errorf("set up reading: %w", err)
	}
	return conn, nil
}

func (j *job) prepare(ctx context.Context, conn *pgx.Conn) (*tableReader, error) {
	t, err := j.b.source.readTarget(ctx, conn, j.rel.Namespace, j.rel.Name)
	if err != nil {
		return nil, err
	}
	if j.armed != nil && j.armed.oid != t.oid { // another table of that name
		j.b.core.disarm(j.armed)
		j.state.Moved, j.taken, j.state.End, j.state.Complete = nil, nil, "", ""
		j.state.restart()
	}
	if !slices.Equal(j.state.Key, t.keyColumns()) { // another key
		j.state.Key, j.state.Moved, j.taken = t.keyColumns(), nil, nil
		j.state.restart()
	}
	j.armed = j.b.core.arm(t.oid, t.key, slices.Concat(j.state.Moved, j.taken))
	j.taken = nil
	if t.estimate > 0 {
		j.state.Total = t.estimate
	}
	j.spares = make(chan *chunk, chunksAhead)
	return j.reader(conn, t), nil
}

func (j *job) reader(conn *pgx.Conn, t *target) *tableReader {
	return &tableReader{conn: conn, core: j.b.core, target: t, armed: j.armed, types: newTypeCatalogue(), where: j.state.Where, spares: j.spares}
}

// begin waits until the table may be read and records that it is.
func (j *job) begin(ctx context.Context, r *tableReader) error {
	barrier, err := j.b.barrier(ctx, r.conn, r.target.oid)
	if err != nil {
		return err
	}
	err = barrier.wait(ctx, r.conn, j.name, j.b.log, func(s snapshot, blockers []blocker) error {
		j.b.core.forgetSeen(s)
		j.saveMoved(ctx)
		return j.wait(ctx, waitsFor(blockers))
	})
	if err != nil {
		return err
	}
	j.state.Waits = ""
	what := "backfill goes on"
	if j.state.State == BackfillWaiting || j.state.Started.IsZero() {
		what = "backfill starts"
		j.state.Started = time.Now().UTC()
	}
	j.b.log.Info(what, "table", j.name, "rows", j.state.Rows, "estimate", j.state.Total)
	j.state.State, j.state.Error = BackfillRunning, ""
	return j.save(ctx)
}

// pass publishes the table from where the state is, and then the rows that moved meanwhile. It reports true when something made it
// stop before, to begin again where the state is then.
func (j *job) pass(ctx context.Context, r *tableReader) (more bool, err error) {
	if err := j.startOver(ctx); err != nil {
		return false, err
	}
	ahead := j.start(ctx, r)
	defer ahead.close()
	for {
		now, err := ahead.next(ctx)
		if err != nil {
			return false, err
		}
		if now == nil {
			break
		}
		if now.err == nil && !now.piece.follows(&j.state) {
			return true, nil
		}
		if done, err := j.publish(ctx, now); err != nil || !done {
			return true, err
		}
		width := now.chunk.width()
		ahead.published(r, now)
		ahead.widen(ctx, r, width)
	}
	ahead.close()
	return j.readMoved(ctx, r)
}

// startOver begins the table anew when too many of its rows moved to be read one by one.
func (j *job) startOver(ctx context.Context) error {
	keys, _, flood := j.b.core.movedKeys(j.armed)
	if !flood {
		return nil
	}
	j.b.log.Warn("so many rows moved to other keys that the table is read again from its beginning", "table", j.name)
	j.b.core.take(j.armed, keys)
	j.taken = nil
	j.state.restart()
	return j.save(ctx)
}

// readMoved publishes some of the rows that moved to other keys; false when there are none.
func (j *job) readMoved(ctx context.Context, r *tableReader) (more bool, err error) {
	keys, _, flood := j.b.core.movedKeys(j.armed)
	if len(keys) == 0 || flood {
		return flood, nil
	}
	keys = keys[:min(len(keys), rereadRows)]
	j.b.core.take(j.armed, keys)
	p := piece{from: j.state.position(), at: j.state.position(), limit: len(keys), bytes: chunkBytes}
	for _, key := range keys {
		p.keys = append(p.keys, keyTexts(key))
	}
	j.taken = p.keys
	for {
		now := &reading{piece: p, read: make(chan struct{})}
		j.read(ctx, r, now)
		if done, err := j.publish(ctx, now); err != nil || done {
			return true, err
		}
		if _, _, flood := j.b.core.movedKeys(j.armed); flood {
			return true, nil
		}
	}
}

// pieceAt is the piece of the table at a position; there is none when all is read. It has an end, if one is
// wanted, when there are rows behind it.
func (j *job) pieceAt(ctx context.Context, r *tableReader, from position, bounded bool) (p piece, more bool, err error) {
	p = piece{from: from, at: from, limit: int(j.limit.Load()), bytes: chunkBytes}
	if p.part, err = r.target.choose(ctx, r.conn, &p.at); err != nil || p.part == nil {
		return p, false, err
	}
	if j.state.Rate > 0 {
		p.limit = min(p.limit, j.state.Rate)
	}
	if bounded {
		rows := p.limit
		if r.width > 0 {
			rows = min(rows, p.bytes/r.width)
		}
		p.until, err = r.boundary(ctx, p, rows*7/8) // some rows may come, or be longer
	}
	return p, true, err
}

// read reads a piece.
func (j *job) read(ctx context.Context, r *tableReader, now *reading) {
	defer close(now.read)
	p := now.piece
	now.to, now.started = p.at, time.Now()
	var last bool
	if now.chunk, last, now.window, now.err = r.read(ctx, j.b.numbers.Add(1), p); now.err != nil {
		return
	}
	switch {
	case last && p.until != nil:
		now.to.after = p.until
	case last && p.part != nil:
		now.to = position{read: append(slices.Clone(now.to.read), p.part.oid)}
	case now.chunk.next != nil:
		now.to.after = now.chunk.next
	}
}

// publish returns when the rows that were read are durable and that is recorded. It reports false when they, or the
// table, must be read again.
func (j *job) publish(ctx context.Context, now *reading) (done bool, err error) {
	if now.err != nil {
		return false, now.err
	}
	out := outcome{}
	if now.window != nil {
		if out, err = j.await(ctx, now.window); err != nil {
			return false, err
		}
	}
	if out.again != "" {
		return false, j.again(ctx, now.piece, out.again)
	}
	j.note(now, out)
	if err := j.save(ctx); err != nil {
		return false, err
	}
	if _, _, flood := j.b.core.movedKeys(j.armed); flood {
		return false, nil
	}
	return true, j.slowDown(ctx, len(now.chunk.rows), now.started)
}

const (
	firstAgain = 20 * time.Millisecond
	lastAgain  = 2 * time.Second
)

// again prepares for reading a piece once more, a smaller one.
func (j *job) again(ctx context.Context, p piece, reason string) error {
	j.b.log.Info("a chunk of the backfill is read again", "table", j.name, "reason", reason)
	if err := j.wait(ctx, reason); err != nil {
		return err
	}
	j.delay = max(firstAgain, min(2*j.delay, lastAgain))
	if !pause(ctx, j.delay) {
		return ctx.Err()
	}
	if p.keys == nil {
		j.limit.Store(int64(max(min(p.limit, minChunkRows), p.limit/2)))
	}
	return nil
}

// wait records what the table has to wait for.
func (j *job) wait(ctx context.Context, reason string) error {
	if j.state.Waits == reason {
		return nil
	}
	j.state.Waits = reason
	return j.save(ctx)
}

// await waits until the chunk is durable, or must be read again.
func (j *job) await(ctx context.Context, w *window) (outcome, error) {
	ticker := time.NewTicker(backfillPoll)
	defer ticker.Stop()
	for {
		select {
		case out := <-w.done:
			return out, nil
		case <-ticker.C:
			j.saveMoved(ctx)
		case <-ctx.Done():
			j.b.core.drop(w)
			return outcome{}, ctx.Err()
		}
	}
}

// note takes a chunk that is durable into the state.
func (j *job) note(now *reading, out outcome) {
	j.taken, j.state.Waits, j.delay = nil, "", 0
	if out.end != 0 {
		j.state.LSN = out.end.String()
	}
	if now.piece.keys != nil {
		return
	}
	j.state.setPosition(now.to)
	j.state.Rows += int64(len(now.chunk.rows))
	j.state.Bytes += now.chunk.size()
	j.limit.Store(min(2*j.limit.Load(), int64(j.b.source.opts.Backfill.ChunkRows)))
}

// slowDown keeps to the rate.
func (j *job) slowDown(ctx context.Context, rows int, started time.Time) error {
	if j.state.Rate <= 0 || rows == 0 {
		return nil
	}
	wait := time.Duration(rows)*time.Second/time.Duration(j.state.Rate) - time.Since(started)
	if wait > 0 && !pause(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

// save records the state with the rows that are to be read again.
func (j *job) save(ctx context.Context) error {
	keys, noted, flood := j.b.core.movedKeys(j.armed)
	j.state.Moved = slices.Clone(j.taken)
	for _, key := range keys {
		j.state.Moved = append(j.state.Moved, keyTexts(key))
	}
	recorded := j.state
	if flood { // the next one begins again, as this one is about to
		recorded.Moved = nil
		recorded.restart()
	}
	if err := j.b.save(ctx, j.name, recorded); err != nil {
		return err
	}
	j.b.core.saved(j.armed, noted)
	return nil
}

// saveMoved records rows to read again when there are new ones: until then, nothing behind them is confirmed.
func (j *job) saveMoved(ctx context.Context) {
	if j.armed == nil || !j.b.core.unsaved(j.armed) {
		return
	}
	if err := j.save(ctx); err != nil && ctx.Err() == nil {
		j.b.log.Warn("a backfill's state could not be recorded; it is tried again", "error", err)
	}
}

// finish records that the table is done, and where in the WAL: what was deleted before its place was read is below.
func (j *job) finish(ctx context.Context, r *tableReader) error {
	if j.state.Where == "" {
		if _, err := r.conn.Exec(ctx, `SELECT pg_logical_emit_message(true, 'walrill.backfill.end', $1)`, j.name); err != nil {
			return fmt.Errorf("write end mark: %w", err)
		}
		if err := r.conn.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&j.state.End); err != nil {
			return fmt.Errorf("read the position of the end mark: %w", err)
		}
		j.state.Complete = cmp.Or(j.state.Complete, j.state.End)
	}
	j.state.State, j.state.Finished, j.state.Total = BackfillDone, time.Now().UTC(), j.state.Rows
	if err := j.save(ctx); err != nil {
		j.state.State = BackfillRunning
		return err
	}
	j.b.log.Info("backfill done", "table", j.name, "rows", j.state.Rows, "bytes", j.state.Bytes,
		"took", j.state.Finished.Sub(j.state.Started))
	return nil
}
