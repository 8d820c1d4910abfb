package capture

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// backfills runs the backfills of one stream: it begins with the stream's first item, when
// it is sure that this process may continue the pipeline, and ends with the stream. Its goroutine follows the store, each
// table that is read has one of its own.
type backfills struct {
	source  *Source
	stream  *Stream
	core    *backfillCore
	log     *slog.Logger
	resumed map[string]*armed // watched since the stream began
	numbers atomic.Uint64     // of chunks
	places  *places           // for connections that read

	cancel context.CancelFunc
	group  sync.WaitGroup

	mu        sync.Mutex
	jobs      map[string]*job
	states    map[string]BackfillState
	tables    map[string]*change.Relation // that the pipeline has now
	published map[uint32]bool             // OIDs of those that it has had since the stream was opened
	retired   map[string]bool             // left alone until they are prepared again
	// passed is what a reader must have waited for: taken after the stream began to remember what it delivers.
	passed *barrier
}

func newBackfills(s *Source, stream *Stream) *backfills {
	b := &backfills{source: s, stream: stream, log: s.opts.Log, jobs: map[string]*job{}, states: map[string]BackfillState{},
		tables: map[string]*change.Relation{}, resumed: map[string]*armed{}, published: map[uint32]bool{}, retired: map[string]bool{}, places: newPlaces(s.opts.Backfill.Readers),
		core: newBackfillCore("walrill.backfill."+s.opts.Pipeline, rand.Text())}
	b.lookAround()
	for _, rel := range b.tables {
		b.published[rel.OID] = true
	}
	return b
}

// lookAround learns which tables the pipeline has; new ones may join while it streams.
func (b *backfills) lookAround() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.tables)
	for _, rel := range b.source.prepared() {
		b.tables[rel.String()] = rel
		delete(b.retired, rel.String())
	}
}

const (
	backfillPoll = 400 * time.Millisecond
	storeTimeout = 5 * time.Second
)

// begin looks up what is unfinished, watches those tables from the stream's very first
// change on, and starts.
func (b *backfills) begin() error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	records, err := b.load(ctx)
	if err != nil {
		return fmt.Errorf("look for unfinished backfills: %w", err)
	}
	b.core.record(true)
	for name, record := range records {
		if err := b.resume(ctx, name, record); err != nil {
			return err
		}
	}
	b.source.regained() // as it is recorded now
	running, stop := context.WithCancel(context.Background())
	b.cancel = stop
	b.group.Go(func() { b.follow(running, records) })
	return nil
}

// resume prepares for what an earlier process left.
func (b *backfills) resume(ctx context.Context, name string, record BackfillRecord) error {
	state := record.State
	rel := b.table(name)
	if state == nil || rel == nil {
		return nil
	}
	if (record.Lost || b.source.hasLost(state)) && (state.unfinished() || state.State == BackfillDone) {
		b.log.Warn("Redis has lost rows of a backfill: it starts over", "table", name)
		state.State, state.Moved, state.Rows, state.Bytes = BackfillWaiting, nil, 0, 0
		state.LSN, state.End, state.Complete = "", "", ""
		state.restart()
		if err := b.save(ctx, name, *state); err != nil { // or it would be forgotten when the watermark has passed
			return err
		}
	}
	if state.State != BackfillRunning {
		return nil
	}
	t, err := b.source.readTarget(ctx, b.stream.catalog, rel.Namespace, rel.Name)
	if err != nil {
		return ctx.Err() // the job will meet it and say so
	}
	if slices.Equal(state.Key, t.keyColumns()) {
		b.resumed[name] = b.core.arm(t.oid, t.key, state.Moved)
	}
	return nil
}

func (b *backfills) load(ctx context.Context) (map[string]BackfillRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return b.source.opts.Backfill.Store.Load(ctx)
}

