package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/internal/harness"
)

// keyTables are two streams of tables whose rows have a version, which only ascends.
const keyTables = `
CREATE SEQUENCE versions;
CREATE TABLE goods (id int PRIMARY KEY, version bigint NOT NULL, n int NOT NULL, note text);
ALTER TABLE goods ALTER note SET STORAGE EXTERNAL;
CREATE TABLE parts (good int, line int, version bigint NOT NULL, PRIMARY KEY (good, line));
INSERT INTO goods SELECT i, nextval('versions'), 0, repeat('good ' || i || ' ', 400) FROM generate_series(1, 200) i;
INSERT INTO parts SELECT i, j, nextval('versions') FROM generate_series(1, 50) i, generate_series(1, 4) j;`

func newKeyRig(t *testing.T) *viewRig {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	pg := harness.SharedPostgres(t, postgresVersion(t))
	r := &viewRig{T: t, source: harness.Database(t, pg), store: harness.Database(t, pg), rand: rand.New(rand.NewPCG(seed, 1)), redis: harness.NewRedis(t, harness.RedisOptions{})}
	if r.rand.IntN(2) == 0 {
		t.Log("the store is the source")
		r.store = r.source
	}
	harness.Exec(t, r.source, keyTables)
	r.file = filepath.Join(t.TempDir(), "walrill.yaml")
	text := fmt.Sprintf(`pipeline: %s
source: {url: %q}
sink: {url: %q}
streams:
  goods: {partitions: 8, tables: {goods: {}}}
  parts: {partitions: 8, tables: {parts: {key: good}}}
views:
  store: %q
  consistency: key
  workers: 4
  goods_copy: {mirror: goods}
  parts_copy: {mirror: parts}
`, harness.DatabaseName(t, r.source), r.source, r.redis.URL(), r.store)
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// keyChange is one statement. Each row that it makes or changes has a version above all before.
func keyChange(random *rand.Rand) string {
	n := func(max int) int { return 1 + random.IntN(max) }
	switch random.IntN(40) {
	case 0:
		return fmt.Sprintf("UPDATE goods SET id = id + 1000, version = nextval('versions') WHERE id = %d AND NOT EXISTS (SELECT FROM goods WHERE id = %[1]d + 1000)", n(200))
	case 1:
		return fmt.Sprintf("UPDATE goods SET id = id - 1000, version = nextval('versions') WHERE id = %d AND NOT EXISTS (SELECT FROM goods WHERE id = %[1]d - 1000)", 1000+n(200))
	case 2:
		return fmt.Sprintf("UPDATE parts SET line = line + 10, version = nextval('versions') WHERE good = %d AND line < 10 AND NOT EXISTS (SELECT FROM parts WHERE good = %[1]d AND line > 10)", n(50))
	case 3, 4:
		return fmt.Sprintf("DELETE FROM goods WHERE id = %d", n(200))
	case 5, 6, 7:
		return fmt.Sprintf("INSERT INTO goods VALUES (%d, nextval('versions'), 0, repeat('anew ', 1000)) ON CONFLICT (id) DO UPDATE SET note = excluded.note, version = nextval('versions')", n(200))
	case 8, 9:
		return fmt.Sprintf("DELETE FROM parts WHERE good = %d", n(50))
	case 10, 11, 12:
		return fmt.Sprintf("INSERT INTO parts SELECT %d, j, nextval('versions') FROM generate_series(1, 4) j ON CONFLICT (good, line) DO UPDATE SET version = nextval('versions')", n(50))
	case 13:
		if random.IntN(30) == 0 {
			return "TRUNCATE parts; INSERT INTO parts SELECT i, j, nextval('versions') FROM generate_series(1, 50) i, generate_series(1, 4) j"
		}
	}
	return fmt.Sprintf("UPDATE goods SET n = n + 1, version = nextval('versions') WHERE id BETWEEN %d AND %[1]d + %d", n(200), random.IntN(30))
}

// writeKeys runs random transactions until ctx ends.
func (r *viewRig) writeKeys(ctx context.Context, random *rand.Rand) {
	conn, err := pgx.Connect(ctx, r.source)
	if err != nil {
		r.Error(err)
		return
	}
	defer conn.Close(context.Background())
	for ctx.Err() == nil {
		sql := "BEGIN;"
		for range 1 + random.IntN(4) {
			sql += keyChange(random) + ";"
		}
		_, err := conn.PgConn().Exec(context.WithoutCancel(ctx), sql+"COMMIT").ReadAll() // or it is on its way yet when the views are compared
		var refused *pgconn.PgError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &refused) && (refused.Code == "40P01" || refused.Code == "23505"): // the other writer was in the way
			if _, err := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); err != nil && ctx.Err() == nil {
				r.Error(err)
			}
		case err != nil:
			r.Errorf("%s: %v", sql, err)
			return
		}
	}
}

