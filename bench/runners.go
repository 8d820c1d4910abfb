package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// runner drains a slot to its end.
type runner struct {
	name string
	// command makes the process; it ends by itself at the end of the WAL, or
	// reached says when it has got there and it is told to end.
	command func(slot, end string) (*exec.Cmd, error)
	reached func(ctx context.Context, end uint64) (bool, error)
}

const (
	limitName    = "pg_recvlogical"
	ordinaryName = "ordinary Go"
	walrillName  = "walrill"
	rulesName    = "walrill, 4 rules"
)

func runners(b *bed, o options) []runner {
	return []runner{
		{name: limitName, command: b.pgRecvlogical},
		{name: ordinaryName, command: b.ordinary},
		{name: walrillName, command: b.walrill(o.binary, "{}"), reached: b.watermarkReached},
		{name: rulesName, command: b.walrill(o.binary, rules), reached: b.watermarkReached},
	}
}

func (b *bed) pgRecvlogical(slot, end string) (*exec.Cmd, error) {
	path := filepath.Join(b.pg.BinDir(), "pg_recvlogical")
	return exec.Command(path, "-d", b.pg.URL(database), "-S", slot, "--start", "-f", "/dev/null", "--endpos="+end, "--no-loop",
		"-o", "proto_version=1", "-o", "publication_names="+publication), nil
}

func (b *bed) ordinary(slot, end string) (*exec.Cmd, error) {
	self, err := os.Executable()
	return exec.Command(self, ordinaryRole, b.pg.URL(database), b.redis.URL(), slot, end), err
}

const pipelineName = "bench"

// rules are four, one of which matches, with a payload of six expressions.
const rules = `
      events:
        - {type: account.closed, on: [insert, update], when: new.status == "closed" || new.status == "deleted"}
        - {type: account.empty, on: [insert, update], when: new.balance == 0}
        - type: account.changed
          on: [insert, update]
          when: new.balance > 0 && new.status in ["open", "dormant"]
          data: {account: new.id, owner: upper(new.owner), balance: new.balance, fee: new.balance * 0.01, at: new.updated_at, note: new.note}
        - {type: account.other, on: [insert, update], otherwise: true}`

// walrill is the program with what the file says of the table.
func (b *bed) walrill(binary, table string) func(slot, end string) (*exec.Cmd, error) {
	return func(slot, _ string) (*exec.Cmd, error) {
		file := filepath.Join(b.dir, slot+".yaml")
		text := fmt.Sprintf("pipeline: %s\nsource: {url: %q, slot: %s, publication: %s, backfill: never}\nsink: {url: %q}\nstreams:\n  accounts:\n   tables:\n    public.accounts: %s\n",
			pipelineName, b.pg.URL(database), slot, publication, b.redis.URL(), table)
		return exec.Command(binary, "run", "-c", file, "--http", "", "--log-level", "warn"), os.WriteFile(file, []byte(text), 0o600)
	}
}

func (b *bed) watermarkReached(ctx context.Context, end uint64) (bool, error) {
	return b.published(ctx, pipelineName, end)
}

// published reports whether a pipeline's watermark has reached a position.
func (b *bed) published(ctx context.Context, pipeline string, end uint64) (bool, error) {
	top, err := b.rdb.XRevRangeN(ctx, event.CommitsKey(pipeline), "+", "-", 1).Result()
	if err != nil || len(top) == 0 {
		return false, err
	}
	position, err := event.ParseID(top[0].ID)
	return position.Commit >= end, err
}

// measure is what one run took.
type measure struct {
	units                     int
	wall                      time.Duration
	client, walsender, redis_ time.Duration // CPU
	rss                       int64         // bytes, peak
}

func (m measure) rate() float64 { return float64(m.units) / m.wall.Seconds() }

// perMillion is CPU seconds per million units.
func (m measure) perMillion(cpu time.Duration) float64 { return cpu.Seconds() / float64(m.units) * 1e6 }

func (m measure) String() string {
	return fmt.Sprintf("%6.0fk/s  CPU s per 1M: client %5.1f  walsender %5.1f  redis %5.1f  peak %5.1f MB",
		m.rate()/1000, m.perMillion(m.client), m.perMillion(m.walsender), m.perMillion(m.redis_), float64(m.rss)/1e6)
}

// drain runs one runner over a fresh copy of the base slot and an empty Redis.
func (b *bed) drain(ctx context.Context, r runner, end string) (m measure, err error) {
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return m, err
	}
	b.runs++
	slot := fmt.Sprintf("bench_%d", b.runs)
	if err := b.exec(ctx, fmt.Sprintf(`SELECT pg_copy_logical_replication_slot('%s', '%s')`, baseSlot, slot)); err != nil {
		return m, err
	}
	cmd, err := r.command(slot, end)
	if err != nil {
		return m, err
	}
	if m, err = b.timed(ctx, r, cmd, slot, end); err != nil {
		return m, err
	}
	return m, b.dropSlot(ctx, slot)
}

func (b *bed) timed(ctx context.Context, r runner, cmd *exec.Cmd, slot, end string) (m measure, err error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	redisBefore := processCPU(b.redis.Pid())
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return m, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	m.walsender, m.wall, err = b.follow(ctx, r, slot, end, start, done)
	if r.reached != nil {
		err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), <-done)
	}
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended
		return m, fmt.Errorf("%w\n%s", err, output.String())
	}
	m.redis_ = processCPU(b.redis.Pid()) - redisBefore
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	m.client = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	m.rss = usage.Maxrss * 1024
	return m, nil
}

// follow waits for the end and samples the walsender, which is gone when its client is.
func (b *bed) follow(ctx context.Context, r runner, slot, end string, start time.Time, done <-chan error) (walsender, wall time.Duration, err error) {
	lsn, err := change.ParseLSN(end)
	if err != nil {
		return 0, 0, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	pid := 0
	for {
		if pid == 0 {
			if err := b.conn.QueryRow(ctx, `SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&pid); err != nil {
				return 0, 0, err
			}
		} else if cpu := processCPU(pid); cpu > 0 {
			walsender = cpu
		}
		if r.reached != nil {
			if ok, err := r.reached(ctx, uint64(lsn)); ok || err != nil {
				return walsender, time.Since(start), err
			}
		}
		select {
		case err := <-done:
			if r.reached != nil {
				return 0, 0, fmt.Errorf("it ended early: %w", errors.Join(err, errors.New("before the end of the WAL")))
			}
			return walsender, time.Since(start), err
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// dropSlot waits for the walsender to have noticed that its client is gone.
func (b *bed) dropSlot(ctx context.Context, slot string) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := b.exec(ctx, `SELECT pg_drop_replication_slot('`+slot+`')`)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// processCPU is the user and system time of a process, from /proc; 0 when it is gone.
func processCPU(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in brackets may hold anything; what follows is fields from the third on.
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	const tick = time.Second / 100 // USER_HZ
	var ticks time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += time.Duration(n)
	}
	return ticks * tick
}
