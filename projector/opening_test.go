package projector

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/internal/harness"
)

// openStore is a store with a view v of a group g that is open to two workers, at 0/100 and 0/200.
func openStore(t *testing.T) *pgx.Conn {
	conn := storeSession(t, harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion)))
	if err := install(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	run(t, conn, `INSERT INTO walrill.pipelines (pipeline, lsn, read_lsn, open, opening) VALUES ('g', '0/50', '0/50', true, 7)`)
	run(t, conn, `INSERT INTO walrill.workers (pipeline, worker, opening, epoch, lsn, partitions) VALUES ('g', 1, 7, 0, '0/100', '{a}'), ('g', 2, 7, 0, '0/200', '{b}')`)
	run(t, conn, `INSERT INTO walrill.views (name, pipeline, schema, state) VALUES ('v', 'g', 'public', 'live')`)
	return conn
}

// storeSession opens a session of a store that ends with the test.
func storeSession(t *testing.T, url string) *pgx.Conn {
	conn, err := connect(t.Context(), url, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // it may be ended already
	return conn
}

func run(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// A view that workers keep has reached what the last of them has, as its row or the holder of its lease says; nobody else's word counts.
func TestWaitForWorkers(t *testing.T) {
	conn := openStore(t)
	reaches := func(lsn, want string) {
		t.Helper()
		var got string
		err := conn.QueryRow(t.Context(), "SELECT walrill.wait('v', $1::text::pg_lsn, '1 ms')::text", lsn).Scan(&got)
		if err != nil {
			got = pgError(err).Message
		}
		if !strings.Contains(got, want) {
			t.Errorf("waiting for %s says %q, want %q", lsn, got, want)
		}
	}
	holder := storeSession(t, conn.Config().ConnString())
	hold := func(lease string, clock int) {
		t.Helper()
		run(t, holder, "SELECT pg_advisory_unlock_all()")
		run(t, holder, fmt.Sprintf("SELECT pg_advisory_lock(%d, hashtext('%s')), pg_advisory_lock_shared(%d)", lockClass, lease, clock))
	}
	reaches("0/100", "0/100")
	reaches("0/101", "it is at 0/100")
	hold("g#1#6", 0x180) // of an opening before
	reaches("0/101", "it is at 0/100")
	hold("g#1#7", 0x180)
	reaches("0/180", "0/180")
	reaches("0/181", "it is at 0/180")
	hold("g#1#7", 0x300)
	reaches("0/201", "it is at 0/200")
	run(t, conn, "UPDATE walrill.pipelines SET open = false")
	reaches("0/51", "it is at 0/50")
}

// Sessions that have a worker, or take part in sharing them, and do nothing are ended; others are not, and none before its time.
func TestEndFrozen(t *testing.T) {
	conn := openStore(t)
	s := &session{conn: conn, opts: &Options{Pipeline: "g", Log: slog.New(slog.DiscardHandler), Watermark: func(context.Context) (uint64, error) { return 1, nil }}}
	url := conn.Config().ConnString()
	worker, pool, other := storeSession(t, url), storeSession(t, url), storeSession(t, url)
	run(t, worker, fmt.Sprintf("SELECT pg_advisory_lock(%d, hashtext('g#2#7'))", lockClass))
	run(t, pool, fmt.Sprintf("SELECT pg_advisory_lock_shared(%d, hashtext('g#'))", lockClass))
	run(t, other, fmt.Sprintf("SELECT pg_advisory_lock(%d, hashtext('h#2#7'))", lockClass))
	if err := s.endFrozen(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*pgx.Conn{worker, pool, other} {
		run(t, c, "SELECT 1")
	}
	harness.Eventually(t, patience, "both are ended", func() bool {
		if err := s.endFrozen(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1)", []uint32{worker.PgConn().PID(), pool.PgConn().PID()}).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	run(t, other, "SELECT 1")
}

// The fences of all workers are raised, and the group stands where the lowest of them does.
func TestFenceWorkers(t *testing.T) {
	conn := openStore(t)
	var applied map[string]uint64
	if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) (err error) {
		applied, err = fenceWorkers(t.Context(), tx, "g")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var open bool
	var lsn, read string
	var fences int
	if err := conn.QueryRow(t.Context(), "SELECT open, lsn::text, read_lsn::text, (SELECT sum(fence)::int FROM walrill.workers) FROM walrill.pipelines").Scan(&open, &lsn, &read, &fences); err != nil {
		t.Fatal(err)
	}
	if open || lsn != "0/100" || read != "0/100" || fences != 2 || applied["a"] != 0x100 || applied["b"] != 0x200 {
		t.Errorf("open %v, at %s, read to %s, fences %d, applied %x", open, lsn, read, fences, applied)
	}
	w := &worker{opts: &Options{Pipeline: "g"}, number: 1, opening: 7, fence: 0}
	st := w.save(0x300)
	tag, err := conn.Exec(t.Context(), st.sql, st.args...)
	if err == nil {
		err = st.check(tag.RowsAffected())
	}
	if err != errFenced {
		t.Errorf("a worker whose fence was raised writes: %v", err)
	}
}
