// Command bench measures walrill beside its limits, in one interleaved run on
// the same WAL: pg_recvlogical to /dev/null, which is what Postgres can give, and
// the ordinary Go path (pglogrepl's parser, pgtype, encoding/json, a go-redis
// pipeline), which is what one would write first. Absolute times are the machine's; the ratios count.
//
//	go run ./bench            about two minutes
//	go run ./bench -quick     a glance
//	go run ./bench -full      the sizes of docs/performance.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
)

type options struct {
	rounds        int
	txA, txB, big int
	latencies     int
	rows          int // of the table that is backfilled
	changes       int // that views take
	binary, only  string
	quick, full   bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == ordinaryRole {
		exit(ordinaryMain(os.Args[2:]))
	}
	o := options{rounds: 3, txA: 300, txB: 100_000, big: 500_000, latencies: 500, rows: 300_000, changes: 100_000}
	flag.IntVar(&o.rounds, "rounds", o.rounds, "interleaved rounds")
	flag.StringVar(&o.binary, "binary", "", "walrill binary; built when empty")
	flag.StringVar(&o.only, "only", "", "drain, backfill, rebuild, views, or keys, which are part of the views: that and nothing else")
	flag.BoolVar(&o.quick, "quick", false, "small sizes, one round")
	flag.BoolVar(&o.full, "full", false, "shape A with 1,000 transactions, B with 300,000, one transaction of 2,000,000 rows")
	flag.Parse()
	if o.quick {
		o.rounds, o.txA, o.txB, o.big, o.latencies, o.rows, o.changes = 1, 50, 20_000, 100_000, 100, 50_000, 20_000
	}
	if o.full {
		o.txA, o.txB, o.big, o.latencies, o.rows = 1000, 300_000, 2_000_000, 1000, 500_000
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options) (err error) {
	if o.binary == "" {
		dir, err := os.MkdirTemp("", "walrill-bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		o.binary = filepath.Join(dir, "walrill")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.binary, "./cmd/walrill").CombinedOutput(); err != nil {
			return fmt.Errorf("build walrill: %w\n%s", err, out)
		}
	}
	b, err := newBed(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r := &results{}
	// What takes memory of ours comes last: a child's peak counts what its parent had when it was started.
	if o.only == "" || o.only == "drain" {
		if err := measureDrains(ctx, b, o, r); err != nil {
			return err
		}
	}
	if o.only == "rebuild" {
		return measurePauses(ctx, b, o)
	}
	if o.only == "" || o.only == "backfill" {
		if r.fills, err = measureBackfill(ctx, b, o); err != nil {
			return fmt.Errorf("backfill: %w", err)
		}
	}
	if o.only == "" || o.only == "views" {
		if r.views, err = measureViews(ctx, b, o); err != nil {
			return fmt.Errorf("views: %w", err)
		}
	}
	if o.only != "backfill" && o.only != "drain" {
		if r.keys, err = measureKeys(ctx, b, o); err != nil {
			return fmt.Errorf("views key by key: %w", err)
		}
	}
	r.print(os.Stdout)
	return nil
}

func measureDrains(ctx context.Context, b *bed, o options, r *results) (err error) {
	for _, s := range []shape{shapeA(o.txA), shapeB(o.txB)} {
		if err := measureShape(ctx, b, s, o, r); err != nil {
			return fmt.Errorf("shape %s: %w", s.name, err)
		}
	}
	if r.big, err = measureBig(ctx, b, o); err != nil {
		return fmt.Errorf("big transaction: %w", err)
	}
	if r.latency, err = measureLatency(ctx, b, o); err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	return nil
}

// measureShape writes the WAL once and drains it with each runner, round by round.
func measureShape(ctx context.Context, b *bed, s shape, o options, r *results) error {
	fmt.Fprintf(os.Stderr, "shape %s: %s\n", s.name, s.what)
	end, err := b.write(ctx, s)
	if err != nil {
		return err
	}
	for round := range o.rounds {
		for _, run := range runners(b, o) {
			m, err := b.drain(ctx, run, end)
			if err != nil {
				return fmt.Errorf("%s: %w", run.name, err)
			}
			m.units = s.units
			fmt.Fprintf(os.Stderr, "  round %d  %-15s %s\n", round+1, run.name, m)
			r.add(s, run.name, m)
		}
	}
	return b.forget(ctx)
}
