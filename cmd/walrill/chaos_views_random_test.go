package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/internal/harness"
)

// randomTables refer to each other without constraints, so that a row may be there before the one that it refers to, and after.
const randomTables = `
CREATE TABLE regions (id int PRIMARY KEY, name text, parent int);
CREATE TABLE shops (id int PRIMARY KEY, region int, name text);
CREATE TABLE sales (id int PRIMARY KEY, shop int, item int, qty int, price numeric(8,2), note text);
CREATE TABLE items (id int PRIMARY KEY, kind text, weight int);
ALTER TABLE sales ALTER note SET STORAGE EXTERNAL;`

// randomQueries are joins of all kinds; what each must give, the same SQL on the source says.
var randomQueries = []struct{ name, key, query string }{
	{"inner_join", "id", "SELECT s.id, i.kind, s.qty * i.weight AS weight FROM sales s JOIN items i ON i.id = s.item"},
	{"left_join", "id", "SELECT h.id, h.name, r.name AS region FROM shops h LEFT JOIN regions r ON r.id = h.region"},
	{"right_join", "id", "SELECT i.id, count(s.id) AS n FROM sales s RIGHT JOIN items i ON i.id = s.item GROUP BY i.id"},
	{"extremes", "shop", "SELECT h.id AS shop, min(s.price) AS low, max(s.price) AS high, count(DISTINCT s.item) AS kinds FROM shops h LEFT JOIN sales s ON s.shop = h.id AND s.qty > 0 GROUP BY h.id"},
	{"three", "shop", "SELECT h.id AS shop, sum(s.qty * i.weight) AS weight, string_agg(i.kind, ',' ORDER BY i.kind, s.id) AS kinds FROM shops h JOIN sales s ON s.shop = h.id LEFT JOIN items i ON i.id = s.item GROUP BY h.id"},
	{"far", "region", "SELECT r.id AS region, r.name, count(s.id) AS n, sum(s.price) AS worth FROM regions r LEFT JOIN shops h ON h.region = r.id LEFT JOIN sales s ON s.shop = h.id GROUP BY r.id"},
	{"parents", "id", "SELECT c.id, p.name AS parent FROM regions c LEFT JOIN regions p ON p.id = c.parent"},
	{"busy", "shop", "SELECT shop, count(*) AS n FROM sales GROUP BY shop HAVING count(*) > 2"},
	{"pair", "shop, item", "SELECT s.shop, s.item, sum(s.qty) AS qty FROM sales s GROUP BY s.shop, s.item"},
	{"long", "id", "SELECT s.id, length(s.note) AS length, left(s.note, 5) AS note FROM sales s WHERE s.qty <> 1"},
}

// randomStatement changes a row or some.
func randomStatement(random *rand.Rand) string {
	n := func(max int) int { return 1 + random.IntN(max) }
	null := func(text string) string {
		if random.IntN(8) == 0 {
			return "NULL"
		}
		return text
	}
	switch random.IntN(14) {
	case 0, 1, 2:
		return fmt.Sprintf("INSERT INTO sales VALUES (%d, %s, %s, %d, %d.5, repeat('%c', 3000)) ON CONFLICT (id) DO UPDATE SET price = excluded.price", n(40), null(fmt.Sprint(n(8))), null(fmt.Sprint(n(6))), random.IntN(4), n(90), 'a'+random.IntN(26))
	case 3, 4:
		return fmt.Sprintf("UPDATE sales SET shop = %s, qty = %d WHERE id = %d", null(fmt.Sprint(n(8))), random.IntN(4), n(40))
	case 5:
		return fmt.Sprintf("UPDATE sales SET item = %d WHERE item = %d", n(6), n(6))
	case 6:
		return fmt.Sprintf("UPDATE sales SET id = id + 100 WHERE id = %d; UPDATE sales SET id = id - 100 WHERE id = %d", n(40), 100+n(40))
	case 7:
		return fmt.Sprintf("DELETE FROM sales WHERE id %% 10 = %d", random.IntN(10))
	case 8:
		return fmt.Sprintf("INSERT INTO shops VALUES (%d, %s, 'shop %d') ON CONFLICT (id) DO UPDATE SET region = excluded.region", n(8), null(fmt.Sprint(n(4))), n(99))
	case 9:
		return fmt.Sprintf("DELETE FROM shops WHERE id = %d", n(8))
	case 10:
		return fmt.Sprintf("INSERT INTO items VALUES (%d, 'kind %d', %s) ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, weight = excluded.weight", n(6), n(5), null(fmt.Sprint(n(9))))
	case 11:
		return fmt.Sprintf("DELETE FROM items WHERE id = %d", n(6))
	case 12:
		return fmt.Sprintf("INSERT INTO regions VALUES (%d, 'region %d', %s) ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, name = excluded.name", n(4), n(50), null(fmt.Sprint(n(4))))
	}
	if random.IntN(6) == 0 {
		return "TRUNCATE sales"
	}
	return fmt.Sprintf("DELETE FROM regions WHERE id = %d", n(4))
}