func (b *backfills) save(ctx context.Context, name string, state BackfillState) error {
	state.Updated = time.Now().UTC()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := b.source.opts.Backfill.Store.Save(ctx, name, state); err != nil {
		return fmt.Errorf("record the backfill of %s: %w", name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.states[name] = state
	return nil
}

// follow reacts to the store until ctx ends.
func (b *backfills) follow(ctx context.Context, records map[string]BackfillRecord) {
	complained := false
	for {
		b.lookAround()
		for name, record := range records {
			if err := b.reconcile(ctx, name, record); err != nil && ctx.Err() == nil {
				b.log.Warn("a backfill could not be looked after; it is tried again", "table", name, "error", err)
			}
		}
		b.rest()
		if !pause(ctx, backfillPoll) {
			return
		}
		var err error
		if records, err = b.load(ctx); err != nil && !complained && ctx.Err() == nil {
			b.log.Warn("backfill requests cannot be read", "error", err)
		}
		complained = err != nil
	}
}

// reconcile does for a table what its record asks for.
func (b *backfills) reconcile(ctx context.Context, name string, record BackfillRecord) error {
	b.mu.Lock()
	j, retired := b.jobs[name], b.retired[name]
	state, known := b.states[name]
	b.mu.Unlock()
	if retired {
		return nil
	}
	if !known && record.State != nil {
		state = *record.State
		b.mu.Lock()
		b.states[name] = state
		b.mu.Unlock()
	}
	if r := record.Request; r != nil && r.ID != state.Request && !state.Precedes(*r) {
		if j != nil {
			j.stop()
			b.forgetJob(name, j)
			b.mu.Lock()
			state, j = b.states[name], nil // it may have come further
			b.mu.Unlock()
		}
		state = b.answer(name, state, r)
		if err := b.save(ctx, name, state); err != nil {
			return err
		}
	}
	if j == nil && state.unfinished() {
		b.startJob(ctx, name, state)
	}
	return nil
}

func (b *backfills) table(name string) *change.Relation {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tables[name]
}

// answer is the state that a request leads to.
func (b *backfills) answer(name string, state BackfillState, r *BackfillRequest) BackfillState {
	switch {
	case r.Action == "cancel":
		if state.unfinished() {
			state.State = BackfillCancelled
			b.log.Info("backfill cancelled", "table", name, "rows", state.Rows)
		}
		state.Request = r.ID
	case b.table(name) == nil:
		state = BackfillState{State: BackfillFailed, Request: r.ID, Error: "the table is not in the streams of this pipeline's configuration, or does not exist"}
	default:
		state = BackfillState{State: BackfillWaiting, Request: r.ID, Where: r.Where, Rate: r.Rate, End: state.End, Complete: state.Complete}
	}
	return state
}

// startJob begins to read a table, if the pipeline has it.
func (b *backfills) startJob(ctx context.Context, name string, state BackfillState) {
	b.mu.Lock()
	rel := b.tables[name]
	if rel == nil || b.retired[name] {
		b.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	j := &job{b: b, rel: rel, name: name, state: state, armed: b.resumed[name], cancel: cancel, done: make(chan struct{})}
	delete(b.resumed, name)
	b.jobs[name] = j
	b.mu.Unlock()
	b.core.record(true)
	b.group.Go(func() {
		defer cancel()
		j.run(ctx)
		b.forgetJob(j.name, j)
		close(j.done)
	})
}

// barrier is what a job waits for before its first chunk. A table that joined the publication since
// the stream was opened has one of its own.
func (b *backfills) barrier(ctx context.Context, conn *pgx.Conn, table uint32) (barrier, error) {
	b.mu.Lock()
	if !b.published[table] {
		b.mu.Unlock()
		return newBarrier(ctx, conn)
	}
	defer b.mu.Unlock()
	if b.passed == nil {
		made, err := newBarrier(ctx, conn)
		if err != nil {
			return made, err
		}
		b.passed = &made
	}
	return *b.passed, nil
}

func (b *backfills) forgetJob(name string, j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.jobs[name] == j {
		delete(b.jobs, name)
	}
}

// rest lets the stream forget about backfills when there are none.
func (b *backfills) rest() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.jobs) == 0 && b.core.on.Load() {
		b.core.record(false)
		b.passed = nil
	}
}

// close ends all readers and waits for them.
func (b *backfills) close() {
	if b.cancel == nil {
		return // never begun
	}
	b.cancel()
	b.group.Wait()
}

// progress is a copy of the states, by name.
func (b *backfills) progress() []BackfillProgress {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []BackfillProgress
	for name, state := range b.states {
		list = append(list, BackfillProgress{name, state})
	}
	slices.SortFunc(list, func(a, b BackfillProgress) int { return strings.Compare(a.Table, b.Table) })
	return list
}
