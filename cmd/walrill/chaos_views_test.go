package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/internal/harness"
)

// viewTables hold a bank, whose money never changes in sum, and a shop.
const viewTables = `
CREATE TABLE branches (id int PRIMARY KEY, name text);
CREATE TABLE accounts (id int PRIMARY KEY, branch_id int NOT NULL, balance bigint NOT NULL, note text);
ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL;
INSERT INTO branches SELECT i, 'branch ' || i FROM generate_series(1, 5) i;
INSERT INTO accounts SELECT i, 1 + i % 5, 1000, repeat('account ' || i || ' ', 400) FROM generate_series(1, 100) i;
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int, status text);
CREATE TABLE order_items (id int PRIMARY KEY, order_id int, qty int, price numeric(10,2), note text);
CREATE TABLE moves (id bigserial, purse int, amount int NOT NULL, PRIMARY KEY (purse, id));
CREATE FUNCTION link(text, bigint) RETURNS text LANGUAGE sql AS 'SELECT md5($1 || $2)';
CREATE AGGREGATE links(bigint) (SFUNC = link, STYPE = text, INITCOND = '');
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 10) i;
INSERT INTO orders SELECT i, 1 + i % 12, 'new' FROM generate_series(1, 30) i;
INSERT INTO order_items SELECT i, 1 + i % 35, i % 4, i * 1.25, 'note' FROM generate_series(1, 80) i;`

// viewQueries are the views, by name; the same SQL on the source says what they must be.
var viewQueries = []struct{ name, key, query string }{
	{"branch_totals", "branch", `SELECT b.id AS branch, sum(a.balance) AS total, count(*) AS n FROM branches b JOIN accounts a ON a.branch_id = b.id GROUP BY b.id`},
	{"order_summary", "order_id", `SELECT o.id AS order_id, o.status, c.name AS customer, count(i.id) AS items, coalesce(sum(i.qty * i.price), 0) AS total
        FROM orders o JOIN customers c ON c.id = o.customer_id LEFT JOIN order_items i ON i.order_id = o.id GROUP BY o.id, c.id`},
	{"extremes", "order_id", `SELECT o.id AS order_id, min(i.price) AS cheapest, max(i.price) AS dearest, string_agg(i.id::text, ',' ORDER BY i.id) AS ids
        FROM orders o LEFT JOIN order_items i ON i.order_id = o.id AND i.qty > 1 GROUP BY o.id`},
	{"customers_worth", "customer_id", `SELECT c.id AS customer_id, c.name, count(DISTINCT o.id) AS orders, sum(i.price) AS worth
        FROM customers c LEFT JOIN orders o ON o.customer_id = c.id LEFT JOIN order_items i ON i.order_id = o.id GROUP BY c.id`},
	{"lines", "id", `SELECT i.id, o.status, i.price FROM order_items i, orders o WHERE o.id = i.order_id AND o.status <> 'new'`},
}

// foldedMoves is a fold, which depends on each event, once, and on their order; foldedWant is what it must be.
const foldedMoves = `  purses:
    key: purse
    table: {purse: int, total: bigint, moves: int, last: bigint, chain: text}
    fold:
      money.moved: |
        INSERT INTO purses VALUES (:key, :data.amount, 1, :data.id, md5(:data.id)) ON CONFLICT (purse) DO UPDATE SET
          total = purses.total + excluded.total, moves = purses.moves + 1, last = excluded.last, chain = md5(purses.chain || :data.id)
`

const foldedWant = `SELECT purse, sum(amount)::bigint AS total, count(*)::int AS moves, max(id) AS last, links(id ORDER BY id) AS chain FROM moves GROUP BY purse`

// viewRig is a source, a store and a Redis, with a workload and daemons.
type viewRig struct {
	*testing.T
	source, store string // URLs
	file          string
	rand          *rand.Rand
	redis         *harness.Redis
	trouble
	pace    time.Duration // between two transactions of a writer, 0 for as fast as can be, and between two looks when they are rarer than lookPace
	stop    context.CancelFunc
	work    sync.WaitGroup
	daemons []*harness.Program
}

