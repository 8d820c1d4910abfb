package capture

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

func TestPreparePublicationFollowsTheTables(t *testing.T) {
	db := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, db, `CREATE TABLE a (id int PRIMARY KEY)`, `CREATE TABLE "B ""x" (id int PRIMARY KEY)`,
		`CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)`)
	source := newTestSource(t, db, harness.DatabaseName(t, db))
	published := func() string {
		return harness.Value(t, db, `SELECT coalesce(string_agg(tablename, ',' ORDER BY tablename COLLATE "C"), '') FROM pg_publication_tables`)
	}
	for _, step := range []struct {
		wanted []string
		want   string
	}{
		{[]string{"a"}, `a`},
		{[]string{"a", `B "x`, "p", "p1"}, `B "x,a,p`}, // p publishes for p1
		{[]string{`B "x`}, `B "x`},
		{[]string{"a", "p1"}, `a,p1`},
	} {
		source.opts.Wanted = func(rel *change.Relation) (bool, error) { return slices.Contains(step.wanted, rel.Name), nil }
		if _, err := source.Prepare(t.Context(), Known{}); err != nil {
			t.Fatal(err)
		}
		if got := published(); got != step.want {
			t.Errorf("wanted %q: publication has %s, want %s", step.wanted, got, step.want)
		}
	}
}

func TestPrepareErrorsNameTheFix(t *testing.T) {
	pg := harness.SharedPostgres(t, 0)
	db := harness.Database(t, pg)
	name := harness.DatabaseName(t, db)
	harness.Exec(t, db, `CREATE TABLE t (id int PRIMARY KEY)`, `CREATE ROLE `+name+` LOGIN`, `CREATE ROLE `+name+`_r LOGIN REPLICATION`)
	t.Cleanup(func() { harness.Exec(t, pg.URL("postgres"), `DROP ROLE `+name, `DROP ROLE `+name+`_r`) })
	as := func(user string) string { return harness.As(t, db, user) }
	for _, c := range []struct{ what, url, want string }{
		{"no such database", pg.URL("nowhere"), " nowhere   # or correct"},
		{"no right to replicate", as(name), "REPLICATION"},
		{"not the owner", as(name + "_r"), "CREATE PUBLICATION"},
		{"no such role", as("nobody_" + name), "user and password"},
	} {
		_, err := newTestSource(t, c.url, name).Prepare(t.Context(), Known{})
		var setup *SetupError
		if !errors.As(err, &setup) || !strings.Contains(setup.Fix, c.want) {
			t.Errorf("%s: got %v, want a SetupError whose fix has %q", c.what, err, c.want)
			continue
		}
		if said, _, _ := strings.Cut(err.Error(), "\n  fix: "); strings.ContainsAny(said, "\n\t") || strings.Contains(said, "tls error") {
			t.Errorf("%s: %q is not one line that says each thing once", c.what, said)
		}
	}
	source := newTestSource(t, db, name)
	source.opts.Wanted = func(*change.Relation) (bool, error) { return false, nil }
	if _, err := source.Prepare(t.Context(), Known{}); err == nil || !strings.Contains(err.Error(), "no table") {
		t.Errorf("no table: got %v", err)
	}
}

func TestNobodyThereIsSaidOnce(t *testing.T) {
	source := newTestSource(t, "postgres://nobody@127.0.0.1:1/shop", "x")
	_, err := source.Prepare(t.Context(), Known{})
	want := "connect to Postgres: failed to connect to `user=nobody database=shop`: 127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	found := source.Check(t.Context()).Findings
	if len(found) != 1 || found[0].Finding != want || !strings.HasPrefix(found[0].Fix, "pg_isready -h 127.0.0.1 -p 1 ") {
		t.Errorf("check found %+v, want %q", found, want)
	}
}
