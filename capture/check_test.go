package capture

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walrill/walrill/internal/harness"
)

// finding is the first finding about a subject that is not ok.
func finding(t *testing.T, d *Diagnosis, subject string) Finding {
	t.Helper()
	for _, f := range d.Findings {
		if f.Subject == subject && f.Level != LevelOK {
			return f
		}
	}
	t.Fatalf("nothing was found about %s: %v", subject, d.Findings)
	return Finding{}
}

func TestCheckPgHBA(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresOptions{})
	db := pg.URL("postgres")
	harness.Exec(t, db, `CREATE TABLE a (id int PRIMARY KEY)`, `CREATE ROLE r LOGIN REPLICATION`)
	if err := os.WriteFile(filepath.Join(pg.Dir(), "data", "pg_hba.conf"), []byte("host all postgres 127.0.0.1/32 trust\nlocal all all trust\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Exec(t, db, `SELECT pg_reload_conf()`)
	source := newTestSource(t, harness.As(t, db, "r"), "shop")
	var d *Diagnosis
	harness.Eventually(t, 30*time.Second, "the new pg_hba.conf counts", func() bool {
		d = source.Check(t.Context())
		return !d.Asked
	})
	if f := finding(t, d, "Postgres"); f.Level != LevelError || !strings.HasPrefix(f.Fix, "echo 'host postgres r 127.0.0.1/32 scram-sha-256' >> pg_hba.conf ") {
		t.Errorf("got %+v, want the line for pg_hba.conf", f)
	}
}

// What becomes of the slot when a standby takes over depends on the version.
func TestCheckFailover(t *testing.T) {
	for version, want := range map[int]string{15: "a standby that is promoted does not have the slot", 17: "(FAILOVER true)"} {
		pg := harness.NewPostgres(t, harness.PostgresOptions{Version: version})
		db := pg.URL("postgres")
		harness.Exec(t, db, `CREATE TABLE a (id int PRIMARY KEY)`,
			`SELECT pg_create_logical_replication_slot('walrill_shop', 'pgoutput')`, `SELECT pg_create_physical_replication_slot('standby')`)
		source := newTestSource(t, db, "shop")
		source.opts.Slot = "walrill_shop"
		f := finding(t, source.Check(t.Context()), "slot walrill_shop")
		if f.Level != LevelWarning || !strings.Contains(f.Finding+f.Fix, want) {
			t.Errorf("Postgres %d: got %+v, want %q in it", version, f, want)
		}
	}
}
