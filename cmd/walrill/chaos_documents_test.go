package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// documentViews are documents of the bank and of the shop: by name, what the same rows are on the source, the columns of the key, and
// whether they are hashes.
var documentViews = []struct {
	name, pattern, of, rows string
	hash                    bool
}{
	{"account_doc", "account:{id}", "mirror: public.accounts, columns: {rename: {balance: money}}", "SELECT id, branch_id, balance AS money, note FROM accounts", false},
	{"item_doc", "item:{id}", "mirror: order_items, as: hash", "SELECT id, order_id, qty, price, note FROM order_items", true},
	{"branch_doc", "branch:{branch}", "from: branch_totals", viewQueries[0].query, false},
	{"order_doc", "order:{order_id}", "from: order_lines", documentQuery, false},
	{"customer_doc", "of:{orders}:customer:{customer_id}", "from: customers_worth, as: hash", viewQueries[3].query, true},
	{"count_doc", "count:{id}", "mirror: counts", "SELECT * FROM counts", false},
}

const documentQuery = `SELECT o.id AS order_id, o.status, coalesce(json_agg(json_build_object('id', i.id, 'price', i.price) ORDER BY i.id) FILTER (WHERE i.id IS NOT NULL), '[]') AS lines
        FROM orders o LEFT JOIN order_items i ON i.order_id = o.id GROUP BY o.id`

// documentRig is a viewRig whose views are documents, too.
type documentRig struct {
	*viewRig
	documents *harness.Redis
	client    redis.UniversalClient
	back      bool // the documents' Redis goes back now and then
}

func newDocumentRig(t *testing.T, sink, documents harness.RedisOptions, apart bool) *documentRig {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	pg := harness.SharedPostgres(t, postgresVersion(t))
	r := &documentRig{viewRig: &viewRig{T: t, source: harness.Database(t, pg), store: harness.Database(t, pg), rand: rand.New(rand.NewPCG(seed, 1)), redis: harness.NewRedis(t, sink)}}
	r.documents = r.redis
	if apart {
		r.documents = harness.NewRedis(t, documents)
	}
	harness.Exec(t, r.source, viewTables, "CREATE TABLE counts (id int PRIMARY KEY, n bigint)", "INSERT INTO counts VALUES (1, 0)")
	var b strings.Builder
	fmt.Fprintf(&b, "pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams:\n", harness.DatabaseName(t, r.source), r.source, r.redis.URL())
	fmt.Fprintf(&b, "  bank: {partitions: 4, tables: {accounts: {}, branches: {}, counts: {}}}\n")
	fmt.Fprintf(&b, "  shop: {partitions: 3, tables: {orders: {}, customers: {}, order_items: {}}}\n")
	fmt.Fprintf(&b, "views:\n  store: %q\n  documents: %q\n", r.store, r.documents.URL())
	for _, v := range []struct{ name, key, query string }{viewQueries[0], {"order_lines", "order_id", documentQuery}, viewQueries[3]} {
		fmt.Fprintf(&b, "  %s:\n    key: %s\n    query: |\n      %s\n", v.name, v.key, v.query)
	}
	for _, v := range documentViews {
		fmt.Fprintf(&b, "  %s: {document: %q, %s}\n", v.name, v.pattern, v.of)
	}
	r.file = filepath.Join(t.TempDir(), "walrill.yaml")
	if err := os.WriteFile(r.file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	r.client = redis.NewClient(&redis.Options{Addr: r.documents.Addr(), MaxRetries: -1, ReadTimeout: 10 * time.Second})
	t.Cleanup(func() { r.client.Close() })
	return r
}

func (r *documentRig) state(view, field string) string {
	return r.client.HGet(context.Background(), "walrill:{"+harness.DatabaseName(r, r.source)+"}:document:"+view, field).Val()
}

func (r *documentRig) live() {
	r.Helper()
	harness.Eventually(r, 2*patience, "all documents are live", func() bool {
		for _, v := range documentViews {
			if r.state(v.name, "state") != "live" {
				return false
			}
		}
		return true
	})
}

// begin starts writers and a reader that looks at the documents all the time.
func (r *documentRig) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	random := rand.New(rand.NewPCG(r.rand.Uint64(), 2))
	r.work.Go(func() { r.write(ctx, random) })
	r.work.Go(func() {
		for ctx.Err() == nil {
			if err := harness.Try(r.source, "UPDATE counts SET n = n + 1"); err != nil {
				r.Error(err)
				return
			}
		}
	})
	r.work.Go(func() { r.look(ctx) })
	r.trouble = newTrouble(r.T)
}

