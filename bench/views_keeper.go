package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// keeper is a running daemon that keeps one kind of view.
type keeper struct {
	viewKind
	cmd    *exec.Cmd
	store  *pgx.Conn     // of a view in Postgres
	rdb    *redis.Client // of documents
	output bytes.Buffer
}

func (k *keeper) signal(s os.Signal) error { return k.cmd.Process.Signal(s) }

// keep starts a daemon for one kind of view, waits until the view is complete, and has it stand still.
func (b *bed) keep(ctx context.Context, o options, i int, kind viewKind) (*keeper, error) {
	k := &keeper{viewKind: kind}
	name := fmt.Sprintf("store_%d_%v", i, kind.dealt)
	views := "views:\n" + kind.yaml
	if kind.name == documentKind {
		k.rdb = b.rdb
	} else {
		if err := b.exec(ctx, `CREATE DATABASE `+name); err != nil {
			return nil, err
		}
		var err error
		if k.store, err = pgx.Connect(ctx, b.pg.URL(name)); err != nil {
			return nil, err
		}
		views = fmt.Sprintf("views:\n  store: %q\n%s", b.pg.URL(name), kind.yaml)
	}
	file, err := b.viewConfig(name, views, kind.dealt)
	if err != nil {
		return nil, err
	}
	k.cmd = exec.Command(o.binary, "run", "-c", file, "--only", "views", "--http", "", "--log-level", "warn")
	k.cmd.Stdout, k.cmd.Stderr = &k.output, &k.output
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	return k, errors.Join(k.live(ctx), k.signal(syscall.SIGSTOP))
}

// live waits until the view is complete.
func (k *keeper) live(ctx context.Context) error {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); pause(ctx, 50*time.Millisecond) {
		state, err := k.state(ctx)
		if state == "live" || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: the view was not complete within 60 s\n%s", k.name, k.output.String())
}

// state is the view's; "" when there is none yet.
func (k *keeper) state(ctx context.Context) (state string, err error) {
	if k.rdb != nil {
		if state, err = k.rdb.HGet(ctx, documentState, "state").Result(); errors.Is(err, redis.Nil) {
			err = nil
		}
		return state, err
	}
	err = k.store.QueryRow(ctx, `SELECT state FROM walrill.views`).Scan(&state)
	if err != nil && (errors.Is(err, pgx.ErrNoRows) || strings.Contains(err.Error(), "42P01")) {
		err = nil
	}
	return state, err
}

// documentState is the hash that says how far the documents are.
const documentState = "walrill:{" + viewPipeline + "}:document:docs"

// position is what the view has, as it is written with its rows.
func (k *keeper) position(ctx context.Context) (clock uint64, err error) {
	if k.rdb != nil {
		text, err := k.rdb.HGet(ctx, documentState, "position").Result()
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(text, 10, 64)
	}
	err = k.store.QueryRow(ctx, `SELECT (coalesce((SELECT min(w.lsn) FROM walrill.workers w WHERE w.pipeline = p.pipeline AND p.open), p.lsn) - '0/0')::bigint FROM walrill.pipelines p`).Scan(&clock)
	return clock, err
}

// shows reports whether the view has an order with a status.
func (k *keeper) shows(ctx context.Context, id int64, status string) (found bool, err error) {
	if k.rdb != nil {
		text, err := k.rdb.Get(ctx, fmt.Sprintf("order:%d", id)).Result()
		return strings.Contains(text, `"`+status+`"`), err
	}
	err = k.store.QueryRow(ctx, `SELECT EXISTS (SELECT FROM seen WHERE id = $1 AND status = $2)`, id, status).Scan(&found)
	return found, err
}

// backends are the processes of Postgres that keep the view; none for documents.
func (k *keeper) backends(ctx context.Context) (pids []int, err error) {
	if k.store == nil {
		return nil, nil
	}
	rows, err := k.store.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'walrill views %'`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int])
}

// stopKeepers stops daemons that stand still.
func stopKeepers(ctx context.Context, keepers []*keeper, err error) error {
	for _, k := range keepers {
		if stopErr := errors.Join(k.signal(syscall.SIGCONT), stopProcess(k.cmd)); stopErr != nil || err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w\n%s", k.name, stopErr, k.output.String()))
		}
		if k.store != nil {
			k.store.Close(ctx) //nolint:errcheck // a measure's
		}
	}
	return err
}

// catchUp lets a daemon go on until its view has the last change, and has it stand still again.
func (b *bed) catchUp(ctx context.Context, k *keeper, changes int, end event.Position) (r viewRun, err error) {
	backends, err := k.backends(ctx)
	if err != nil {
		return r, err
	}
	cpu := func(pids ...int) (sum time.Duration) {
		for _, pid := range pids {
			sum += processCPU(pid)
		}
		return sum
	}
	client, server, redis := cpu(k.cmd.Process.Pid), cpu(backends...), cpu(b.redis.Pid())
	start := time.Now()
	if err := errors.Join(k.signal(syscall.SIGCONT), k.reaches(ctx, end.Commit+1)); err != nil {
		return r, err
	}
	took := time.Since(start).Seconds()
	perMillion := func(spent time.Duration) float64 { return spent.Seconds() / float64(changes) * 1e6 }
	return viewRun{float64(changes) / took, perMillion(cpu(k.cmd.Process.Pid) - client), perMillion(cpu(backends...) - server), perMillion(cpu(b.redis.Pid()) - redis)}, k.signal(syscall.SIGSTOP)
}

// reaches waits until the view's position, as it is written with its rows, has reached a clock.
func (k *keeper) reaches(ctx context.Context, clock uint64) error {
	for deadline := time.Now().Add(120 * time.Second); time.Now().Before(deadline); pause(ctx, 10*time.Millisecond) {
		if position, err := k.position(ctx); err != nil || position >= clock {
			return err
		}
	}
	return errors.New("the view did not catch up within two minutes")
}

// viewLatency is how long a commit takes, from the moment that COMMIT is sent, until the view has it.
func (b *bed) viewLatency(ctx context.Context, o options, k *keeper) (l latency, err error) {
	fmt.Fprintf(echo, "latency of %d single commits to %s\n", o.latencies, k.name)
	if err := k.signal(syscall.SIGCONT); err != nil {
		return l, err
	}
	var took []time.Duration
	for i := range o.latencies + 1 {
		id, status := int64(i%1000+1), fmt.Sprintf("%s %d", k.name, i)
		tx, err := b.conn.Begin(ctx)
		if err != nil {
			return l, err
		}
		if _, err := tx.Exec(ctx, `UPDATE orders SET status = $2 WHERE id = $1`, id, status); err != nil {
			return l, err
		}
		pause(ctx, 10*time.Millisecond) // idle, as the measure says
		sent := time.Now()
		if err := tx.Commit(ctx); err != nil {
			return l, err
		}
		for found := false; !found; {
			if found, err = k.shows(ctx, id, status); err != nil {
				return l, err
			}
			if time.Since(sent) > 30*time.Second {
				return l, errors.New("the view did not get the change within 30 s")
			}
			if !found {
				pause(ctx, 200*time.Microsecond)
			}
		}
		if i > 0 { // the first one waits for whatever the daemon missed while it stood still
			took = append(took, time.Since(sent))
		}
	}
	return latencyOf(took), k.signal(syscall.SIGSTOP)
}
