package projector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// poolEvery is how often a process looks which workers are free.
const poolEvery = 50 * time.Millisecond

// pool is the workers that this process has. It has a session of its own, in which it looks who has which worker.
type pool struct {
	opts *Options

	mu     sync.Mutex
	status WorkersStatus

	// Of the goroutine of run.
	group   sync.WaitGroup
	running map[int]*hired // by the worker's number
	opening int64          // that they are of
	rest    time.Time      // none is taken before, because one failed
	backoff time.Duration
	failed  chan error
}

// hired is a worker at work.
type hired struct {
	*worker
	stop context.CancelFunc
	done chan struct{}
}

func newPool(o *Options) *pool {
	return &pool{opts: o, running: map[int]*hired{}, failed: make(chan error, 64)}
}

func (p *pool) report() WorkersStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// run works until ctx ends, through every absence of the store.
func (p *pool) run(ctx context.Context) {
	defer p.group.Wait()
	for ctx.Err() == nil {
		err := p.session(ctx)
		if ctx.Err() != nil {
			return
		}
		p.fail(err)
		if pause(ctx, p.backoff) != nil {
			return
		}
	}
}

// fail notes that something failed, and rests for longer each time.
func (p *pool) fail(err error) {
	if noViewsYet(err) {
		p.backoff = firstBackoff
		return
	}
	p.backoff = min(max(2*p.backoff, firstBackoff), lastBackoff)
	p.rest = time.Now().Add(p.backoff)
	p.opts.Log.Warn("a worker of the views has failed; trying again", "error", err, "in", p.backoff)
}

// lease is what a pool sees of a group.
type lease struct {
	open      bool
	halt      string
	opening   int64
	workers   int
	processes int
	free      []int32
}

const leaseSQL = `WITH l AS MATERIALIZED (SELECT objid::bigint AS id FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = $2
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
	SELECT p.open, p.halt, p.opening, (SELECT count(*)::int FROM walrill.workers w WHERE w.pipeline = p.pipeline AND w.opening = p.opening),
		(SELECT count(*)::int FROM l WHERE id = (hashtext(p.pipeline || '#')::bigint & 4294967295)),
		ARRAY(SELECT w.worker FROM walrill.workers w WHERE w.pipeline = p.pipeline AND w.opening = p.opening
			AND (hashtext(w.pipeline || '#' || w.worker || '#' || w.opening)::bigint & 4294967295) NOT IN (SELECT id FROM l))
	FROM walrill.pipelines p WHERE p.pipeline = $1`

// session looks after the workers until something fails.
func (p *pool) session(ctx context.Context) error {
	conn, err := connect(ctx, p.opts.StoreURL, p.opts.Pipeline)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock_shared($1, hashtext($2 || '#'))", lockClass, p.opts.Pipeline); err != nil {
		return fmt.Errorf("take part in keeping the views: %w", err)
	}
	for ctx.Err() == nil {
		var l lease
		err := conn.QueryRow(ctx, leaseSQL, p.opts.Pipeline, lockClass).Scan(&l.open, &l.halt, &l.opening, &l.workers, &l.processes, &l.free)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("look which workers of the views are free: %w", err)
		}
		p.manage(ctx, l)
		if err := pause(ctx, poolEvery); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// manage stops workers of a group that is closed, gives up what is more than this process's share, and takes a free one for what is less.
func (p *pool) manage(ctx context.Context, l lease) {
	p.sweep()
	if !l.open || l.halt != "" || l.opening != p.opening {
		for _, h := range p.running {
			h.stop()
		}
	}
	if l.open && l.opening != p.opening && len(p.running) == 0 {
		p.opening = l.opening
	}
	have, fair := 0, share(l.workers, l.processes)
	for _, h := range p.running {
		if !h.leaving.Load() {
			have++
		}
	}
	switch {
	case !l.open || l.halt != "" || l.opening != p.opening:
	case have > fair:
		for _, h := range p.running {
			if !h.leaving.Load() {
				h.leaving.Store(true) // one at a time
				break
			}
		}
	case time.Now().After(p.rest):
		for i := range l.free {
			j := i + rand.IntN(len(l.free)-i) // not the same as the others
			l.free[i], l.free[j] = l.free[j], l.free[i]
		}
		for _, n := range l.free[:min(len(l.free), fair-have)] {
			if p.running[int(n)] == nil {
				p.hire(ctx, int(n))
			}
		}
	}
	p.tell(l)
}

// hire starts a worker.
func (p *pool) hire(ctx context.Context, number int) {
	h := &hired{worker: &worker{opts: p.opts, number: number, opening: p.opening, projector: New(*p.opts)}, done: make(chan struct{})}
	ctx, h.stop = context.WithCancel(ctx)
	p.running[number] = h
	p.group.Go(func() {
		defer close(h.done)
		defer h.stop()
		if err := h.run(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errFenced) {
			p.failed <- err
		}
	})
}

// sweep forgets workers that have ended.
func (p *pool) sweep() {
	for n, h := range p.running {
		select {
		case <-h.done:
			delete(p.running, n)
			if h.projector.Status().Transactions > 0 {
				p.backoff = 0
			}
		default:
		}
	}
	for {
		select {
		case err := <-p.failed:
			p.fail(err)
		default:
			return
		}
	}
}

// tell makes the state known.
func (p *pool) tell(l lease) {
	st := WorkersStatus{Processes: l.processes, Halt: l.halt, Here: []WorkerStatus{}}
	if l.open {
		st.Workers = l.workers
	}
	for n, h := range p.running {
		s := h.projector.Status()
		if s.State == StateRunning {
			st.Here = append(st.Here, WorkerStatus{Worker: n, Clock: s.Clock, Events: s.Events, Transactions: s.Transactions, Partitions: h.partitions})
		}
	}
	slices.SortFunc(st.Here, func(a, b WorkerStatus) int { return a.Worker - b.Worker })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = st
}
