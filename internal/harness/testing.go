package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// shared are the clusters of this test binary, by version: starting one takes a
// second, so tests share it and have a database each. This is the package's only
// state: a test binary has no other place that outlives its tests.
var shared struct {
	sync.Mutex
	clusters map[int]*sharedCluster
}

type sharedCluster struct {
	once sync.Once
	pg   *Postgres
	err  error
}

// Main runs the tests, stops every shared server and exits. Call it from TestMain.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for a TestMain that does not end with it: it returns the exit code.
func Run(m *testing.M) int {
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	var errs []error
	for _, c := range shared.clusters {
		if c.pg != nil {
			errs = append(errs, c.pg.Stop())
		}
	}
	clear(shared.clusters)
	return errors.Join(errs...)
}

// SharedPostgres is the test binary's cluster of a major version (0 means
// DefaultVersion), started by the first test that asks. Slots are the whole
// cluster's, so name them after the database. Tests that stop or reconfigure a
// server start their own with NewPostgres.
func SharedPostgres(t testing.TB, version int) *Postgres {
	t.Helper()
	if version == 0 {
		version = DefaultVersion
	}
	shared.Lock()
	if shared.clusters == nil {
		shared.clusters = map[int]*sharedCluster{}
	}
	c := shared.clusters[version]
	if c == nil {
		c = &sharedCluster{}
		shared.clusters[version] = c
	}
	shared.Unlock()
	c.once.Do(func() {
		c.pg, c.err = StartPostgres(context.Background(), PostgresOptions{Version: version, Settings: testSettings()})
	})
	if c.err != nil {
		t.Fatal(c.err)
	}
	return c.pg
}

// testSettings are for speed: a killed server loses nothing without fsync, only
// a killed machine does.
func testSettings() map[string]string {
	return map[string]string{
		"fsync":              "off",
		"full_page_writes":   "off",
		"wal_sender_timeout": "10s",
	}
}

// NewPostgres starts a cluster of the test's own with SharedPostgres's settings
// under those of o; it is stopped at cleanup.
func NewPostgres(t testing.TB, o PostgresOptions) *Postgres {
	t.Helper()
	settings := testSettings()
	for k, v := range o.Settings {
		settings[k] = v
	}
	o.Settings = settings
	pg, err := StartPostgres(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

// NewRedis starts a Redis; it is stopped at cleanup.
func NewRedis(t testing.TB, o RedisOptions) *Redis {
	t.Helper()
	r, err := StartRedis(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Exec runs statements in one session. A string with several statements is one
// transaction.
func Exec(t testing.TB, url string, sql ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn := connect(ctx, t, url)
	defer conn.Close(ctx)
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			t.Fatalf("run %q: %v", s, err)
		}
	}
}

// Try runs a statement that may fail.
func Try(url, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// Value runs a query and returns the first column of its first row as
// Postgres's text, "" when it is NULL or there is no row.
func Value(t testing.TB, url, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn := connect(ctx, t, url)
	defer conn.Close(ctx)
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		t.Fatalf("run %q: %v", sql, err)
	}
	for _, r := range results {
		for _, row := range r.Rows {
			return string(row[0])
		}
	}
	return ""
}

func connect(ctx context.Context, t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// Eventually polls cond every few milliseconds until it is true and fails the
// test after timeout, naming what it waited for. No other place in a test may
// wait by time.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	if !Poll(timeout, cond) {
		t.Fatalf("not within %v: %s", timeout, what)
	}
}

// Poll is Eventually for those who tell a failure themselves: it reports whether
// cond came true.
func Poll(timeout time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(timeout)
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(3 * time.Millisecond)
	}
	return true
}

// StartProxy starts a Proxy; it is closed at cleanup.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}
