package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/internal/harness"
)

// bare is a table without any key whose changes carry whole rows, and how to fill it: some rows a block, values in TOAST.
var bare = []string{
	`CREATE TABLE t (id int, x text, big text)`, `ALTER TABLE t REPLICA IDENTITY FULL`, `ALTER TABLE t ALTER big SET STORAGE EXTERNAL`,
	`INSERT INTO t SELECT i, 'old', repeat('big' || i || ' ', 1000) FROM generate_series(1, 600) i`,
}

// sequence is what the stream said of a row, in order, without its last column.
func (f *follower) sequence(id int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, s := range f.seen {
		words := strings.Fields(s)
		if len(words) > 2 && words[1] == fmt.Sprint(id) {
			list = append(list, words[0]+" "+words[2])
		}
	}
	return list
}

// Race (a) for a table without a key: a change that was delivered and that nobody sees yet.
func TestBackfillKeylessInvisibleTransaction(t *testing.T) {
	url := ghost(t)
	for _, sql := range bare {
		harness.Exec(t, url, local+sql)
	}
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 20})
	f.start("public.t", 100)
	f.await("r 1 old big1 big1 bi")
	release := commitHidden(t, url, "UPDATE t SET x = 'new' WHERE id = 500")
	f.await("u 500 new big500 big50")
	f.awaitWaits("public.t", "not visible yet")
	if f.has("r 500 old big500 big50") {
		t.Fatalf("row 500 was read stale: %q", f.sequence(500))
	}
	release()
	f.awaitDone("public.t")
	if got := f.sequence(500); slices.Contains(got, "r old") {
		t.Errorf("row 500 was read stale: %q", got)
	}
}

// Races (b) and (c) for a table without a key: rows that an earlier session's transaction changes are not read before it
// has ended; and rows that move from blocks that are still to be read to such that were, with values in TOAST, come whole.
func TestBackfillKeylessRowsThatMove(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, bare...)
	harness.Exec(t, url, `DELETE FROM t WHERE id <= 200`, `VACUUM t`) // room at the beginning
	store := newStore()
	follow(t, url, store, BackfillOptions{}).end()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test is over
	if _, err := conn.Exec(t.Context(), "BEGIN; UPDATE t SET x = 'new' WHERE id = 201"); err != nil {
		t.Fatal(err)
	}
	f := follow(t, url, store, BackfillOptions{ChunkRows: 20})
	f.start("public.t", 200)
	f.awaitWaits("public.t", "to end")
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	f.await("r 205 old big205 big20")
	harness.Exec(t, url, `UPDATE t SET x = 'moved' WHERE id > 580`)
	f.awaitDone("public.t")
	for id := 201; id <= 600; id++ {
		got := f.sequence(id)
		switch {
		case len(got) == 0:
			t.Errorf("row %d is missing", id)
		case id == 201 && slices.Contains(got, "r old"):
			t.Errorf("row 201 was read stale: %q", got)
		case id > 580 && slices.Index(got, "r old") > slices.Index(got, "u moved"):
			t.Errorf("row %d was read stale: %q", id, got)
		case id > 580 && !f.has(fmt.Sprintf("u %d moved big%[1]d big%[1]d", id)[:len("u 600 moved big600 big60")]):
			t.Errorf("row %d came without its toasted value", id)
		}
	}
}

// Race (d): the table is rewritten while it is read, so that rows that are still to be read are where others were.
func TestBackfillKeylessRewritten(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, bare...)
	harness.Exec(t, url, `CREATE INDEX t_down ON t ((-id))`)
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 20})
	f.start("public.t", 300)
	f.await("r 100 old big100 big10")
	harness.Exec(t, url, `CLUSTER t USING t_down`) // the last come first: they would never be read
	f.await("r 600 old big600 big60")
	harness.Exec(t, url, `DELETE FROM t WHERE id BETWEEN 301 AND 400`, `VACUUM FULL t`)
	f.awaitDone("public.t")
	for id := 1; id <= 600; id++ {
		got := f.sequence(id)
		deleted := id > 300 && id <= 400
		switch {
		case len(got) == 0:
			t.Errorf("row %d is missing", id)
		case deleted && got[len(got)-1] != "d old":
			t.Errorf("row %d came after its delete: %q", id, got)
		}
	}
}

