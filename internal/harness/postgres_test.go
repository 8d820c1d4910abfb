package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

var versions = []int{14, 15, 16, 17, 18}

// Cleanup has to get rid of a database that somebody is still using.
func TestDatabaseOnEveryVersion(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			pg := SharedPostgres(t, version)
			var name string
			t.Run("in use", func(t *testing.T) {
				url := Database(t, pg)
				name = DatabaseName(t, url)
				if got := Value(t, url, "SHOW server_version_num"); !strings.HasPrefix(got, fmt.Sprint(version)) {
					t.Errorf("server version %s, want %d", got, version)
				}
				Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
				if got := Value(t, url, "SELECT count(*) FROM t"); got != "2" {
					t.Errorf("counted %s rows, want 2", got)
				}
				startReplication(t, url, name+"_slot")
				openSession(t, url)
			})
			left := "SELECT count(*) FROM pg_database d FULL JOIN pg_replication_slots s ON s.database = d.datname WHERE '" +
				name + "' IN (datname, database)"
			if got := Value(t, pg.URL("postgres"), left); got != "0" {
				t.Errorf("the database or its slot is left")
			}
		})
	}
}

// openSession leaves a session open.
func openSession(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// startReplication makes a slot and a walsender on it that nobody reads from.
func startReplication(t *testing.T, url, slot string) {
	t.Helper()
	Exec(t, url, "SELECT pg_create_logical_replication_slot('"+slot+"', 'test_decoding')")
	conn := openSession(t, url+"&replication=database").PgConn()
	conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION SLOT " + slot + " LOGICAL 0/0"})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ReceiveMessage(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresComesBack(t *testing.T) {
	pg := NewPostgres(t, PostgresOptions{Settings: map[string]string{"max_connections": "30", "application_name": "it's"}})
	url := Database(t, pg)
	if got := Value(t, url, "SELECT current_setting('max_connections') || current_setting('wal_level')"); got != "30logical" {
		t.Errorf("settings are %s", got)
	}
	Exec(t, url, "ALTER SYSTEM SET wal_sender_timeout = '1234ms'", "CREATE TABLE t (id serial)")
	port := pg.Port()
	for i, down := range []func() error{pg.Kill, pg.Shutdown, pg.Kill} {
		Exec(t, url, "INSERT INTO t DEFAULT VALUES")
		startReplication(t, url, fmt.Sprintf("%s_%d", DatabaseName(t, url), i)) // keeps a fast shutdown waiting
		if err := down(); err != nil {
			t.Fatal(err)
		}
		if _, err := pgx.Connect(t.Context(), url); err == nil || pg.Pid() != 0 {
			t.Fatalf("the server is down and answers: %v, process %d", err, pg.Pid())
		}
		if err := pg.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := Value(t, url, "SELECT count(*) FROM t"); got != fmt.Sprint(i+1) {
			t.Errorf("%s rows after restart %d", got, i+1)
		}
	}
	if got := Value(t, pg.SocketURL("postgres"), "SHOW wal_sender_timeout"); got != "1234ms" {
		t.Errorf("wal_sender_timeout is %s: ALTER SYSTEM does not go over the harness's settings", got)
	}
	if err := pg.Start(t.Context()); err == nil || pg.Port() != port {
		t.Errorf("started twice: %v, ports %d and %d", err, port, pg.Port())
	}
}

// A directory of one's own stays over Stop, and is taken up again, on another
// port too. Its path may be longer than that of a unix socket can be.
func TestPostgresKeepsDirectory(t *testing.T) {
	temp := t.TempDir()
	if err := os.Chmod(filepath.Dir(temp), 0o755); err != nil { // private, and we may be root
		t.Fatal(err)
	}
	o := PostgresOptions{Dir: filepath.Join(temp, strings.Repeat("long", 25))}
	for _, want := range []string{"1", "2"} {
		pg, err := StartPostgres(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		url := pg.SocketURL("postgres")
		Exec(t, url, "CREATE TABLE IF NOT EXISTS t (id serial)", "INSERT INTO t DEFAULT VALUES")
		if got := Value(t, url, "SELECT count(*) FROM t"); got != want {
			t.Errorf("%s rows, want %s", got, want)
		}
		for range 2 {
			if err := pg.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPostgresSaysWhatFails(t *testing.T) {
	for _, c := range []struct {
		name string
		o    PostgresOptions
		want string
	}{
		{"version", PostgresOptions{Version: 9}, "14 to 18"},
		{"setting", PostgresOptions{Settings: map[string]string{"wal_level": "nonsense"}}, `invalid value for parameter "wal_level"`},
		{"port", PostgresOptions{Port: NewRedis(t, RedisOptions{}).Port()}, "Address already in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			pg, err := StartPostgres(t.Context(), c.o)
			if err == nil {
				pg.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if took := time.Since(start); took > startTimeout/2 {
				t.Errorf("took %v: a server that has ended is waited for", took)
			}
		})
	}
	t.Run("override", func(t *testing.T) {
		t.Setenv("WALRILL_PG_BIN", t.TempDir())
		if _, err := StartPostgres(t.Context(), PostgresOptions{}); err == nil || !strings.Contains(err.Error(), "WALRILL_PG_BIN") {
			t.Errorf("error %v, want one that names WALRILL_PG_BIN", err)
		}
	})
}

// Nobody is held up by what another test does in its cluster.
func TestSharedPostgresIsForOneTestAtATime(t *testing.T) {
	var first *Postgres
	t.Run("one", func(t *testing.T) {
		first = SharedPostgres(t, 0)
		if SharedPostgres(t, 0) != first {
			t.Error("a test that asks again gets another cluster")
		}
		t.Run("beside", func(t *testing.T) {
			if SharedPostgres(t, 0) == first {
				t.Error("two tests at once have one cluster")
			}
		})
	})
	t.Run("next", func(t *testing.T) {
		if SharedPostgres(t, 0) != first {
			t.Error("a cluster that is free is not taken")
		}
	})
}
