package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/change"
)

// latency is how long a single commit takes to an XREAD that waits for it,
// from the moment that COMMIT is sent.
type latency struct{ p50, p99, max time.Duration }

// measureBig drains one huge transaction and is after the peak memory.
func measureBig(ctx context.Context, b *bed, o options) (measure, error) {
	s := shape{name: "big", what: fmt.Sprintf("one transaction of %d inserted rows", o.big), units: o.big,
		sql: []string{fmt.Sprintf(`INSERT INTO accounts SELECT %s FROM generate_series(10000, 9999 + %d) id`, row, o.big)}}
	fmt.Fprintln(echo, s.what)
	end, err := b.write(ctx, s)
	if err != nil {
		return measure{}, err
	}
	m, err := b.drain(ctx, runners(b, o)[2], end)
	m.units = s.units
	return m, errors.Join(err, b.forget(ctx))
}

// measureLatency runs the daemon with nothing else to do.
func measureLatency(ctx context.Context, b *bed, o options) (l latency, err error) {
	fmt.Fprintf(echo, "latency of %d single commits\n", o.latencies)
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return l, err
	}
	if err := b.exec(ctx, `TRUNCATE accounts`, `SELECT pg_create_logical_replication_slot('bench_latency', 'pgoutput')`); err != nil {
		return l, err
	}
	cmd, err := b.walrill(o.binary, "{}")("bench_latency", "")
	if err != nil {
		return l, err
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return l, err
	}
	l, err = b.commitAndRead(ctx, o.latencies)
	if err = errors.Join(err, stopProcess(cmd)); err != nil {
		return l, fmt.Errorf("%w\n%s", err, output.String())
	}
	return l, b.dropSlot(ctx, "bench_latency")
}

func stopProcess(cmd *exec.Cmd) error {
	return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}

func (b *bed) commitAndRead(ctx context.Context, n int) (l latency, err error) {
	lsn, err := b.lsn(ctx)
	if err != nil {
		return l, err
	}
	if err := b.streaming(ctx, lsn); err != nil {
		return l, err
	}
	var took []time.Duration
	last := "0"
	for i := range n {
		arrived := make(chan error, 1)
		var at time.Time
		go func() {
			streams, err := b.rdb.XRead(ctx, &redis.XReadArgs{Streams: []string{"accounts", last}, Block: 10 * time.Second}).Result()
			if at = time.Now(); err == nil {
				last = streams[0].Messages[len(streams[0].Messages)-1].ID
			}
			arrived <- err
		}()
		tx, err := b.conn.Begin(ctx)
		if err != nil {
			return l, err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO accounts SELECT `+row+` FROM (SELECT $1::bigint AS id) x`, i); err != nil {
			return l, err
		}
		pause(ctx, 3*time.Millisecond) // idle, as the measure says
		sent := time.Now()
		if err := errors.Join(tx.Commit(ctx), <-arrived); err != nil {
			return l, err
		}
		took = append(took, at.Sub(sent))
	}
	return latencyOf(took), nil
}

func latencyOf(took []time.Duration) latency {
	slices.Sort(took)
	return latency{took[len(took)/2], took[len(took)*99/100], took[len(took)-1]}
}

func (l latency) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, max %s", l.p50.Round(10*time.Microsecond), l.p99.Round(10*time.Microsecond), l.max.Round(10*time.Microsecond))
}

// streaming waits until the daemon has caught up.
func (b *bed) streaming(ctx context.Context, lsn string) error {
	position, err := change.ParseLSN(lsn)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); pause(ctx, 20*time.Millisecond) {
		if ok, err := b.watermarkReached(ctx, uint64(position)); ok || err != nil {
			return err
		}
	}
	return errors.New("the daemon did not start to stream within 10 s")
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