// watchKeys checks at each look that no row is older than it was seen before, nor lacks its large value.
func (r *viewRig) watchKeys(ctx context.Context) {
	conn, err := pgx.Connect(ctx, r.store)
	if err != nil {
		r.Error(err)
		return
	}
	defer conn.Close(context.Background())
	seen := map[string]int64{}
	looks := 0
	for ; ctx.Err() == nil; looks++ {
		rows, err := conn.Query(ctx, "SELECT 'good ' || id, version, coalesce(length(note), 0) > 1000 FROM goods_copy UNION ALL SELECT 'part ' || good || ' ' || line, version, true FROM parts_copy")
		if err == nil {
			var key string
			var version int64
			var whole bool
			_, err = pgx.ForEachRow(rows, []any{&key, &version, &whole}, func() error {
				if version < seen[key] || !whole {
					return fmt.Errorf("at look %d %s has the version %d, and had %d before; whole: %v", looks, key, version, seen[key], whole)
				}
				seen[key] = version
				return nil
			})
		}
		if ctx.Err() == nil && err != nil {
			r.Error(err)
			return
		}
	}
	r.Logf("looked %d times", looks)
}

// Three daemons share four workers, and are killed and paused, while rows change, go, come back and move to other keys. At no look is a row
// older than it was before, and in the end both views are what the source has, each event applied once.
func TestChaosViewsByKey(t *testing.T) {
	r := newKeyRig(t)
	r.daemon("--only", "capture")
	var views [3]*harness.Program
	for i := range views {
		views[i] = r.daemon("--only", "views")
	}
	isLive := func() bool {
		return harness.Value(t, r.store, "SELECT to_regclass('walrill.workers') IS NOT NULL") == "t" &&
			harness.Value(t, r.store, "SELECT count(*) FROM walrill.views WHERE state = 'live'") == "2"
	}
	harness.Eventually(t, 2*patience, "both views are live", isLive)
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	for range 2 {
		random := rand.New(rand.NewPCG(r.rand.Uint64(), 2))
		r.work.Go(func() { r.writeKeys(ctx, random) })
	}
	r.work.Go(func() { r.watchKeys(ctx) })
	kills, pauses := 0, 0
	for r.trouble = newTrouble(t); r.goesOn(); {
		r.keysMove()
		i := r.rand.IntN(len(views))
		if r.rand.IntN(2) == 0 {
			kills++
			if err := views[i].Kill(); err != nil {
				t.Fatal(err)
			}
			views[i] = r.daemon("--only", "views")
			continue
		}
		pauses++
		r.pauseKeys(views[i])
	}
	t.Logf("killed %d times, paused %d times; opened %s times", kills, pauses, harness.Value(t, r.store, "SELECT opening FROM walrill.pipelines"))
	r.finishKeys()
}

// keysMove waits until the views have moved on a little.
func (r *viewRig) keysMove() {
	r.Helper()
	r.changes("SELECT (SELECT max(version) FROM goods_copy), (SELECT max(version) FROM parts_copy)")
}

// pauseKeys stops a daemon until others have what it had, as the server does when it hears nothing of a host for long, and wakes it then.
func (r *viewRig) pauseKeys(d *harness.Program) {
	r.Helper()
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		r.Fatal(err)
	}
	// All sessions that have a lease or lead end; those of the others begin again.
	harness.Exec(r, r.store, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'walrill views %+key'`)
	r.keysMove()
	if err := d.Signal(syscall.SIGCONT); err != nil {
		r.Fatal(err)
	}
}

// finishKeys ends the workload, waits for what it has written and compares.
func (r *viewRig) finishKeys() {
	r.Helper()
	r.stop()
	r.work.Wait()
	lsn := harness.Value(r, r.source, "SELECT pg_current_wal_lsn()")
	for _, view := range []string{"goods_copy", "parts_copy"} {
		harness.Exec(r, r.store, fmt.Sprintf("SELECT walrill.wait('%s', '%s', '60s')", view, lsn))
	}
	r.same("goods_copy", "id", "SELECT id, version, n, note FROM goods", "SELECT id, version, n, note FROM goods_copy")
	r.same("parts_copy", "good, line", "SELECT good, line, version FROM parts", "SELECT good, line, version FROM parts_copy")
	if n := harness.Value(r, r.store, "SELECT count(*) FROM walrill.parked"); n != "0" {
		r.Errorf("%s keys are parked", n)
	}
	for i, d := range r.daemons {
		if output := d.Output(); strings.Contains(output, "cannot follow any more") {
			r.Errorf("daemon %d has filled its views anew:\n%.4000s", i, output)
		}
	}
}
