package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

const emitTables = `
CREATE TABLE accounts (id int PRIMARY KEY, branch int NOT NULL, balance int NOT NULL);
CREATE TABLE logins (id bigserial, person int NOT NULL, at timestamptz NOT NULL, ok bool NOT NULL, PRIMARY KEY (person, id))`

const emitViews = `streams:
  bank: {partitions: 3, tables: {accounts: {}}}
  people:
    partitions: 2
    tables:
      logins: {key: person, events: [{type: login.failed, on: insert, when: not new.ok, data: {at: new.at}}]}
views:
  store: %q
  branches:
    key: branch
    query: SELECT branch, sum(balance) AS total FROM accounts GROUP BY branch
    emit:
      stream: alerts
      events:
        branch.low: {when: old.total >= 100 AND new.total < 100, data: {branch: new.branch, total: new.total, before: old.total}}
        branch.gone: {when: new IS NULL}
  failures:
    key: person
    table: {person: int, times: "timestamptz[]"}
    fold:
      login.failed: |
        INSERT INTO failures VALUES (:key, ARRAY[:data.at::timestamptz]) ON CONFLICT (person) DO UPDATE SET
          times = ARRAY(SELECT t FROM unnest(failures.times || excluded.times) t WHERE t > :data.at::timestamptz - interval '10 seconds')
    emit:
      stream: alerts
      events:
        login.suspicious:
          when: cardinality(new.times) = 3
          key: "'person ' || new.person"
          data: {n: cardinality(new.times), last: "extract(epoch FROM new.times[3])::int"}
`

// emitModel is what the views are, and what they must have emitted, by key in order.
type emitModel struct {
	accounts map[int][2]int // branch and balance
	failures map[int][]int  // seconds
	want     map[string][]string
}

func (m *emitModel) totals() map[int]int {
	totals := map[int]int{}
	for _, a := range m.accounts {
		totals[a[0]] += a[1]
	}
	return totals
}

// transaction makes a random transaction, and takes over what it does.
func (m *emitModel) transaction(random *rand.Rand, second int) string {
	if random.IntN(3) == 0 {
		person, ok := 1+random.IntN(4), random.IntN(5) == 0
		if !ok {
			m.failures[person] = append(slices.DeleteFunc(m.failures[person], func(at int) bool { return at <= second-10 }), second)
			if len(m.failures[person]) == 3 {
				m.emit(fmt.Sprintf("person %d", person), fmt.Sprintf(`login.suspicious {"n": 3, "last": %d}`, second))
			}
		}
		return fmt.Sprintf("INSERT INTO logins (person, at, ok) VALUES (%d, to_timestamp(%d), %t)", person, second, ok)
	}
	before := m.totals()
	var sql []string
	for range 1 + random.IntN(3) {
		id, branch, balance := 1+random.IntN(12), 1+random.IntN(4), random.IntN(80)
		if _, ok := m.accounts[id]; ok && random.IntN(6) == 0 {
			delete(m.accounts, id)
			sql = append(sql, fmt.Sprintf("DELETE FROM accounts WHERE id = %d", id))
			continue
		}
		m.accounts[id] = [2]int{branch, balance}
		sql = append(sql, fmt.Sprintf("INSERT INTO accounts VALUES (%d, %d, %d) ON CONFLICT (id) DO UPDATE SET branch = excluded.branch, balance = excluded.balance", id, branch, balance))
	}
	after := m.totals()
	for branch, old := range before {
		total, there := after[branch]
		key := fmt.Sprint(branch)
		switch {
		case !there:
			m.emit(key, fmt.Sprintf(`branch.gone {"total": %d, "branch": %d}`, old, branch))
		case old >= 100 && total < 100:
			m.emit(key, fmt.Sprintf(`branch.low {"total": %d, "before": %d, "branch": %d}`, total, old, branch))
		}
	}
	return strings.Join(sql, ";")
}

func (m *emitModel) emit(key, event string) { m.want[key] = append(m.want[key], event) }

