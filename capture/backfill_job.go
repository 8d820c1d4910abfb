package capture

import (
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
	armed  *armed     // nil until the table was looked up
	taken  [][]string // keys of the rows that are being read again
	limit  int        // rows of the next chunk
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
		return pgErr.Code != "42P03" && pgErr.Code != "25P02" // what follows another error
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
	for {
		p, more, err := j.piece(ctx, r)
		if err != nil {
			return err
		}
		if !more {
			return j.finish(ctx)
		}
		if err := j.chunk(ctx, r, p); err != nil {
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
		j.state.Moved, j.taken = nil, nil
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
	next, err := r.target.choose(ctx, r.conn, &j.state)
	if err != nil {
		return piece{}, false, err
	}
	p := piece{part: next, after: j.state.After, limit: j.limit, bytes: chunkBytes}
	if j.state.Rate > 0 {
		p.limit = min(p.limit, j.state.Rate)
	}
	switch {
	case next != nil:
		return p, true, nil
	case len(keys) == 0 || flood:
		return p, false, nil
	}
	keys = keys[:min(len(keys), rereadRows)]
	j.b.core.take(j.armed, keys)
	p.after, p.limit = nil, len(keys)
	for _, key := range keys {
		p.keys = append(p.keys, keyTexts(key))
	}
	j.taken = p.keys
	return p, true, nil
}

// chunk reads a piece as often as it takes, and returns when its rows are durable and that is recorded.
func (j *job) chunk(ctx context.Context, r *tableReader, p piece) error {
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		started := time.Now()
		c, last, w, err := r.read(ctx, j.b.numbers.Add(1), p)
		if err != nil {
			return err
		}
		out := outcome{}
		if w != nil {
			if out, err = j.await(ctx, w); err != nil {
				return err
			}
		}
		if out.again == "" {
			j.note(c, p, last, out)
			if err := j.save(ctx); err != nil {
				return err
			}
			return j.slowDown(ctx, len(c.rows), started)
		}
		j.b.log.Info("a chunk of the backfill is read again", "table", j.name, "reason", out.again)
		if err := j.wait(ctx, out.again); err != nil {
			return err
		}
		if p.keys == nil {
			p.limit = max(min(p.limit, minChunkRows), p.limit/2)
			j.limit = p.limit
		}
		if !pause(ctx, delay) {
			return ctx.Err()
		}
	}
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
func (j *job) note(c *chunk, p piece, last bool, out outcome) {
	j.taken, j.state.Waits = nil, ""
	if out.end != 0 {
		j.state.LSN = out.end.String()
	}
	if p.keys != nil {
		return
	}
	if c.next != nil {
		j.state.After = c.next
	}
	if last {
		j.state.Part, j.state.After = "", nil
		j.state.Read = append(j.state.Read, p.part.oid)
	}
	j.state.Rows += int64(len(c.rows))
	j.state.Bytes += int64(len(c.buf))
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

// finish records that the table is done.
func (j *job) finish(ctx context.Context) error {
	j.state.State, j.state.Finished, j.state.Total = BackfillDone, time.Now().UTC(), j.state.Rows
	if err := j.save(ctx); err != nil {
		j.state.State = BackfillRunning
		return err
	}
	j.b.log.Info("backfill done", "table", j.name, "rows", j.state.Rows, "bytes", j.state.Bytes,
		"took", j.state.Finished.Sub(j.state.Started))
	return nil
}