// look checks at each look that no money is missing, in documents of a table as well as of a view, and that nothing goes back in time.
func (r *documentRig) look(ctx context.Context) {
	pipeline := harness.DatabaseName(r, r.source)
	var accounts, branches []string
	for i := range 100 {
		accounts = append(accounts, fmt.Sprint("account:", i+1), fmt.Sprint("account:", i+1001))
	}
	for i := range 5 {
		branches = append(branches, fmt.Sprint("branch:", i+1))
	}
	looks, count := 0, int64(0)
	for ctx.Err() == nil {
		pipe := r.client.TxPipeline()
		states := []*redis.SliceCmd{pipe.HMGet(ctx, "walrill:{"+pipeline+"}:document:account_doc", "state", "gap"),
			pipe.HMGet(ctx, "walrill:{"+pipeline+"}:document:branch_doc", "state", "gap")}
		values := []*redis.SliceCmd{pipe.MGet(ctx, accounts...), pipe.MGet(ctx, branches...)}
		n := pipe.Get(ctx, "count:1")
		if _, err := pipe.Exec(ctx); err != nil {
			harness.Poll(patience, func() bool { return r.client.Ping(ctx).Err() == nil || ctx.Err() != nil }) // Redis is down
			continue
		}
		var row struct{ N, Money, Total int64 }
		if err := json.Unmarshal([]byte(n.Val()), &row); err != nil || row.N < count && !r.back {
			r.Errorf("at look %d the count is %q, after %d: %v", looks, n.Val(), count, err)
			return
		}
		count = row.N
		for i, want := range []int{100, 5} {
			if fmt.Sprint(states[i].Val()) != "[live <nil>]" {
				continue
			}
			sum, found := int64(0), 0
			for _, v := range values[i].Val() {
				row.Money, row.Total = 0, 0
				if text, ok := v.(string); ok {
					if err := json.Unmarshal([]byte(text), &row); err != nil {
						r.Errorf("document %s: %v", text, err)
					}
					sum, found = sum+row.Money+row.Total, found+1
				}
			}
			if sum != 100_000 || found != want {
				r.Errorf("at look %d there are %d in %d documents; want 100000 in %d", looks, sum, found, want)
				return
			}
			looks++
		}
	}
	r.Logf("looked %d times", looks)
	if looks == 0 && ctx.Err() == nil {
		r.Error("this says nothing")
	}
}

// progress waits until documents of a table and of a view have moved on.
func (r *documentRig) progress() {
	r.Helper()
	for _, view := range []string{"account_doc", "branch_doc"} {
		before := r.state(view, "position")
		harness.Eventually(r, 2*patience, view+" moves on", func() bool {
			return r.state(view, "position") != before && r.state(view, "state") == "live" || r.Failed()
		})
	}
}

// finish ends the workload, waits for what it has written and compares all documents with the rows on the source.
func (r *documentRig) finish() {
	r.Helper()
	r.stop()
	r.work.Wait()
	lsn, _ := strconv.ParseUint(harness.Value(r, r.source, "SELECT (pg_current_wal_lsn() - '0/0')::bigint"), 10, 64)
	for _, v := range documentViews {
		harness.Eventually(r, 2*patience, v.name+" has reached the end", func() bool {
			position, _ := strconv.ParseUint(r.state(v.name, "position"), 10, 64)
			return position >= lsn && r.state(v.name, "state") == "live" && r.state(v.name, "gap") == ""
		})
		r.same(v.name, v.pattern, v.rows, v.hash)
	}
}

