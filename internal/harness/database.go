package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database makes a fresh database and returns its URL. At cleanup its sessions
// are ended and its slots and itself dropped.
func Database(t testing.TB, pg *Postgres) string {
	t.Helper()
	name := fmt.Sprintf("test_%08x", rand.Uint32())
	Exec(t, pg.URL("postgres"), "CREATE DATABASE "+name)
	t.Cleanup(func() {
		if pg.Pid() == 0 {
			return // the test ended with its server down
		}
		if err := dropDatabase(pg, name); err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	return pg.URL(name)
}

// DatabaseName is the name of the database in a URL, fit for the name of a slot.
func DatabaseName(t testing.TB, dbURL string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// dropDatabase drops a database from under whoever uses it. A session that was
// told to end takes a moment, and its slot is active until then: so tell and
// try again.
func dropDatabase(pg *Postgres, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, pg.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := conn.Exec(ctx, `
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name)
		if err == nil {
			_, err = conn.Exec(ctx, `
				SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`, name)
		}
		if err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+name)
		}
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
