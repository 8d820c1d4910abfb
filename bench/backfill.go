package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// fill is the rows a second of one round: a backfill, and each of the two things that it joins by itself.
type fill struct{ copied, piped, walrill float64 }

// ratio is to the slower of the two.
func (f fill) ratio() float64 { return f.walrill / min(f.copied, f.piped) }

// measureBackfill reads a table to nowhere, backfills it, and sends the very entries that came of it to Redis once more.
func measureBackfill(ctx context.Context, b *bed, o options) (fills []fill, err error) {
	fmt.Fprintf(echo, "backfill: a table of %d rows\n", o.rows)
	err = b.exec(ctx, `TRUNCATE accounts`, fmt.Sprintf(`INSERT INTO accounts SELECT %s FROM generate_series(1, %d) id`, row, o.rows), `VACUUM ANALYZE accounts`)
	if err != nil {
		return nil, err
	}
	for round := range o.rounds {
		f := fill{}
		if f.copied, err = b.copyOut(ctx, o.rows); err != nil {
			return nil, fmt.Errorf("copy: %w", err)
		}
		if f.walrill, err = b.backfill(ctx, o, fmt.Sprintf("bench_fill_%d", round)); err != nil {
			return nil, fmt.Errorf("walrill: %w", err)
		}
		if f.piped, err = b.pipeAgain(ctx, o.rows); err != nil {
			return nil, fmt.Errorf("pipeline: %w", err)
		}
		fmt.Fprintf(echo, "  round %d  COPY %4.0fk/s  pipeline %4.0fk/s  walrill %4.0fk/s\n", round+1, f.copied/1000, f.piped/1000, f.walrill/1000)
		fills = append(fills, f)
	}
	return fills, nil
}

// copyOut is COPY to nowhere.
func (b *bed) copyOut(ctx context.Context, rows int) (rate float64, err error) {
	start := time.Now()
	if _, err := b.conn.PgConn().CopyTo(ctx, io.Discard, `COPY accounts TO STDOUT`); err != nil {
		return 0, err
	}
	return float64(rows) / time.Since(start).Seconds(), nil
}

// backfill has a new pipeline read the table. The time is from the first chunk to the last, as the daemon records it.
func (b *bed) backfill(ctx context.Context, o options, slot string) (rate float64, err error) {
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return 0, err
	}
	file := filepath.Join(b.dir, slot+".yaml")
	text := fmt.Sprintf("pipeline: %s\nsource: {url: %q, slot: %s, publication: %s}\nsink: {url: %q}\nstreams:\n  accounts: {tables: {public.accounts: {}}}\n",
		pipelineName, b.pg.URL(database), slot, publication, b.redis.URL())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return 0, err
	}
	var output bytes.Buffer
	cmd := exec.Command(o.binary, "run", "-c", file, "--http", "", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	state, err := b.awaitBackfill(ctx, done)
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended
		return 0, fmt.Errorf("%w\n%s", err, output.String())
	}
	if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), <-done); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, output.String())
	}
	return float64(state.Rows) / state.Finished.Sub(state.Started).Seconds(), b.dropSlot(ctx, slot)
}

func (b *bed) awaitBackfill(ctx context.Context, ended <-chan error) (state event.Backfill, err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := b.rdb.HGet(ctx, event.BackfillKey(pipelineName), "public.accounts").Result()
		switch {
		case err == nil:
			if err := json.Unmarshal([]byte(text), &state); err != nil || state.State == "done" {
				return state, err
			}
		case !errors.Is(err, redis.Nil):
			return state, err
		}
		select {
		case err := <-ended:
			return state, fmt.Errorf("it ended early: %w", errors.Join(err, errors.New("before the table was read")))
		case <-ctx.Done():
			return state, ctx.Err()
		case <-tick.C:
		}
	}
}

// pipeAgain takes the entries out, empties Redis and sends them again: encoded before, nothing waits for a reply.
func (b *bed) pipeAgain(ctx context.Context, rows int) (rate float64, err error) {
	commands, n, err := b.encoded(ctx)
	if err != nil {
		return 0, err
	}
	if n != rows {
		return 0, fmt.Errorf("%d entries came of %d rows", n, rows)
	}
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return 0, err
	}
	conn, err := net.Dial("tcp", b.redis.Addr())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	start := time.Now()
	sent := make(chan error, 1)
	go func() { _, err := conn.Write(commands); sent <- err }()
	reply := make([]byte, 64<<10)
	for lines := 0; lines < 2*n; { // the ID's length, the ID
		k, err := conn.Read(reply)
		if err != nil {
			return 0, err
		}
		if i := bytes.IndexByte(reply[:k], '-'); lines == 0 && i == 0 {
			return 0, errors.New(strings.TrimSpace(string(reply[:k])))
		}
		lines += bytes.Count(reply[:k], []byte{'\n'})
	}
	return float64(n) / time.Since(start).Seconds(), <-sent
}

// encoded is every entry of the stream as the command that adds it.
func (b *bed) encoded(ctx context.Context) (commands []byte, n int, err error) {
	for start := "-"; ; {
		reply, err := b.rdb.Do(ctx, "XRANGE", "accounts", start, "+", "COUNT", 5000).Slice()
		if err != nil || len(reply) == 0 {
			return commands, n, err
		}
		for _, e := range reply {
			entry := e.([]any)
			id, fields := entry[0].(string), entry[1].([]any)
			commands = fmt.Appendf(commands, "*%d\r\n", 3+len(fields))
			for _, arg := range slices.Concat([]any{"XADD", "accounts", id}, fields) {
				commands = event.AppendBulkString(commands, arg.(string))
			}
			start = "(" + id
			n++
		}
	}
}
