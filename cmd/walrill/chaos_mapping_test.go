package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

const mappingSchema = `
	CREATE TABLE ch_orders (id int PRIMARY KEY, status text NOT NULL, total int NOT NULL, parts int NOT NULL);
	CREATE TABLE ch_baskets (id int PRIMARY KEY, n int NOT NULL);
	CREATE TABLE ch_lines (basket_id int, no int, qty int NOT NULL, PRIMARY KEY (basket_id, no));
	CREATE TABLE ch_outbox (id serial PRIMARY KEY, aggregateid text NOT NULL, type text NOT NULL, payload jsonb);
	ALTER TABLE ch_orders REPLICA IDENTITY FULL;
	ALTER TABLE ch_baskets REPLICA IDENTITY FULL;
	ALTER TABLE ch_lines REPLICA IDENTITY FULL;`

const mappingFile = `pipeline: %s
source: {url: %q, backfill: never}
sink: {url: %q}
streams:
  orders:
    partitions: 3
    on_error: park
    tables:
      public.ch_orders:
        events:
          - {type: order.placed, on: insert, data: {id: new.id, total: new.total}}
          - {type: order.paid, on: update, when: old.status != "paid" && new.status == "paid", data: {id: new.id, rest: '%s'}}
          - {type: order.changed, on: update, otherwise: true, data: {id: new.id, total: new.total}}
          - {type: order.gone, on: delete, data: {id: old.id}}
  baskets:
    partitions: 2
    aggregates:
      basket: {root: public.ch_baskets, key: id, children: {lines: {table: public.ch_lines, key: basket_id}}}
  told:
    partitions: 2
    tables: {public.ch_outbox: {outbox: {events: {thing.counted: {data: {n: integer}}}}}}
`

// What rules with on_error: park, an aggregate and an outbox make of a workload while the daemon and Redis are killed equals what
// a model of the committed transactions says, which knows nothing of WAL or of walrill: each key has its events in their order, and what
// a rule fails on is set aside with all that comes after it. When the rule is mended and the keys are retried, nothing is missing.
func TestChaosMapping(t *testing.T) {
	r := newRig(t, rigOptions{redis: map[string]string{"appendonly": "yes", "appendfsync": "always"}})
	harness.Exec(t, r.pipeline.DBURL, mappingSchema)
	r.pipeline.Streams = []harness.StreamSpec{{Name: "orders", Partitions: 3}, {Name: "baskets", Partitions: 2}, {Name: "told", Partitions: 2}}
	r.mapping("new.total % new.parts")
	d := r.daemon()
	r.ready(d)
	model := newMappingModel(rand.New(rand.NewPCG(r.rand.Uint64(), 1)))
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.workload.Go(func() {
		if err := model.write(ctx, r.pipeline.DBURL); err != nil {
			t.Error(err)
		}
	})
	r.trouble = newTrouble(t)
	kills := map[string]int{}
	for r.goesOn() {
		r.published()
		if r.rand.IntN(3) == 0 {
			kills["Redis"]++
			if err := r.redis.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := r.redis.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		kills["daemon"]++
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		d = r.daemon()
	}
	r.ready(d)
	r.settle(d)
	blocked := model.compare(r.entries(), false)
	t.Logf("killed %v; %d transactions, %d keys set aside; %v", kills, len(model.history), blocked, model.made)
	if len(model.history) < leastCompared || blocked == 0 {
		t.Errorf("%d transactions and %d keys set aside: this says nothing", len(model.history), blocked)
	}
	r.report(model)

	// The rule is mended. The daemon is killed amid the retry.
	r.mapping("new.parts == 0 ? -1 : new.total % new.parts")
	d = r.daemon()
	r.ready(d)
	retry := exec.Command("walrill", "parked", "retry", "-c", r.file, "--stream", "orders", "--all", "--timeout", "1s")
	if err := retry.Start(); err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = retry.Wait() // whether it was heard or not
	d = r.daemon()
	r.ready(d)
	harness.Eventually(t, 2*patience, "nothing is set aside any more", func() bool {
		out, _ := exec.Command("walrill", "parked", "retry", "-c", r.file, "--stream", "orders", "--all").CombinedOutput()
		list, err := exec.Command("walrill", "parked", "list", "-c", r.file).CombinedOutput()
		return err == nil && strings.Contains(string(list), "nothing is set aside") || strings.Contains(string(out), "nothing")
	})
	r.settle(d)
	model.compare(r.entries(), true)
	r.report(model)
}

// mapping writes the configuration with an expression for what is paid.
func (r *rig) mapping(rest string) {
	r.t.Helper()
	text := fmt.Sprintf(mappingFile, r.pipeline.Name, r.pipeline.DBURL, r.redis.URL(), rest)
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// report says what differs, the first of it.
func (r *rig) report(m *mappingModel) {
	r.t.Helper()
	for i, problem := range m.problems {
		if i == 10 {
			r.t.Errorf("… and %d more", len(m.problems)-i)
			break
		}
		r.t.Error(problem)
	}
	m.problems = nil
}
