package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/walrill/walrill/internal/harness"
	"github.com/walrill/walrill/web"
)

// rig is what a chaos scenario is made of: servers, a workload that writes at
// random, an oracle that sees all of it, and daemons that are to bring it to
// Redis whatever happens.
type rig struct {
	t        *testing.T
	pg       *harness.Postgres
	redis    *harness.Redis
	pipeline harness.Pipeline
	oracle   *harness.Oracle
	history  []harness.OracleTx // what the oracle has told so far
	file     string             // configuration
	format   string             // of entries; default fields
	rand     *rand.Rand
	trouble

	flags    []string // more of the daemon's
	rewrite  bool     // a table is rewritten now and then
	workers  harness.WorkloadOptions
	daemons  []*harness.Program // all that were ever started
	workload sync.WaitGroup
	stop     context.CancelFunc // ends the workload
	commits  atomic.Int64       // of the workload so far
	written  harness.WorkloadStats
}

// rigOptions are what differs between scenarios.
type rigOptions struct {
	postgres *harness.Postgres // default the shared one
	via      *harness.Proxy    // that everybody reaches Postgres through, the daemon, the workload and the oracle
	redis    map[string]string // configuration
	source   func(url string) string
	sink     func(url string) string // what the daemon is told for a server's URL
	gaps     bool                    // the slot is lost now and then, and repaired
	backfill []string                // statements that fill the tables first; the rows are then backfilled
}

// newRig starts the servers and makes the tables. Nothing is written yet.
func newRig(t *testing.T, o rigOptions) *rig {
	t.Parallel()
	ctx := t.Context()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := &rig{t: t, pg: o.postgres, rand: rand.New(rand.NewPCG(seed, 0)), stop: func() {}}
	if r.pg == nil {
		r.pg = harness.SharedPostgres(t, postgresVersion(t))
	}
	roles := harness.DatabaseWithRoles(t, r.pg)
	if o.via != nil {
		roles = roles.At(t, o.via.Addr())
	}
	db := roles.Admin
	r.redis = harness.NewRedis(t, harness.RedisOptions{Config: o.redis})
	r.pipeline = harness.Pipeline{
		Name: harness.DatabaseName(t, db), DBURL: db, RedisURL: r.redis.URL(),
		// One table in two streams, one stream of several tables.
		Streams: []harness.StreamSpec{
			{Name: "plain", Partitions: 4, Tables: []string{"public.wl_plain"}},
			{Name: "mixed", Partitions: 2, Tables: []string{"public.wl_pair", "public.wl_wide", "public.wl_whole"}},
			{Name: "audit", Partitions: 1, Tables: []string{"public.wl_plain", "public.wl_whole"}},
		},
	}
	if err := harness.SetupWorkload(ctx, roles.Owner); err != nil {
		t.Fatal(err)
	}
	r.workers = harness.WorkloadOptions{Seed: r.rand.Uint64(), Workers: 2, Keys: 40, Reconnect: true, Commits: &r.commits}
	harness.Exec(t, db, o.backfill...)
	r.pipeline.Backfilled, r.pipeline.Gaps = len(o.backfill) > 0, o.gaps
	source, sink := roles.Daemon, r.redis.URL()
	if o.source != nil {
		source = o.source(source)
	}
	if o.sink != nil {
		sink = o.sink(sink)
	}
	r.configure(source, sink)
	var err error
	if r.oracle, err = harness.NewOracle(ctx, db); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stop()
		r.workload.Wait()
		r.endDaemons()
	})
	return r
}

