package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// fillTables puts rows into the tables of the workload, with values in TOAST.
var fillTables = []string{
	`INSERT INTO wl_plain SELECT i, i % 7, 'row ' || i FROM generate_series(1, 2000) i`,
	`INSERT INTO wl_pair SELECT r, i, i * 0.125 FROM generate_series(1, 400) i, unnest(ARRAY['north', 'a/b', '50%', '%2F', '/', '']) r`,
	`INSERT INTO wl_wide (id, n, body, amount, tags) SELECT i, i, repeat('wide ' || i, 600), i / 8.0, ARRAY['a', NULL] FROM generate_series(1, 2000) i`,
	`INSERT INTO wl_whole SELECT i, 'kind', repeat('whole ' || i, 600) FROM generate_series(1, 2000) i`,
}

// A backfill in tiny chunks while a workload changes, moves and deletes the same
// rows and the daemon is killed at random moments. No row may be read stale, come
// back after its delete or be missing in the end.
func TestChaosBackfill(t *testing.T) {
	r := newRig(t, rigOptions{backfill: fillTables})
	r.workers.Keys, r.workers.NoTruncate = 2000, true
	backfillChaos(r)
}

// The same with a TRUNCATE now and then.
func TestChaosBackfillTruncate(t *testing.T) {
	r := newRig(t, rigOptions{backfill: fillTables})
	r.workers.Keys = 2000
	backfillChaos(r)
}

// The same with a table that Postgres has no key for, which is rewritten now and then. Its unique index
// is none that rows could be read by, since it takes NULLs, but lets the workload and the comparison tell rows apart.
func TestChaosBackfillKeyless(t *testing.T) {
	r := newRig(t, rigOptions{backfill: slices.Concat(fillTables, []string{`ALTER TABLE wl_whole DROP CONSTRAINT wl_whole_pkey`,
		`ALTER TABLE wl_whole ALTER id DROP NOT NULL`, `CREATE UNIQUE INDEX wl_whole_id ON wl_whole (id)`})})
	r.workers.Keys, r.workers.NoTruncate = 2000, true
	r.rewrite = true
	backfillChaos(r)
}

func backfillChaos(r *rig) {
	r.t.Helper()
	// With places for all tables and more, each is read side by side.
	r.flags = []string{"--backfill-chunk", "17", "--backfill-readers", strconv.Itoa(2 + r.rand.IntN(7))}
	r.workers.Pause = 2 * time.Millisecond
	d := r.begin()
	kills := 0
	for ; r.goesOn(); kills++ {
		for range 1 + r.rand.IntN(4) {
			r.published()
		}
		if r.rewrite && r.rand.IntN(4) == 0 {
			harness.Exec(r.t, r.pipeline.DBURL, `VACUUM FULL wl_whole`)
		}
		if err := d.Kill(); err != nil {
			r.t.Fatal(err)
		}
		d = r.daemon()
	}
	harness.Eventually(r.t, 2*patience, "every table is backfilled", func() bool { return r.backfilled() == 4 })
	r.t.Logf("killed %d times", kills)
	r.finish(d)
}

// backfilled is how many tables are done.
func (r *rig) backfilled() int {
	r.t.Helper()
	done := 0
	r.askRedis(func(ctx context.Context, client *redis.Client) error {
		fields, err := client.HGetAll(ctx, event.BackfillKey(r.pipeline.Name)).Result()
		for _, text := range fields {
			var b event.Backfill
			if err := json.Unmarshal([]byte(text), &b); err != nil {
				return err
			}
			if b.State == "done" {
				done++
			}
		}
		return err
	})
	return done
}

// Two daemons, and tables that are backfilled all the while. The one that was paused wakes up with rows that only it has
// read, when the other has read others.
func TestChaosBackfillTwoDaemons(t *testing.T) {
	r := newRig(t, rigOptions{backfill: fillTables})
	r.workers.Keys, r.workers.NoTruncate, r.workers.Pause = 2000, true, 2*time.Millisecond
	r.flags = []string{"--backfill-chunk", "50"}
	harness.Exec(t, r.pipeline.DBURL, "ALTER DATABASE "+r.pipeline.Name+" SET wal_sender_timeout = '500ms'")
	active := r.begin()
	standby := r.daemon()
	pauses := 0
	for ; r.goesOn(); pauses++ {
		r.published()
		if err := active.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		r.ready(standby)
		r.published()
		if err := active.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		active, standby = standby, active
		r.againBackfill()
	}
	t.Logf("paused %d times", pauses)
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	r.ready(active)
	harness.Eventually(t, 2*patience, "every table is backfilled", func() bool { return r.backfilled() == 4 })
	r.finish(active)
}

// againBackfill asks for a backfill of a table, so that there is one always.
func (r *rig) againBackfill() {
	r.t.Helper()
	table := harness.WorkloadTables[r.rand.IntN(4)]
	text, err := json.Marshal(event.BackfillRequest{ID: rand.Text(), Action: "start", At: time.Now()})
	if err != nil {
		r.t.Fatal(err)
	}
	r.askRedis(func(ctx context.Context, client *redis.Client) error {
		return client.HSet(ctx, event.BackfillKey(r.pipeline.Name), event.BackfillRequestField(table), text).Err()
	})
}
