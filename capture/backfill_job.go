package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
	limit  int           // rows of the next chunk
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
	j.limit = j.b.source.opts.Backfill.ChunkRows
	if !j.place(ctx) {
		return
	}
	defer func() { <-j.b.readers }()
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
	for {
		select {
		case j.b.readers <- struct{}{}:
			return true
		case <-ticker.C:
			j.saveMoved(ctx)
		case <-ctx.Done():
			return false
		}
	}
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
	conn, err := j.b.source.connectCancelling(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))                        //nolint:errcheck // a chunk that is not committed is read again
	if _, err := conn.Exec(ctx, "SET row_security = off"); err != nil { // an error is better than rows left out
		return fmt.Errorf("set up reading: %w", err)
	}
	r, err := j.prepare(ctx, conn)
	if err != nil {
		return err
	}
	if err := j.begin(ctx, r); err != nil {
		return err
	}
	var next *reading // read already, while the one before was published
	for {
		if next == nil {
			p, more, err := j.piece(ctx, r)
			if err != nil {
				return err
			}
			if !more {
				return j.finish(ctx, r)
			}
			next = j.read(ctx, r, p)
		}
		if next, err = j.publish(ctx, r, next); err != nil {
			return err
		}
	}
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
	return &tableReader{conn: conn, core: j.b.core, target: t, armed: j.armed, types: newTypeCatalogue(), where: j.state.Where}, nil
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

// piece is what to read next: of the table, and when that is read, the rows that moved meanwhile.
func (j *job) piece(ctx context.Context, r *tableReader) (piece, bool, error) {
	keys, _, flood := j.b.core.movedKeys(j.armed)
	if flood {
		j.b.log.Warn("so many rows moved to other keys that the table is read again from its beginning", "table", j.name)
		j.b.core.take(j.armed, keys)
		j.taken = nil
		j.state.restart()
		if err := j.save(ctx); err != nil {
			return piece{}, false, err
		}
	}
	p, more, err := j.pieceAt(ctx, r, j.state.position(), j.limit)
	switch {
	case err != nil || more:
		return p, more, err
	case len(keys) == 0 || flood:
		return p, false, nil
	}
	keys = keys[:min(len(keys), rereadRows)]
	j.b.core.take(j.armed, keys)
	p.limit = len(keys)
	for _, key := range keys {
		p.keys = append(p.keys, keyTexts(key))
	}
	j.taken = p.keys
	return p, true, nil
}

// pieceAt is the piece of the table at a position; there is none when all is read.
func (j *job) pieceAt(ctx context.Context, r *tableReader, at position, limit int) (piece, bool, error) {
	part, err := r.target.choose(ctx, r.conn, &at)
	if j.state.Rate > 0 {
		limit = min(limit, j.state.Rate)
	}
	return piece{part: part, at: at, limit: limit, bytes: chunkBytes}, part != nil, err
}

// reading is a piece that was read.
type reading struct {
	piece   piece
	chunk   *chunk
	window  *window  // nil when there is nothing to publish
	to      position // behind it
	started time.Time
	err     error
}

func (j *job) read(ctx context.Context, r *tableReader, p piece) *reading {
	next := &reading{piece: p, to: p.at, started: time.Now()}
	var last bool
	if next.chunk, last, next.window, next.err = r.read(ctx, j.b.numbers.Add(1), p); next.err != nil {
		return next
	}
	if next.chunk.next != nil {
		next.to.after = next.chunk.next
	}
	if last && p.part != nil {
		next.to = position{read: append(slices.Clone(next.to.read), p.part.oid)}
	}
	return next
}

// readAhead begins to read what follows, so that Postgres and Redis are both at work. The
// function that it returns waits for that, and returns nil when there is nothing.
func (j *job) readAhead(ctx context.Context, r *tableReader, now *reading) func() *reading {
	if j.state.Rate > 0 || now.piece.keys != nil {
		return func() *reading { return nil }
	}
	limit := j.limit
	ahead := make(chan *reading, 1)
	go func() {
		p, more, err := j.pieceAt(ctx, r, now.to, limit)
		switch {
		case err != nil:
			ahead <- &reading{err: err}
		case more:
			ahead <- j.read(ctx, r, p)
		default:
			ahead <- nil
		}
	}()
	return func() *reading { return <-ahead }
}

// publish returns when the rows that were read are durable and that is recorded, with what was read meanwhile. When they must be
// read again it returns that, or nil to begin where the state is.
func (j *job) publish(ctx context.Context, r *tableReader, now *reading) (next *reading, err error) {
	if now.err != nil {
		return nil, now.err
	}
	ahead := j.readAhead(ctx, r, now)
	out := outcome{}
	if now.window != nil {
		out, err = j.await(ctx, now.window)
	}
	if err == nil && out.again == "" {
		j.note(now, out)
		err = j.save(ctx)
	}
	next = ahead()
	_, _, flood := j.b.core.movedKeys(j.armed)
	if err == nil && out.again == "" && !flood {
		return next, j.slowDown(ctx, len(now.chunk.rows), now.started)
	}
	if next != nil && next.window != nil {
		j.b.core.drop(next.window)
	}
	if err != nil || out.again == "" {
		return nil, err
	}
	return j.again(ctx, r, now.piece, out.again)
}

const (
	firstAgain = 20 * time.Millisecond
	lastAgain  = 2 * time.Second
)

// again prepares for reading a piece once more, a smaller one.
func (j *job) again(ctx context.Context, r *tableReader, p piece, reason string) (next *reading, err error) {
	j.b.log.Info("a chunk of the backfill is read again", "table", j.name, "reason", reason)
	if err := j.wait(ctx, reason); err != nil {
		return nil, err
	}
	j.delay = max(firstAgain, min(2*j.delay, lastAgain))
	if !pause(ctx, j.delay) {
		return nil, ctx.Err()
	}
	if p.keys != nil {
		return j.read(ctx, r, p), nil
	}
	j.limit = max(min(p.limit, minChunkRows), p.limit/2)
	return nil, nil
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
	j.limit = min(2*j.limit, j.b.source.opts.Backfill.ChunkRows)
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
