package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/walrill/walrill/event"
)

const (
	keyPipeline   = "benchkeys"
	keyPartitions = 8
)

// keyKinds are the same mirror, in whole transactions and key by key.
var keyKinds = []viewKind{
	{name: "in transactions", yaml: "  seen: {mirror: public.orders}\n", dealt: true},
	{name: "by key, 1 worker", yaml: "  consistency: key\n  workers: 1\n  seen: {mirror: public.orders}\n", dealt: true},
	{name: "by key, 2 workers", yaml: "  consistency: key\n  workers: 2\n  seen: {mirror: public.orders}\n", dealt: true},
	{name: "by key, 4 workers", yaml: "  consistency: key\n  workers: 4\n  seen: {mirror: public.orders}\n", dealt: true},
}

// measureKeys lets daemons catch up one after the other that keep the same mirror of a stream with several partitions. It
// returns the rounds, changes a second of each kind.
func measureKeys(ctx context.Context, b *bed, o options) (rounds []map[string]viewRun, err error) {
	fmt.Fprintf(echo, "views key by key: %d changes, over %d partitions\n", o.changes, keyPartitions)
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return nil, err
	}
	if o.only == "keys" {
		if err := b.exec(ctx, viewTables); err != nil {
			return nil, err
		}
	}
	capture, err := b.startCapture(o, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopProcess(capture)) }()
	var keepers []*keeper
	defer func() { err = stopKeepers(ctx, keepers, err) }()
	for i, kind := range keyKinds {
		k, err := b.keep(ctx, o, i, kind)
		if err != nil {
			return nil, err
		}
		keepers = append(keepers, k)
	}
	for round := range o.rounds {
		end, err := b.writeOrders(ctx, keyPipeline, o.changes)
		if err != nil {
			return nil, err
		}
		runs := map[string]viewRun{}
		fmt.Fprintf(echo, "  round %d", round+1)
		for _, k := range keepers {
			r, err := b.catchUp(ctx, k, o.changes, event.Position{Commit: end - 1})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			runs[k.name] = r
			fmt.Fprintf(echo, "  %s %5.1fk/s (CPU s per 1M: walrill %.1f, Postgres %.1f, Redis %.1f)", k.name, r.rate/1000, r.client, r.backend, r.redis)
		}
		fmt.Fprintln(echo)
		rounds = append(rounds, runs)
	}
	return rounds, nil
}

// printKeys shows each kind, and beside it how it compares with whole transactions in the same round.
func (r *results) printKeys(w io.Writer) {
	if len(r.keys) == 0 {
		return
	}
	for i, kind := range keyKinds {
		var rates, ratios []float64
		for _, runs := range r.keys {
			rates = append(rates, runs[kind.name].rate/1000)
			ratios = append(ratios, runs[kind.name].rate/runs[keyKinds[0].name].rate)
		}
		fmt.Fprintf(w, "| mirror of %d partitions, %s: k changes/s | | | %s |\n", keyPartitions, kind.name, spread(rates))
		if i > 0 {
			fmt.Fprintf(w, "| mirror of %d partitions, %s, to %s | | | %s |\n", keyPartitions, kind.name, keyKinds[0].name, spread(ratios))
		}
	}
}
