package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// WorkloadOptions says how much to write. With one worker a seed always writes
// the same; with several, each worker sends the same statements in the same
// order, and how they interleave is up to chance.
type WorkloadOptions struct {
	Seed         uint64
	Workers      int           // connections; default 4
	Transactions int           // over all workers; 0 goes on until the context ends
	Keys         int           // rows per table that the workers fight for; default 100
	NoTruncate   bool          // leaves TRUNCATE out
	Reconnect    bool          // connects again when the connection is lost; else that is an error
	Pause        time.Duration // of a worker after each transaction, so that others can follow
	Commits      *atomic.Int64 // counts the commits as they are made, unless nil
}

// WorkloadStats are the transactions of a workload by how they ended.
type WorkloadStats struct {
	Committed  int
	RolledBack int // on purpose
	Failed     int // by a deadlock, a duplicate key or a lost connection (which may have committed)
	Statements int
}

func (s *WorkloadStats) add(o WorkloadStats) {
	s.Committed += o.Committed
	s.RolledBack += o.RolledBack
	s.Failed += o.Failed
	s.Statements += o.Statements
}

// workloadName is the application_name of the workers.
const workloadName = "walrill workload"

// RunWorkload writes random transactions to the tables of SetupWorkload, until
// so many were tried or the context ends, which is no error. When it returns,
// all that it wrote is committed or never will be.
func RunWorkload(ctx context.Context, dbURL string, o WorkloadOptions) (WorkloadStats, error) {
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.Keys == 0 {
		o.Keys = 100
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		total WorkloadStats
		errs  []error
	)
	for i := range o.Workers {
		w := &worker{url: dbURL, options: o, script: script{rand: rand.New(rand.NewPCG(o.Seed, uint64(i))), options: o}}
		limit := o.Transactions / o.Workers
		if i < o.Transactions%o.Workers {
			limit++
		}
		if o.Transactions == 0 {
			limit = -1
		}
		group.Go(func() {
			err := w.run(ctx, limit)
			mu.Lock()
			defer mu.Unlock()
			total.add(w.stats)
			errs = append(errs, err)
		})
	}
	group.Wait()
	if err := errors.Join(append(errs, allGone(dbURL))...); err != nil {
		return total, fmt.Errorf("run workload: %w", err)
	}
	return total, nil
}

// allGone waits for the end of the workers' backends: one whose client left may still be committing.
func allGone(dbURL string) error {
	var err error
	if !Poll(time.Minute, func() bool {
		var there bool
		there, err = anyWorker(dbURL)
		return err == nil && !there
	}) {
		return fmt.Errorf("workers' backends do not end: %w", cmp.Or(err, context.DeadlineExceeded))
	}
	return nil
}

func anyWorker(dbURL string) (there bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dbURL)
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1)`,
		workloadName).Scan(&there)
	return there, err
}

// worker sends the transactions of one script.
type worker struct {
	url     string
	options WorkloadOptions
	script  script
	conn    *pgx.Conn
	stats   WorkloadStats
}

// run runs limit transactions; below 0 there is no limit.
func (w *worker) run(ctx context.Context, limit int) error {
	defer w.disconnect()
	for n := 0; n != limit && ctx.Err() == nil; n++ {
		time.Sleep(w.options.Pause)
		err := w.transaction(ctx, w.script.transaction())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// transaction runs one; that Postgres refuses it is expected and counted.
func (w *worker) transaction(ctx context.Context, steps []step) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	for _, s := range steps {
		w.stats.Statements++
		_, err := w.conn.Exec(ctx, s.sql, s.args...)
		var refused *pgconn.PgError
		switch {
		case err == nil:
			continue
		case errors.As(err, &refused) && !w.conn.IsClosed():
			if !isExpected(refused.Code) {
				return fmt.Errorf("run %q: %w", s.sql, err)
			}
			w.stats.Failed++
			if _, err = w.conn.Exec(ctx, "ROLLBACK"); err != nil && w.options.Reconnect {
				w.disconnect()
				return nil
			}
			return err
		case w.options.Reconnect:
			w.stats.Failed++
			w.disconnect()
			return nil
		default:
			return fmt.Errorf("run %q: %w", s.sql, err)
		}
	}
	if steps[len(steps)-1].sql == "COMMIT" {
		w.stats.Committed++
		if w.options.Commits != nil {
			w.options.Commits.Add(1)
		}
	} else {
		w.stats.RolledBack++
	}
	return nil
}

// isExpected tells what workers that fight for the same rows run into.
func isExpected(code string) bool {
	switch code {
	case "23505", // unique_violation
		"40P01", // deadlock_detected
		"40001": // serialization_failure
		return true
	}
	return false
}

// connect makes sure of a connection; with Reconnect it tries until the context ends.
func (w *worker) connect(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for w.conn == nil {
		conn, err := w.dial(ctx)
		if err == nil {
			w.conn = conn
			break
		}
		if !w.options.Reconnect {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (w *worker) dial(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(w.url)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = workloadName
	config.RuntimeParams["deadlock_timeout"] = "50ms"                        // the default second would be most of the run
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary // a standby may be promoted soon
	return pgx.ConnectConfig(ctx, config)
}

// disconnect closes the connection, which may be gone already.
func (w *worker) disconnect() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	w.conn.Close(ctx)
	w.conn = nil
}
