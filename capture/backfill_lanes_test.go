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

// When the key's columns are renamed or retyped in the middle, the table is read anew by what they are then.
func TestBackfillSideBySideAltered(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 20000) i`)
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 50})
	f.start("public.t", 0)
	column := "id"
	for i, statement := range []string{"RENAME %s TO a", "ALTER %s TYPE bigint", "RENAME %s TO b", "ALTER %s TYPE int", "RENAME %s TO c", "ALTER %s TYPE numeric", "RENAME %s TO d", "RENAME %s TO id"} {
		harness.Eventually(t, 30*time.Second, "rows of "+column, func() bool {
			s := f.store.state("public.t")
			if s.State == BackfillFailed {
				t.Fatalf("before change %d: %s", i, s.Error)
			}
			return s.State == BackfillRunning && len(s.After) > 0 && slices.Equal(s.Key, []string{column})
		})
		harness.Exec(t, url, "ALTER TABLE t "+fmt.Sprintf(statement, column))
		if _, to, ok := strings.Cut(statement, " TO "); ok {
			column = to
		}
	}
	harness.Eventually(t, 60*time.Second, "all rows", func() bool {
		s := f.store.state("public.t")
		if s.State == BackfillFailed {
			t.Fatal(s.Error)
		}
		return s.State == BackfillDone
	})
	harness.Exec(t, url, `INSERT INTO t VALUES (0, 'end')`)
	f.await("c 0 end")
	if rows, want := f.fold(), harness.Value(t, url, `SELECT string_agg(id || ' ' || x, ',' ORDER BY id) FROM t`); rows != want {
		t.Errorf("the stream says %.2000s\nthe table has %.2000s", rows, want)
	}
}

// A table that is locked keeps no other from being read: its second connection's place is for the other. When it was read side by side and
// is asked for once more, or it is cancelled, no place is lost and no connection left.
func TestBackfillLockedSideBySide(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 60000) i`,
		`CREATE TABLE other (id int PRIMARY KEY)`, `INSERT INTO other VALUES (1)`, `CREATE TABLE third (id int PRIMARY KEY)`, `INSERT INTO third VALUES (1)`)
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 50})
	readers := func() string {
		return harness.Value(t, url, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'walrill%'`)
	}
	before := readers()
	for i := range 3 {
		f.start("public.t", 0)
		harness.Eventually(t, 30*time.Second, "two readers", func() bool {
			n, err := strconv.Atoi(before)
			return err == nil && readers() == strconv.Itoa(n+2)
		})
		lock, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Exec(t.Context(), `BEGIN; LOCK TABLE t`); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, 30*time.Second, "one that waits for the lock", func() bool {
			return harness.Value(t, url, `SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted`) != "0"
		})
		for _, name := range []string{"public.other", "public.third"} {
			started := f.store.state(name).Request
			f.start(name, 0)
			harness.Eventually(t, 30*time.Second, name+" to be read", func() bool {
				s := f.store.state(name)
				return s.State == BackfillDone && s.Request != started
			})
		}
		if i == 1 { // asked for anew while the readers wait
			f.start("public.t", 0)
			request := func() string {
				f.store.mu.Lock()
				defer f.store.mu.Unlock()
				return f.store.records["public.t"].Request.ID
			}()
			harness.Eventually(t, 30*time.Second, "the new request", func() bool { return f.store.state("public.t").Request == request })
		}
		if i == 2 {
			f.store.mu.Lock()
			r := f.store.records["public.t"]
			r.Request = &BackfillRequest{ID: "cancel", Action: "cancel"}
			f.store.records["public.t"] = r
			f.store.mu.Unlock()
			harness.Eventually(t, 30*time.Second, "cancelled", func() bool { return f.store.state("public.t").State == BackfillCancelled })
		}
		if err := lock.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			f.awaitDone("public.t")
		}
		harness.Eventually(t, 30*time.Second, "all readers gone", func() bool { return readers() == before && len(f.stream.backfills.places.taken) == 0 })
		core := f.stream.backfills.core
		core.mu.Lock()
		if len(core.windows) > 0 || len(core.tables) > 0 {
			t.Errorf("%d windows and %d tables are left", len(core.windows), len(core.tables))
		}
		core.mu.Unlock()
	}
}

// A role that may have no more connections has its tables read by one.
func TestBackfillConnectionLimit(t *testing.T) {
	roles := harness.DatabaseWithRoles(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, roles.Owner, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 3000) i`)
	f := follow(t, roles.Daemon, newStore(), BackfillOptions{ChunkRows: 50})
	harness.Exec(t, roles.Admin, `DO $$ BEGIN EXECUTE format('ALTER ROLE %I CONNECTION LIMIT %s', current_database() || '_daemon',
		(SELECT count(*) + 1 FROM pg_stat_activity WHERE usename = current_database() || '_daemon')); END $$`)
	f.start("public.t", 0)
	f.awaitDone("public.t")
	if n := f.store.state("public.t").Rows; n != 3000 {
		t.Errorf("%d rows", n)
	}
}