// goOn waits for a pace, and reports whether ctx has not ended.
func goOn(ctx context.Context, pace time.Duration) bool {
	if pace == 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(pace):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func newViewRig(t *testing.T, sameStore bool, storeThrough func(string) string) *viewRig {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	pg := harness.SharedPostgres(t, postgresVersion(t))
	r := &viewRig{T: t, source: harness.Database(t, pg), rand: rand.New(rand.NewPCG(seed, 1)), redis: harness.NewRedis(t, harness.RedisOptions{})}
	r.store = r.source
	if !sameStore {
		r.store = harness.Database(t, pg)
	}
	harness.Exec(t, r.source, viewTables)
	store := r.store
	if storeThrough != nil {
		store = storeThrough(store)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams:\n", harness.DatabaseName(t, r.source), r.source, r.redis.URL())
	fmt.Fprintf(&b, "  bank: {partitions: 4, tables: {accounts: {}, branches: {}}}\n")
	fmt.Fprintf(&b, "  shop: {partitions: 3, tables: {orders: {}, customers: {}, order_items: {}}}\n")
	fmt.Fprintf(&b, "  ledger: {partitions: 2, tables: {moves: {key: purse, events: [{type: money.moved, on: insert, data: {id: new.id, amount: new.amount}}]}}}\n")
	fmt.Fprintf(&b, "views:\n  store: %q\n  accounts_copy: {mirror: public.accounts, columns: {rename: {balance: money}}}\n", store)
	for _, v := range viewQueries {
		fmt.Fprintf(&b, "  %s:\n    key: %s\n    query: |\n      %s\n", v.name, v.key, v.query)
	}
	b.WriteString(foldedMoves)
	r.file = filepath.Join(t.TempDir(), "walrill.yaml")
	if err := os.WriteFile(r.file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// close ends the workload and the daemons.
func (r *viewRig) close() {
	if r.stop != nil {
		r.stop()
	}
	r.work.Wait()
	for i, d := range r.daemons {
		if err := d.Kill(); err != nil {
			r.Error(err)
		}
		output := d.Output()
		if strings.Contains(output, "DATA RACE") || strings.Contains(output, "panic:") || r.Failed() && i >= len(r.daemons)-3 {
			r.Logf("daemon %d:\n%s", i, output[max(0, len(output)-6000):])
		}
		if strings.Contains(output, "DATA RACE") {
			r.Errorf("daemon %d has a data race", i)
		}
	}
}

func (r *viewRig) daemon(flags ...string) *harness.Program {
	r.Helper()
	cmd := exec.Command("walrill", append([]string{"run", "-c", r.file, "--http", "127.0.0.1:0"}, flags...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	d, err := harness.StartProgram(cmd, fmt.Sprintf("%s.%d.log", r.file, len(r.daemons)))
	if err != nil {
		r.Fatal(err)
	}
	r.daemons = append(r.daemons, d)
	return d
}

// live waits until all views are complete.
func (r *viewRig) live() {
	r.Helper()
	want := fmt.Sprint(len(viewQueries) + 2)
	harness.Eventually(r, 2*patience, "all views are live", func() bool {
		if harness.Value(r, r.store, "SELECT to_regclass('walrill.views') IS NOT NULL") != "t" {
			return false
		}
		return harness.Value(r, r.store, "SELECT count(*) FROM walrill.views WHERE state = 'live'") == want
	})
}

// begin starts writers and a reader that looks at the views all the time.
func (r *viewRig) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	for range 2 {
		random := rand.New(rand.NewPCG(r.rand.Uint64(), 2))
		r.work.Go(func() { r.write(ctx, random) })
	}
	r.work.Go(func() { r.look(ctx) })
	r.trouble = newTrouble(r.T)
}

// write runs random transactions until ctx ends.
func (r *viewRig) write(ctx context.Context, random *rand.Rand) {
	conn, err := pgx.Connect(ctx, r.source)
	if err != nil {
		r.Error(err)
		return
	}
	defer conn.Close(context.Background())
	for goOn(ctx, r.pace) {
		sql := "BEGIN;"
		for range 1 + random.IntN(4) {
			sql += randomChange(random) + ";"
		}
		if random.IntN(15) == 0 {
			sql += "ROLLBACK"
		} else {
			sql += "COMMIT"
		}
		_, err := conn.PgConn().Exec(context.WithoutCancel(ctx), sql).ReadAll() // or its commit is on its way yet when the views are compared
		var refused *pgconn.PgError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &refused) && refused.Code == "40P01":
			if _, err := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); err != nil && ctx.Err() == nil {
				r.Error(err)
			}
		case err != nil:
			r.Errorf("%s: %v", sql, err)
			return
		}
	}
}

// randomChange is one statement; those of the bank never change the sum of all money.
func randomChange(random *rand.Rand) string {
	n := func(max int) int { return 1 + random.IntN(max) }
	switch random.IntN(26) {
	case 0, 1, 2, 3:
		return fmt.Sprintf("UPDATE accounts SET balance = balance + CASE id WHEN %d THEN -7 ELSE 7 END WHERE id IN (%d, %d)", 1, 1, 1+n(98))
	case 4:
		return fmt.Sprintf("UPDATE accounts SET branch_id = %d WHERE id = %d", n(5), n(100))
	case 5:
		a := n(99)
		return fmt.Sprintf("UPDATE accounts SET id = id + 1000 WHERE id = %d; UPDATE accounts SET id = id - 1000 WHERE id = %d", a, a+1000)
	case 6:
		return fmt.Sprintf("UPDATE accounts SET id = CASE WHEN id > 1000 THEN id - 1000 ELSE id + 1000 END WHERE id IN (%d, %d)", 100, 1100)
	case 7, 8, 9:
		return fmt.Sprintf("UPDATE order_items SET order_id = %d, qty = %d WHERE id = %d", n(35), random.IntN(4), n(100))
	case 10, 11:
		return fmt.Sprintf("INSERT INTO order_items VALUES (%d, %d, %d, %d.5) ON CONFLICT (id) DO UPDATE SET price = excluded.price", n(100), n(35), n(3), n(50))
	case 12:
		return fmt.Sprintf("DELETE FROM order_items WHERE id %% 20 = %d", random.IntN(20))
	case 13, 14:
		return fmt.Sprintf("INSERT INTO orders VALUES (%d, %d, 'new') ON CONFLICT (id) DO UPDATE SET customer_id = excluded.customer_id", n(35), n(12))
	case 15:
		return fmt.Sprintf("DELETE FROM orders WHERE id = %d", n(35))
	case 16, 17:
		return fmt.Sprintf("UPDATE orders SET status = '%s' WHERE id = %d", []string{"new", "paid", "sent"}[random.IntN(3)], n(35))
	case 18:
		return fmt.Sprintf("UPDATE customers SET name = 'customer %d' WHERE id = %d", n(1000), n(12))
	case 19:
		return fmt.Sprintf("DELETE FROM customers WHERE id = %d; INSERT INTO customers VALUES (%d, 'again') ON CONFLICT DO NOTHING", n(12), n(12))
	case 20:
		return "UPDATE order_items SET note = 'nobody reads it'"
	case 22, 23, 24, 25:
		// One writer at a time in each purse, so that ids are in the order of commits.
		return fmt.Sprintf("SELECT pg_advisory_xact_lock(7, p) FROM generate_series(1, 3) p; INSERT INTO moves (purse, amount) SELECT 1 + i %% 3, %d - i FROM generate_series(1, %d) i", n(100), n(6))
	}
	if random.IntN(20) > 0 {
		return fmt.Sprintf("UPDATE orders SET customer_id = NULL WHERE id = %d", n(35))
	}
	return "TRUNCATE order_items; INSERT INTO order_items SELECT i, 1 + i % 35, i % 4, i * 1.25, 'note' FROM generate_series(1, 80) i"
}

// lookPace is between two looks: views change less often, and who looks all the time holds them up.
const lookPace = 2 * time.Millisecond

// look checks at each look that no money is missing.
func (r *viewRig) look(ctx context.Context) {
	conn, err := pgx.Connect(ctx, r.store)
	if err != nil {
		r.Error(err)
		return
	}
	defer conn.Close(context.Background())
	looks := 0
	for goOn(ctx, max(r.pace, lookPace)) {
		var views, copies, accounts int64
		err := conn.QueryRow(ctx, "SELECT (SELECT sum(total) FROM branch_totals), sum(money), count(*) FROM accounts_copy").Scan(&views, &copies, &accounts)
		if ctx.Err() != nil {
			break
		}
		if err != nil || views != 100_000 || copies != 100_000 || accounts != 100 {
			r.Errorf("at look %d the view has %d, the copy %d in %d accounts, %v; want 100000 in 100", looks, views, copies, accounts, err)
			return
		}
		looks++
	}
	r.Logf("looked %d times", looks)
}

// finish ends the workload, waits for what it has written and compares each view with its query on the source.
func (r *viewRig) finish() {
	r.Helper()
	r.stop()
	r.work.Wait()
	lsn := harness.Value(r, r.source, "SELECT pg_current_wal_lsn()")
	for _, v := range viewQueries {
		harness.Exec(r, r.store, fmt.Sprintf("SELECT walrill.wait('%s', '%s', '60s')", v.name, lsn))
		r.same(v.name, v.key, v.query, "SELECT * FROM "+v.name)
	}
	r.same("accounts_copy", "id", "SELECT id, branch_id, balance AS money, note FROM accounts", "SELECT id, branch_id, money, note FROM accounts_copy")
	harness.Exec(r, r.store, fmt.Sprintf("SELECT walrill.wait('purses', '%s', '60s')", lsn))
	r.same("purses", "purse", foldedWant, "SELECT * FROM purses")
	if n := harness.Value(r, r.store, "SELECT count(*) FROM walrill.parked"); n != "0" {
		r.Errorf("%s keys are parked", n)
	}
}

func (r *viewRig) same(name, key, onSource, onStore string) {
	r.Helper()
	digest := "SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY %s), '') FROM (%s) t"
	want := harness.Value(r, r.source, fmt.Sprintf(digest, key, onSource))
	got := harness.Value(r, r.store, fmt.Sprintf(digest, key, onStore))
	if got != want {
		r.Errorf("view %s is not what its query says.\ngot\n%.2000s\nwant\n%.2000s", name, got, want)
	}
}

// Daemons are killed at random moments while money moves and orders change. At no look is any money missing,
// and in the end every view is what its query says on the source.
func TestChaosViews(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"store apart": false, "store is source": true} {
		t.Run(name, func(t *testing.T) {
			r := newViewRig(t, same, nil)
			d := r.daemon()
			r.live()
			r.begin()
			kills := 0
			for ; r.goesOn(); kills++ {
				r.progress()
				if err := d.Kill(); err != nil {
					t.Fatal(err)
				}
				d = r.daemon()
			}
			t.Logf("killed %d times", kills)
			r.finish()
		})
	}
}

// progress waits until the views have moved on somewhat.
func (r *viewRig) progress() {
	r.Helper()
	r.changes("SELECT lsn - '0/0' FROM walrill.pipelines")
}

// changes waits until what a query on the store gives has changed a few times.
func (r *viewRig) changes(query string) {
	r.Helper()
	for range 1 + r.rand.IntN(4) {
		before := harness.Value(r, r.store, query)
		harness.Eventually(r, 2*patience, "the views move on", func() bool { return harness.Value(r, r.store, query) != before || r.Failed() })
	}
}

// Two daemons keep the views; the one that does is paused until the other has taken over, and then wakes up.
func TestChaosViewsTwoDaemons(t *testing.T) {
	r := newViewRig(t, false, nil)
	r.daemon("--only", "capture")
	active := r.daemon("--only", "views")
	r.live()
	standby := r.daemon("--only", "views")
	r.begin()
	pauses := 0
	for ; r.goesOn(); pauses++ {
		r.progress()
		if err := active.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// As the server does when it hears nothing of a host for long.
		fence := harness.Value(t, r.store, "SELECT fence FROM walrill.pipelines")
		harness.Exec(t, r.store, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = 2002875506 AND l.granted
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		harness.Eventually(t, patience, "the other takes over", func() bool {
			return harness.Value(t, r.store, "SELECT fence FROM walrill.pipelines") != fence
		})
		r.progress()
		if err := active.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		active, standby = standby, active
	}
	t.Logf("paused %d times", pauses)
	r.finish()
}

// Who waits for the LSN of its own write reads it, each time, while others write and views are rebuilt again and again
// under the eyes of a reader to whom no money may ever be missing.
func TestViewsReadYourWrites(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"store apart": false, "store is source": true} {
		t.Run(name, func(t *testing.T) {
			r := newViewRig(t, same, nil)
			r.daemon()
			r.live()
			r.begin()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rebuilds := 0
			r.work.Go(func() {
				for ctx.Err() == nil {
					for _, view := range []string{"branch_totals", "accounts_copy", "purses"} {
						out, err := exec.CommandContext(ctx, "walrill", "rebuild", view, "-c", r.file).CombinedOutput()
						if ctx.Err() != nil {
							return
						}
						if err != nil || !strings.HasSuffix(string(out), ": 0 rows differed\n") {
							t.Errorf("rebuild of %s: %v: %s", view, err, out)
							return
						}
						rebuilds++
					}
				}
			})
			writes := 0
			for ; r.goesOn(); writes++ {
				harness.Exec(t, r.source, fmt.Sprintf("INSERT INTO customers VALUES (1000, '%d') ON CONFLICT (id) DO UPDATE SET name = excluded.name", writes))
				lsn := harness.Value(t, r.source, "SELECT pg_current_wal_lsn()")
				harness.Exec(t, r.store, fmt.Sprintf("SELECT walrill.wait('customers_worth', '%s', '60s')", lsn))
				if got := harness.Value(t, r.store, "SELECT name FROM customers_worth WHERE customer_id = 1000"); got != fmt.Sprint(writes) {
					t.Fatalf("write %d at %s: read %q", writes, lsn, got)
				}
			}
			cancel()
			r.finish()
			t.Logf("%d writes, %d rebuilds", writes, rebuilds)
			if rebuilds == 0 {
				t.Error("this says nothing")
			}
		})
	}
}