// configure writes the configuration file.
func (r *rig) configure(source, sink string) {
	mode := "never"
	if r.pipeline.Backfilled {
		mode = "initial"
	}
	var b strings.Builder
	loss := "stop"
	if r.pipeline.Gaps {
		loss = "backfill"
	}
	fmt.Fprintf(&b, "pipeline: %s\nsource: {url: %q, backfill: %s, on_slot_loss: %s}\nsink: {url: %q, format: %s}\nstreams:\n",
		r.pipeline.Name, source, mode, loss, sink, cmp.Or(r.format, "fields"))
	for _, s := range r.pipeline.Streams {
		fmt.Fprintf(&b, "  %s:\n    partitions: %d\n    tables:\n", s.Name, s.Partitions)
		for _, table := range s.Tables {
			entry := "{}"
			if table == "public.wl_whole" {
				entry = "{key: id}" // also when it has no primary key
			}
			fmt.Fprintf(&b, "      %s: %s\n", table, entry)
		}
	}
	if r.file == "" {
		r.file = filepath.Join(r.t.TempDir(), "walrill.yaml")
	}
	if err := os.WriteFile(r.file, []byte(b.String()), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// daemon starts a daemon.
func (r *rig) daemon() *harness.Program {
	r.t.Helper()
	cmd := exec.Command("walrill", append([]string{"run", "-c", r.file, "--http", "127.0.0.1:0"}, r.flags...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	d, err := harness.StartProgram(cmd, fmt.Sprintf("%s.%d.log", r.file, len(r.daemons)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.daemons = append(r.daemons, d)
	return d
}

// endDaemons kills what runs, and shows what the last daemons had to say when the test failed.
func (r *rig) endDaemons() {
	for i, d := range r.daemons {
		if err := d.Kill(); err != nil {
			r.t.Error(err)
		}
		output := d.Output()
		if strings.Contains(output, "DATA RACE") || strings.Contains(output, "panic:") {
			r.t.Errorf("daemon %d is broken:\n%s", i, output)
		} else if r.t.Failed() && i >= len(r.daemons)-3 {
			lines := strings.SplitAfter(output, "\n")
			r.t.Logf("daemon %d, its last words:\n%s", i, strings.Join(lines[max(0, len(lines)-20):], ""))
		}
	}
}

// ready waits until changes arrive through this daemon.
func (r *rig) ready(d *harness.Program) {
	r.t.Helper()
	harness.Eventually(r.t, patience, "the daemon is ready", func() bool { return isReady(d) })
}

func isReady(d *harness.Program) bool {
	answer, err := get(d, "/readyz")
	return err == nil && strings.HasPrefix(answer, "200")
}

// begin starts a daemon, waits until it streams, since its slot begins there,
// and starts the workload, and with it the time of trouble.
func (r *rig) begin() *harness.Program {
	r.t.Helper()
	d := r.daemon()
	r.ready(d)
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.workload.Go(func() {
		var err error
		if r.written, err = harness.RunWorkload(ctx, r.pipeline.DBURL, r.workers); err != nil {
			r.t.Error(err)
		}
	})
	r.trouble = newTrouble(r.t)
	return d
}

// published waits for some more entries in Redis, so that trouble comes at a
// random moment and not before there was progress since the last.
func (r *rig) published() {
	r.t.Helper()
	start, err := r.pipeline.Published(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	want := start + 1 + r.rand.Int64N(400)
	harness.Eventually(r.t, patience, fmt.Sprintf("%d entries are published (there were %d)", want, start), func() bool {
		n, err := r.pipeline.Published(r.t.Context())
		return err == nil && n >= want
	})
}

// committed waits until the workload has written some more WAL.
func (r *rig) committed() {
	r.t.Helper()
	want := r.lsn() + uint64(r.rand.IntN(300_000))
	harness.Eventually(r.t, patience, "the workload goes on", func() bool { return r.lsn() >= want })
}

func (r *rig) lsn() uint64 {
	r.t.Helper()
	lsn, err := harness.ParseLSN(harness.Value(r.t, r.pipeline.DBURL, "SELECT pg_current_wal_lsn()"))
	if err != nil {
		r.t.Fatal(err)
	}
	return lsn
}

// leastCompared is how many transactions a comparison needs to say something. Some that were committed may have done nothing.
const leastCompared = 20

// finish settles and compares every entry with what Postgres did.
func (r *rig) finish(d *harness.Program) {
	r.t.Helper()
	r.writes(2 * leastCompared)
	r.settle(d)
	r.listen()
	seen, err := r.pipeline.Verify(r.t.Context(), r.history)
	if err != nil {
		r.t.Errorf("the streams are not what happened:\n%v", err)
	}
	r.t.Logf("%d transactions, %d entries, %d rows compared; %+v", seen.Transactions, seen.Entries, seen.Rows, r.written)
	if seen.Transactions < leastCompared {
		r.t.Errorf("only %d transactions: this says nothing", seen.Transactions)
	}
}

// listen has the oracle tell what it knows now. After a failover it may repeat itself.
func (r *rig) listen() {
	r.t.Helper()
	told, err := r.oracle.Read(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, tx := range told {
		if n := len(r.history); n == 0 || tx.EndLSN > r.history[n-1].EndLSN {
			r.history = append(r.history, tx)
		}
	}
}

// stateOf is the state in an answer of /api/status.
func stateOf(answer string) string {
	var report web.Report
	_, body, _ := strings.Cut(answer, "\n")
	if json.Unmarshal([]byte(body), &report) != nil {
		return ""
	}
	return report.State
}

// writes waits until the workload has made so many commits.
func (r *rig) writes(commits int64) {
	r.t.Helper()
	harness.Eventually(r.t, 3*patience, fmt.Sprintf("the workload makes its commit %d", commits), func() bool { return r.commits.Load() >= commits || r.t.Failed() })
}

// settle ends the workload, waits until the watermark says that everything is in Redis, and stops the daemon in order.
func (r *rig) settle(d *harness.Program) {
	r.t.Helper()
	r.stop()
	r.workload.Wait()
	lsn := r.lsn()
	harness.Eventually(r.t, 2*patience, fmt.Sprintf("the watermark reaches %X/%X", lsn>>32, uint32(lsn)), func() bool {
		w, err := r.pipeline.Watermark(r.t.Context())
		return err == nil && w >= lsn
	})
	if err := d.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	if code, err := d.Wait(patience); err != nil || code != 0 {
		r.t.Errorf("the daemon ended with %d, %v; want 0", code, err)
	}
}
