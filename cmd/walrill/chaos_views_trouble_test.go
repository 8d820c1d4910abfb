package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/internal/harness"
)

// A projector that is frozen keeps its session and its lock: another one ends it. What it wakes up with is refused.
func TestViewsTakeOverFromAFrozenProjector(t *testing.T) {
	r := newViewRig(t, false, nil)
	r.daemon("--only", "capture")
	frozen := r.daemon("--only", "views")
	r.live()
	other := r.daemon("--only", "views")
	r.begin()
	r.progress()
	fence := harness.Value(t, r.store, "SELECT fence FROM walrill.pipelines")
	if err := frozen.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 3*patience, "the other ends the frozen one's session and takes over", func() bool {
		return harness.Value(t, r.store, "SELECT fence FROM walrill.pipelines") != fence
	})
	if !strings.Contains(other.Output(), "does nothing although there is something to do: ending its session") {
		t.Error("the other has not said why it took over")
	}
	r.progress()
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "the one that woke up stands by", func() bool {
		return strings.Contains(frozen.Output(), "another projector keeps the views: waiting to take over")
	})
	r.progress()
	r.finish()
}

// A store that refuses connections, cuts them anywhere or stops to answer parks nothing and loses nothing.
func TestViewsStoreAway(t *testing.T) {
	var store *harness.Proxy
	r := newViewRig(t, false, func(url string) string {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		store = harness.StartProxy(t, net.JoinHostPort(config.Host, fmt.Sprint(config.Port)))
		return store.Through(url)
	})
	d := r.daemon()
	r.live()
	r.begin()
	troubles := []func(){
		func() { store.Refuse(true); store.Cut() },
		func() { store.CutRandomly(r.rand.Uint64(), 1, 200_000) },
		func() { store.Stall() },
	}
	for i := 0; r.goesOn(); i++ {
		r.progress()
		before := strings.Count(d.Output(), "the views are not kept up now; trying again")
		troubles[i%len(troubles)]()
		if i%len(troubles) == 2 {
			store.Resume()
			store.Cut()
		}
		harness.Eventually(t, patience, "the daemon notices that the store is away", func() bool {
			return strings.Count(d.Output(), "the views are not kept up now; trying again") > before
		})
		store.Refuse(false)
		store.CutNever()
	}
	r.finish()
}

// A transaction of many rows is not seen in part, whatever is looked at, and is not held in memory.
func TestViewsLargeTransaction(t *testing.T) {
	t.Parallel()
	const rows = 120_000
	pg := harness.SharedPostgres(t, postgresVersion(t))
	r := &viewRig{T: t, source: harness.Database(t, pg), store: harness.Database(t, pg), redis: harness.NewRedis(t, harness.RedisOptions{})}
	harness.Exec(t, r.source, "CREATE TABLE big (id int PRIMARY KEY, part int, amount bigint, note text)", "INSERT INTO big VALUES (0, 0, 0, '')")
	r.file = filepath.Join(t.TempDir(), "walrill.yaml")
	config := fmt.Sprintf("pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams: {big: {partitions: 3, tables: {big: {}}}}\nviews:\n  store: %q\n  copy: {mirror: big}\n"+
		"  parts: {key: part, query: \"SELECT part, count(*) AS n, sum(amount) AS amount FROM big GROUP BY part\"}\n", harness.DatabaseName(t, r.source), r.source, r.redis.URL(), r.store)
	if err := os.WriteFile(r.file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d := r.daemon()
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(d.Output())
		}
	})
	harness.Eventually(t, 2*patience, "all views are live", func() bool {
		return harness.Value(t, r.store, "SELECT to_regclass('walrill.views') IS NOT NULL") == "t" && harness.Value(t, r.store, "SELECT count(*) FROM walrill.views WHERE state = 'live'") == "2"
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]bool{}
	r.work.Go(func() { r.states(ctx, seen) })
	harness.Exec(t, r.source,
		fmt.Sprintf("INSERT INTO big SELECT i, i %% 7, 1, repeat('x', 100) FROM generate_series(1, %d) i", rows),
		"UPDATE big SET amount = amount + 1 WHERE id > 0",
		"DELETE FROM big WHERE id > 0")
	lsn := harness.Value(t, r.source, "SELECT pg_current_wal_lsn()")
	harness.Eventually(t, 4*time.Minute, "the view has all of it", func() bool {
		return harness.Try(r.store, fmt.Sprintf("SELECT walrill.wait('parts', '%s', '20s')", lsn)) == nil
	})
	cancel()
	r.work.Wait()
	allowed := map[string]bool{"1 0 1 0": true, fmt.Sprintf("%d %d %[1]d %[2]d", rows+1, rows): true, fmt.Sprintf("%d %d %[1]d %[2]d", rows+1, 2*rows): true}
	for state := range seen {
		if !allowed[state] {
			t.Errorf("at one look rows and amount of the mirror and of the query were %s", state)
		}
	}
	if len(seen) < 2 {
		t.Errorf("saw %v: this says nothing", seen)
	}
	peak, err := d.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states were seen; peak memory %d MiB", len(seen), peak>>20)
	if peak > 200<<20 && !raceDetector {
		t.Errorf("peak memory is %d MiB", peak>>20)
	}
}

// states looks at mirror and query together until ctx ends, and keeps what it sees.
func (r *viewRig) states(ctx context.Context, seen map[string]bool) {
	conn, err := pgx.Connect(ctx, r.store)
	if err != nil {
		r.Error(err)
		return
	}
	defer conn.Close(context.Background())
	for {
		var state string
		err := conn.QueryRow(ctx, "SELECT concat_ws(' ', (SELECT count(*) FROM copy), (SELECT sum(amount) FROM copy), (SELECT sum(n) FROM parts), (SELECT sum(amount) FROM parts))").Scan(&state)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.Error(err)
			return
		}
		seen[state] = true
	}
}