// The daemon and Redis are killed again and again while rows change. Each threshold that a view's row crosses, as of each source
// transaction, and each third failed login within ten seconds of the source's time, is one event, once and in order.
func TestChaosEmit(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 5))
	url := harness.Database(t, harness.SharedPostgres(t, postgresVersion(t)))
	redis := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"appendonly": "yes", "appendfsync": "always"}})
	pipeline := harness.DatabaseName(t, url)
	harness.Exec(t, url, emitTables)
	file := filepath.Join(t.TempDir(), "walrill.yaml")
	config := fmt.Sprintf("pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\n"+emitViews, pipeline, url, redis.URL(), url)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var daemons []*harness.Program
	start := func() *harness.Program {
		cmd := exec.Command("walrill", "run", "-c", file, "--http", "")
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		d, err := harness.StartProgram(cmd, fmt.Sprintf("%s.%d.log", file, len(daemons)))
		if err != nil {
			t.Fatal(err)
		}
		daemons = append(daemons, d)
		return d
	}
	defer func() {
		for i, d := range daemons {
			if err := d.Kill(); err != nil {
				t.Error(err)
			}
			if out := d.Output(); strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic:") || t.Failed() && i >= len(daemons)-2 {
				t.Errorf("daemon %d:\n%s", i, out[max(0, len(out)-5000):])
			}
		}
	}()
	d := start()
	harness.Eventually(t, 2*patience, "the views are live", func() bool {
		return harness.Try(url, "SELECT walrill.wait('branches', '0/0', '1ms'), walrill.wait('failures', '0/0', '1ms')") == nil
	})

	m := &emitModel{map[int][2]int{}, map[int][]int{}, map[string][]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		random := rand.New(rand.NewPCG(seed, 6))
		for second := 1; ctx.Err() == nil; second++ {
			sql := m.transaction(random, second)
			if _, err := conn.PgConn().Exec(context.Background(), "BEGIN;"+sql+";COMMIT").ReadAll(); err != nil {
				t.Errorf("%s: %v", sql, err)
				return
			}
			if second%100 == 0 { // the views must not stay behind for ever
				if _, err := conn.Exec(ctx, "SELECT walrill.wait('branches', pg_current_wal_lsn(), '60s')"); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		}
	})
	position := func() string { return harness.Value(t, url, "SELECT lsn - '0/0' FROM walrill.pipelines") }
	kills := 0
	for trouble := newTrouble(t); trouble.goesOn(); kills++ {
		before := position()
		harness.Eventually(t, 2*patience, "the views move on", func() bool { return position() != before || t.Failed() })
		if random.IntN(3) > 0 {
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if random.IntN(2) == 0 {
			if err := redis.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := redis.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		d.Kill() //nolint:errcheck // it may be dead already
		d = start()
	}
	cancel()
	work.Wait()
	t.Logf("killed %d times", kills)
	compareEmitted(t, url, redis.URL(), pipeline, m)
}

// compareEmitted reads the stream as its consumers do and compares it with the model.
func compareEmitted(t *testing.T, url, redisURL, pipeline string, m *emitModel) {
	t.Helper()
	lsn := harness.Value(t, url, "SELECT pg_current_wal_lsn()")
	for _, view := range []string{"branches", "failures"} {
		harness.Exec(t, url, fmt.Sprintf("SELECT walrill.wait('%s', '%s', '60s')", view, lsn))
	}
	client, err := consumer.NewClient(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	n := 0
	for _, list := range m.want {
		n += len(list)
	}
	if n == 0 {
		t.Error("nothing was to be emitted: this says nothing")
	}
	clock := harness.Value(t, url, "SELECT (lsn - '0/0')::bigint FROM walrill.pipelines")
	harness.Eventually(t, patience, "the views' watermark reaches their position", func() bool {
		w, _, err := consumer.Watermark(t.Context(), client, event.ViewsPipeline(pipeline))
		return err == nil && fmt.Sprint(w) >= clock && len(fmt.Sprint(w)) >= len(clock)
	})
	r, err := consumer.Open(t.Context(), consumer.Options{Client: client, Pipeline: event.ViewsPipeline(pipeline), Streams: []string{"alerts"}, NoFollow: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for i := uint64(1); ; i++ {
		e, err := r.Next(t.Context())
		if err != nil {
			if i-1 != uint64(n) {
				t.Errorf("%d events, %v; want %d", i-1, err, n)
			}
			break
		}
		if e.Seq != i {
			t.Fatalf("event %d has seq %d", i, e.Seq)
		}
		got[string(e.Key)] = append(got[string(e.Key)], e.Type+" "+string(e.Data))
	}
	for key := range m.want {
		if !slices.Equal(got[key], m.want[key]) {
			t.Errorf("key %s has\n%s\nwant\n%s", key, strings.Join(got[key], "\n"), strings.Join(m.want[key], "\n"))
		}
	}
	t.Logf("%d events", n)
}
