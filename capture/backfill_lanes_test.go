package capture

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/internal/harness"
)

// A table that is alone is read by two connections, in ranges, some of them with rows too wide to be read at once.
// Rows that move between the ranges meanwhile are not lost, and none is read in a state that it no longer has.
func TestBackfillSideBySide(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int, part text, x text, PRIMARY KEY (part, id))`, `ALTER TABLE t ALTER x SET STORAGE EXTERNAL`,
		`INSERT INTO t SELECT i, 'p', 'old' || repeat('x', CASE WHEN i > 15000 AND i % 1000 IN (7, 8, 9) THEN 2000000 ELSE 0 END) FROM generate_series(1, 20000) i`)
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 20})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test is over
	connections := func() string {
		return harness.Value(t, url, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()`)
	}
	before, err := strconv.Atoi(connections())
	if err != nil {
		t.Fatal(err)
	}
	f.start("public.t", 0)
	harness.Eventually(t, 30*time.Second, "two readers", func() bool { return connections() == strconv.Itoa(before+2) })
	for n := 0; f.store.state("public.t").State != BackfillDone; n++ {
		_, err := conn.Exec(t.Context(), fmt.Sprintf(`UPDATE t SET id = id + 50000 WHERE id %% 500 = %[1]d AND id <= 20000; UPDATE t SET id = id - 50000 WHERE id %% 1000 = %[2]d;
			UPDATE t SET x = 'new%[1]d' WHERE id %% 500 = %[2]d; DELETE FROM t WHERE id %% 500 = %[3]d; INSERT INTO t SELECT i, 'p', 'made' FROM generate_series(1, 20000, 500) i ON CONFLICT DO NOTHING`,
			n%500, (n+7)%500, (n+11)%500))
		if err != nil {
			t.Fatal(err)
		}
	}
	harness.Exec(t, url, `INSERT INTO t VALUES (0, 'p', 'end')`)
	f.await("c 0 p end")
	rows := f.fold()
	if want := harness.Value(t, url, `SELECT string_agg(id || ' p ' || left(x, 12), ',' ORDER BY id) FROM t`); rows != want {
		t.Errorf("the stream says %.2000s\nthe table has %.2000s", rows, want)
	}
}

// fold plays what was seen, of a table whose first column is a number that tells rows apart, and lists the rows in its order.
func (f *follower) fold() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := map[int]string{}
	for _, text := range f.seen {
		op, row, _ := strings.Cut(text, " ")
		var id int
		if _, err := fmt.Sscan(row, &id); err != nil {
			f.t.Fatalf("%q: %v", text, err)
		}
		if op == "d" || op == "-" {
			delete(rows, id)
		} else {
			rows[id] = row
		}
	}
	var list []string
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, rows[id])
	}
	return strings.Join(list, ",")
}
