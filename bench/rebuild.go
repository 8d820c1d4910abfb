package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// pauseTables hold a table whose view is rebuilt, and a small one whose view somebody waits for meanwhile.
const pauseTables = `
CREATE TABLE shops (id int PRIMARY KEY, name text);
CREATE TABLE sales (id bigint PRIMARY KEY, shop int, status text, total numeric(12,2));
CREATE TABLE watched (id int PRIMARY KEY, n bigint);
INSERT INTO shops SELECT i, 'shop ' || i FROM generate_series(1, 1000) i;
INSERT INTO watched VALUES (1, 0);
INSERT INTO sales SELECT i, 1 + i %% 1000, 'new', i * 1.25 FROM generate_series(1, %d) i`

const pauseViews = `  rebuilt: {key: id, query: "SELECT s.id, s.status, s.total, o.name FROM sales s JOIN shops o ON o.id = s.shop"}
  copied: {mirror: public.sales}
  seen: {mirror: public.watched}
`

// pauseRun is how long commits took to be seen in a view, while another view was rebuilt.
type pauseRun struct {
	what  string
	took  time.Duration // of the rebuild
	found string        // what it said
	latency
}

// measurePauses rebuilds a view under load, and looks how long another one stands still.
func measurePauses(ctx context.Context, b *bed, o options) (err error) {
	fmt.Fprintf(echo, "pauses: views of %d rows are rebuilt\n", o.rows)
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return err
	}
	if err := b.exec(ctx, fmt.Sprintf(pauseTables, o.rows), `CREATE DATABASE pauses`); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "pauses.yaml")
	text := fmt.Sprintf("pipeline: benchpauses\nsource: {url: %q}\nsink: {url: %q}\nstreams:\n  all: {tables: {public.shops: {}, public.sales: {}, public.watched: {}}}\nviews:\n  store: %q\n%s",
		b.pg.URL(database), b.redis.URL(), b.pg.URL("pauses"), pauseViews)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(o.binary, "run", "-c", file, "--http", "", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = echo, echo
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopProcess(cmd)) }()
	store, err := pgx.Connect(ctx, b.pg.URL("pauses"))
	if err != nil {
		return err
	}
	defer store.Close(ctx) //nolint:errcheck // a measure's
	for deadline := time.Now().Add(2 * time.Minute); ; pause(ctx, 100*time.Millisecond) {
		var live int
		if err := store.QueryRow(ctx, `SELECT count(*) FROM walrill.views WHERE state = 'live'`).Scan(&live); err == nil && live == 3 {
			break
		}
		if time.Now().After(deadline) {
			return errors.New("the views were not complete within two minutes")
		}
	}
	for _, r := range []struct{ what, spoil, view string }{
		{what: "nothing is rebuilt"},
		{what: "a join, nothing wrong", view: "rebuilt"},
		{what: "a join, every row wrong", spoil: "UPDATE rebuilt SET total = 0", view: "rebuilt"},
		{what: "a mirror, nothing wrong", view: "copied"},
		{what: "a mirror, every row wrong", spoil: "UPDATE copied SET total = 0", view: "copied"},
	} {
		if _, err := store.Exec(ctx, "SELECT 1;"+r.spoil, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		run, err := b.watch(ctx, store, func() (string, error) {
			if r.view == "" {
				pause(ctx, 5*time.Second)
				return "", ctx.Err()
			}
			out, err := exec.CommandContext(ctx, o.binary, "rebuild", r.view, "-c", file).CombinedOutput()
			return strings.TrimSpace(string(out)), err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", r.what, err)
		}
		run.what = r.what
		fmt.Fprintf(echo, "  %-26s %6.1f s  commit to view: %s  %s\n", run.what, run.took.Seconds(), run.latency, run.found)
	}
	return nil
}

// watch changes a row and waits until it is in its view, again and again, while something is done, and others are changed.
func (b *bed) watch(ctx context.Context, store *pgx.Conn, do func() (string, error)) (r pauseRun, err error) {
	source, err := pgx.Connect(ctx, b.pg.URL(database))
	if err != nil {
		return r, err
	}
	defer source.Close(ctx) //nolint:errcheck // a measure's
	start, done := time.Now(), make(chan error, 1)
	go func() {
		var err error
		r.found, err = do()
		r.took = time.Since(start)
		done <- err
	}()
	var took []time.Duration
	for {
		select {
		case err := <-done:
			r.latency = latencyOf(took)
			return r, err
		default:
		}
		// The change that is waited for, and a few others of the view that is rebuilt.
		var n int64
		if err := source.QueryRow(ctx, `WITH other AS (UPDATE sales SET total = total + 1 WHERE id IN (SELECT 1 + (random() * 10000)::int FROM generate_series(1, 5)))
			UPDATE watched SET n = n + 1 RETURNING n`).Scan(&n); err != nil {
			return r, err
		}
		at := time.Now()
		for seen := int64(-1); seen < n; pause(ctx, time.Millisecond) {
			if err := store.QueryRow(ctx, `SELECT n FROM seen`).Scan(&seen); err != nil {
				return r, err
			}
		}
		took = append(took, time.Since(at))
	}
}
