package capture

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// Rows that a partition had when it was attached are not published when its table was read before. That is said once, and of no other partition.
func TestBackfillAttachedLater(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (10)`,
		`CREATE TABLE early (id int PRIMARY KEY)`, `ALTER TABLE t ATTACH PARTITION early FOR VALUES FROM (10) TO (20)`, `INSERT INTO t VALUES (1), (10)`,
		`CREATE TABLE late (id int PRIMARY KEY)`, `INSERT INTO late VALUES (20)`,
		`CREATE TABLE tree (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE leaf PARTITION OF tree FOR VALUES FROM (30) TO (40)`)
	store := newStore()
	f := follow(t, url, store, BackfillOptions{Initial: true, ChunkRows: 10})
	f.awaitDone("public.t")
	f.end()
	var log bytes.Buffer
	f.source.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
	refresh := func() string {
		t.Helper()
		log.Reset()
		if err := f.source.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	if said := refresh(); said != "" {
		t.Errorf("it says %q", said)
	}
	harness.Exec(t, url, `ALTER TABLE t ATTACH PARTITION late FOR VALUES FROM (20) TO (30)`, `ALTER TABLE t ATTACH PARTITION tree FOR VALUES FROM (30) TO (50)`,
		`CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (50) TO (60)`, `CREATE TABLE leaf_2 PARTITION OF tree FOR VALUES FROM (40) TO (50)`, `INSERT INTO t VALUES (40), (50)`)
	said := refresh()
	for name, want := range map[string]int{"partition=public.late ": 1, "partition=public.leaf ": 1, "partition=": 2, `fix="walrill backfill start public.t"`: 2} {
		if got := strings.Count(said, name); got != want {
			t.Errorf("%d times %q in %q, want %d", got, name, said, want)
		}
	}
	if said := refresh(); said != "" {
		t.Errorf("it says once more %q", said)
	}
}