// A table that changes its replica identity while it is read is begun again by its new key; without one that will do,
// it is refused.
func TestBackfillKeylessIdentity(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, bare...)
	harness.Exec(t, url, `CREATE TABLE odd (id int NOT NULL, x text)`, `CREATE UNIQUE INDEX odd_id ON odd (id) INCLUDE (x)`,
		`CREATE UNIQUE INDEX odd_text ON odd (x text_pattern_ops)`, `ALTER TABLE odd ALTER x SET NOT NULL`, `ALTER TABLE odd REPLICA IDENTITY USING INDEX odd_text`)
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 20})
	f.start("public.odd", 0)
	f.start("public.t", 300)
	f.await("r 100 old big100 big10")
	harness.Exec(t, url, `ALTER TABLE t ADD PRIMARY KEY (id)`, `ALTER TABLE t REPLICA IDENTITY DEFAULT`, `UPDATE t SET x = 'new' WHERE id = 600`)
	f.awaitDone("public.t")
	if state := f.store.state("public.t"); !slices.Equal(state.Key, []string{"id"}) {
		t.Errorf("the table was read to its end by %v", state.Key)
	}
	if got := f.sequence(600); !slices.Contains(got, "r new") {
		t.Errorf("row 600 was %q", got)
	}
	harness.Eventually(t, 20*time.Second, "the odd table has failed", func() bool {
		return strings.Contains(f.store.state("public.odd").Error, "REPLICA IDENTITY FULL")
	})
}

// Partitions that come and go while their table is read, with a key and without.
func TestBackfillPartitionsComeAndGo(t *testing.T) {
	for name, key := range map[string]string{"key": "PRIMARY KEY", "none": ""} {
		t.Run(name, func(t *testing.T) {
			url := harness.Database(t, harness.SharedPostgres(t, 0))
			harness.Exec(t, url, fmt.Sprintf(`CREATE TABLE late (id int %s, x text)`, key), `INSERT INTO late SELECT i, 'x' FROM generate_series(1, 50) i`,
				fmt.Sprintf(`CREATE TABLE t (id int %s, x text) PARTITION BY RANGE (id)`, key),
				`CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (101) TO (201)`, `CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (201) TO (301)`,
				`CREATE TABLE t_3 PARTITION OF t FOR VALUES FROM (301) TO (401)`, `INSERT INTO t SELECT i, 'x' FROM generate_series(101, 400) i`)
			if key == "" {
				harness.Exec(t, url, `ALTER TABLE t REPLICA IDENTITY FULL`, `ALTER TABLE t_1 REPLICA IDENTITY FULL`, `ALTER TABLE t_2 REPLICA IDENTITY FULL`,
					`ALTER TABLE t_3 REPLICA IDENTITY FULL`, `ALTER TABLE late REPLICA IDENTITY FULL`)
			}
			f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 10})
			f.start("public.t", 100)
			f.await("r 150 x")
			harness.Exec(t, url, `ALTER TABLE t ATTACH PARTITION late FOR VALUES FROM (1) TO (101)`, `ALTER TABLE t DETACH PARTITION t_3`, `DROP TABLE t_3`,
				`INSERT INTO t VALUES (51, 'x')`)
			f.awaitDone("public.t")
			for id := 1; id <= 300; id++ {
				if !f.has(fmt.Sprintf("r %d x", id)) && !f.has(fmt.Sprintf("c %d x", id)) && (id <= 51 || id > 100) {
					t.Errorf("row %d is missing", id)
				}
			}
			if f.has("r 301 x") {
				t.Error("a partition was read that was gone")
			}
		})
	}
}