// same compares the documents of a view, and the set of those there are, with rows of the source.
func (r *documentRig) same(name, pattern, rows string, hash bool) {
	r.Helper()
	ctx := context.Background()
	text := harness.Value(r, r.source, "SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') FROM ("+rows+") t")
	want, got := map[string]any{}, map[string]any{}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		r.Fatal(err)
	}
	for _, row := range list {
		key, fields := pattern, map[string]any{}
		for column, value := range row {
			key = strings.ReplaceAll(key, "{"+column+"}", string(value))
			if hash && string(value) != "null" {
				fields[column] = strings.Trim(string(value), `"`)
			} else if !hash {
				fields[column] = plainJSON(r, value)
			}
		}
		want[key] = fields
	}
	prefix, _, _ := strings.Cut(pattern, "{")
	keys, err := r.client.Keys(ctx, prefix+"*").Result()
	if err != nil {
		r.Fatal(err)
	}
	for _, key := range keys {
		if hash {
			fields := map[string]any{}
			for k, v := range r.client.HGetAll(ctx, key).Val() {
				fields[k] = v
			}
			got[key] = fields
			continue
		}
		got[key] = plainJSON(r, []byte(r.client.Get(ctx, key).Val()))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.Errorf("%s is not what the source has (-want +got):\n%.3000s", name, diff)
	}
	members := r.client.SMembers(ctx, "walrill:{"+harness.DatabaseName(r, r.source)+"}:document:"+name+":keys").Val()
	slices.Sort(members)
	slices.Sort(keys)
	if !slices.Equal(members, keys) {
		r.Errorf("%s: the index has %d keys, and there are %d documents", name, len(members), len(keys))
	}
}

// plainJSON is a JSON value as Go values, numbers digit by digit.
func plainJSON(t testing.TB, text []byte) any {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return v
}

// appendOnly is a Redis that survives a kill with all that it has acknowledged.
var appendOnly = harness.RedisOptions{Config: map[string]string{"appendonly": "yes", "appendfsync": "no"}}

// The daemon and Redis are killed at random moments while money moves and orders change. At no look is any money missing or does
// anything go back in time, and in the end every document is what the source has.
func TestChaosDocuments(t *testing.T) {
	r := newDocumentRig(t, appendOnly, harness.RedisOptions{}, false)
	d := r.daemon()
	r.live()
	r.begin()
	kills := 0
	for ; r.goesOn(); kills++ {
		r.progress()
		if kills%3 == 2 {
			r.restart()
			continue
		}
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		d = r.daemon()
	}
	t.Logf("killed %d times", kills)
	r.finish()
	if strings.Contains(d.Output(), "asking for a backfill") || strings.Contains(d.Output(), "has lost") {
		t.Errorf("documents were read anew, although nothing was lost:\n%s", d.Output())
	}
}

// restart kills the documents' Redis and starts it again with what it has on disk.
func (r *documentRig) restart() {
	r.Helper()
	if err := r.documents.Kill(); err != nil {
		r.Fatal(err)
	}
	if err := r.documents.Start(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// The documents' Redis goes back to what it had some time ago, again and again, sometimes to nothing, while daemons are killed.
// Documents come back to what the source has, without a look at which money is missing.
func TestChaosDocumentsRedisGoesBack(t *testing.T) {
	r := newDocumentRig(t, harness.RedisOptions{}, harness.RedisOptions{}, true)
	r.back = true
	d := r.daemon()
	r.live()
	if err := r.client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	r.begin()
	losses := 0
	for ; r.goesOn(); losses++ {
		r.progress()
		if losses%2 == 1 {
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		r.restart() // with what was saved
		if losses%2 == 1 {
			d = r.daemon()
		}
		r.progress()
		if err := r.client.Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("went back %d times", losses)
	r.finish()
}

// Two daemons keep the documents; the one that does is paused until the other has taken over, and then wakes up.
func TestChaosDocumentsTwoDaemons(t *testing.T) {
	r := newDocumentRig(t, harness.RedisOptions{}, harness.RedisOptions{}, false)
	r.daemon("--only", "capture")
	active := r.daemon("--only", "views")
	r.live()
	standby := r.daemon("--only", "views")
	r.begin()
	pauses := 0
	for ; r.goesOn(); pauses++ {
		r.progress()
		owners := []string{r.state("account_doc", "owner"), r.state("branch_doc", "owner")}
		if err := active.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// As the server does when it hears nothing of a host for long. Redis has a lease.
		harness.Exec(t, r.store, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = 2002875506 AND l.granted
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		harness.Eventually(t, patience, "the other takes over", func() bool {
			return r.state("account_doc", "owner") != owners[0] && r.state("branch_doc", "owner") != owners[1]
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