// Three sessions run random transactions whose statements are interleaved in an order that the seed gives. After each round every
// view is what its query gives on the source.
func TestViewsRandomInterleavings(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	pg := harness.SharedPostgres(t, postgresVersion(t))
	r := &viewRig{T: t, source: harness.Database(t, pg), store: harness.Database(t, pg), redis: harness.NewRedis(t, harness.RedisOptions{})}
	harness.Exec(t, r.source, randomTables)
	r.file = filepath.Join(t.TempDir(), "walrill.yaml")
	var b strings.Builder
	fmt.Fprintf(&b, "pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams: {all: {partitions: 4, tables: {regions: {}, shops: {}, sales: {}, items: {}}}}\nviews:\n  store: %q\n",
		harness.DatabaseName(t, r.source), r.source, r.redis.URL(), r.store)
	for _, v := range randomQueries {
		fmt.Fprintf(&b, "  %s: {key: [%s], query: %q}\n", v.name, v.key, v.query)
	}
	if err := os.WriteFile(r.file, []byte(b.String()), 0o600); err != nil {
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
		return harness.Value(t, r.store, "SELECT to_regclass('walrill.views') IS NOT NULL") == "t" &&
			harness.Value(t, r.store, "SELECT count(*) FROM walrill.views WHERE state = 'live'") == fmt.Sprint(len(randomQueries))
	})
	var sessions []*pgx.Conn
	for range 3 {
		conn, err := pgx.Connect(t.Context(), r.source)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		sessions = append(sessions, conn)
	}
	rounds := 0
	for trouble := newTrouble(t); trouble.goesOn(); rounds++ {
		commits := interleave(t, sessions, random)
		lsn := harness.Value(t, r.source, "SELECT pg_current_wal_lsn()")
		for _, v := range randomQueries {
			harness.Exec(t, r.store, fmt.Sprintf("SELECT walrill.wait('%s', '%s', '60s')", v.name, lsn))
			// A row whose key is NULL is left out.
			known := strings.ReplaceAll(v.key, ", ", " IS NOT NULL AND ") + " IS NOT NULL"
			r.same(v.name, v.key, "SELECT * FROM ("+v.query+") q WHERE "+known, "SELECT * FROM "+v.name)
		}
		if t.Failed() {
			t.Logf("in round %d, after %d commits", rounds, commits)
		}
	}
	t.Logf("%d rounds", rounds)
}

// interleave runs the statements of some transactions in a random order. One that would have to wait for another is given up.
func interleave(t *testing.T, sessions []*pgx.Conn, random *rand.Rand) (commits int) {
	t.Helper()
	run := func(i int, sql string) error {
		_, err := sessions[i].PgConn().Exec(t.Context(), sql).ReadAll()
		return err
	}
	open := make([]bool, len(sessions))
	for range 30 {
		i := random.IntN(len(sessions))
		var err error
		switch {
		case !open[i]:
			err = run(i, "BEGIN; SET LOCAL lock_timeout = '20ms'")
			open[i] = true
		case random.IntN(4) == 0:
			err = run(i, "COMMIT")
			open[i] = false
			commits++
		default:
			if err = run(i, randomStatement(random)); err != nil {
				err = run(i, "ROLLBACK")
				open[i] = false
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range sessions {
		if open[i] {
			if err := run(i, "COMMIT"); err != nil {
				t.Fatal(err)
			}
			commits++
		}
	}
	return commits
}
