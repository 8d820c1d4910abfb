package harness

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// shared are the clusters of this test binary. Starting one takes a second, so a test takes over one that no test uses now, and
// has a database of its own there. Two at once would hinder each other: a slot is not made while any transaction of the cluster is
// open, and whoever decodes reads all that is written to it. This is the package's only state: a test binary has no other place
// that outlives its tests.
var shared struct {
	sync.Mutex
	clusters []*sharedCluster
}

type sharedCluster struct {
	version int
	pg      *Postgres
	user    testing.TB // the test that has it now; nil when it is free
}

// Main runs the tests, stops every shared server and exits. Call it from TestMain.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for a TestMain that does not end with it: it returns the exit code.
func Run(m *testing.M) int {
	moreAtOnce()
	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// moreAtOnce has twice as many tests run at once as there are processors, because they wait for servers half of the time. It stays
// within what a shared cluster has connections for. The flag -parallel goes over it.
func moreAtOnce() {
	if flag.Parsed() {
		return
	}
	if err := flag.Set("test.parallel", fmt.Sprint(min(2*runtime.GOMAXPROCS(0), 12))); err != nil {
		panic(err) // package testing has no such flag any more
	}
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	var errs []error
	for _, c := range shared.clusters {
		errs = append(errs, c.pg.Stop())
	}
	shared.clusters = nil
	return errors.Join(errs...)
}

// SharedPostgres is a cluster of a major version (0 means DefaultVersion) that tests have one after the other, and this one until
// its cleanup; asking again gives the same. Tests that stop or reconfigure a server start their own with NewPostgres.
func SharedPostgres(t testing.TB, version int) *Postgres {
	t.Helper()
	version = cmp.Or(version, DefaultVersion)
	if c := takeShared(t, version); c != nil {
		return c.pg
	}
	pg, err := StartPostgres(context.Background(), PostgresOptions{Version: version, Settings: testSettings()})
	if err != nil {
		t.Fatal(err)
	}
	c := &sharedCluster{version: version, pg: pg, user: t}
	shared.Lock()
	shared.clusters = append(shared.clusters, c)
	shared.Unlock()
	t.Cleanup(c.free)
	return pg
}

// takeShared is the cluster that the test has already, or else one that is free; nil when there is none.
func takeShared(t testing.TB, version int) *sharedCluster {
	shared.Lock()
	defer shared.Unlock()
	var found *sharedCluster
	for _, c := range shared.clusters {
		switch {
		case c.version != version:
		case c.user == t:
			return c
		case c.user == nil && found == nil:
			found = c
		}
	}
	if found != nil {
		found.user = t
		t.Cleanup(found.free)
	}
	return found
}

func (c *sharedCluster) free() {
	shared.Lock()
	defer shared.Unlock()
	c.user = nil
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

// Eventually polls cond until it is true and fails the test after timeout, naming what it waited for.
// No other place in a test may wait by time.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	if !Poll(timeout, cond) {
		t.Fatalf("not within %v: %s", timeout, what)
	}
}

// Poll is Eventually for those who tell a failure themselves: it reports whether
// cond came true.
func Poll(timeout time.Duration, cond func() bool) bool {
	start := time.Now()
	for {
		asked := time.Now()
		if cond() {
			return true
		}
		waited := time.Since(start)
		if waited > timeout {
			return false
		}
		time.Sleep(pause(waited, time.Since(asked)))
	}
}

// pause is how long to wait before asking again: about a tenth of the wait so far, within bounds. A question that takes long, such
// as one that starts a program, is asked less often, for it costs processor time that what is waited for needs too.
func pause(waited, took time.Duration) time.Duration {
	return max(3*time.Millisecond, min(waited/10, 25*time.Millisecond), min(4*took, time.Second/2))
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
