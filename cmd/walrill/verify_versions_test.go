package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/internal/harness"
)

// Values are equal on both sides when source and store are of different versions, and the store lacks the source's types. A row that
// differs is found in any column.
func TestVerifyAcrossVersions(t *testing.T) {
	t.Parallel()
	for _, versions := range [][2]int{{14, 18}, {18, 14}} {
		t.Run(fmt.Sprint(versions), func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile("testdata/script/verify.txtar")
			if err != nil {
				t.Fatal(err)
			}
			_, schema, _ := strings.Cut(string(script), "-- schema.sql --\n")
			schema, _, _ = strings.Cut(schema, "\n-- ")
			r := &viewRig{T: t, source: harness.Database(t, harness.SharedPostgres(t, versions[0])), store: harness.Database(t, harness.SharedPostgres(t, versions[1])), redis: harness.NewRedis(t, harness.RedisOptions{})}
			harness.Exec(t, r.source, schema)
			r.file = filepath.Join(t.TempDir(), "walrill.yaml")
			config := fmt.Sprintf("pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams: {s: {tables: {everything: {}}}}\nviews:\n  store: %q\n  everything: {mirror: everything}\n"+
				"  kinds: {key: id, query: \"SELECT id, e, d, j, at, lower(id) AS low FROM everything\"}\n", harness.DatabaseName(t, r.source), r.source, r.redis.URL(), r.store)
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
			if found := differences(r.verify()); len(found) > 0 {
				t.Fatalf("found %q, and nothing is wrong", found)
			}
			harness.Exec(t, r.store, "CREATE TABLE saved AS SELECT * FROM everything")
			for _, column := range strings.Split(harness.Value(t, r.store, "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'everything'::regclass AND attnum > 1"), ",") {
				quoted := pgx.Identifier{column}.Sanitize()
				harness.Exec(t, r.store, fmt.Sprintf("UPDATE everything SET %s = (SELECT %[1]s FROM everything WHERE id = 'B') WHERE id = 'a'", quoted))
				wanted := `everything {"id":"a"} differs`
				list := r.verify("everything")
				if found := differences(list); len(found) != 1 || found[0] != wanted {
					t.Errorf("column %s is spoilt: found %q", column, found)
				}
				harness.Exec(t, r.store, fmt.Sprintf("UPDATE everything e SET %s = s.%[1]s FROM saved s WHERE s.id = e.id AND e.id = 'a'", quoted))
			}
		})
	}
}
