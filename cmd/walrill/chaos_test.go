package main

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// The scenarios below make trouble while a workload writes, then compare what
// is in Redis with what Postgres did, transaction by transaction and column by
// column (harness.Pipeline.Verify).

// The daemon is killed at random moments, also while it starts.
func TestChaosDaemonKilled(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.begin()
	kills := 0
	for ; r.goesOn(); kills++ {
		if r.rand.IntN(3) == 0 {
			harness.Eventually(t, patience, "the daemon says something", func() bool { return d.Output() != "" })
		} else {
			r.published()
		}
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		d = r.daemon()
	}
	t.Logf("killed %d times", kills)
	r.finish(d)
}

// The daemon is killed and comes back with another format, so that each stream has entries in all of them,
// one sequence over all.
func TestChaosFormats(t *testing.T) {
	r := newRig(t, rigOptions{})
	formats := []string{"cloudevents", "debezium", "fields"}
	d := r.begin()
	for changes := 0; r.goesOn(); changes++ {
		r.published()
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		r.format = formats[changes%len(formats)]
		r.configure(r.pipeline.DBURL, r.redis.URL())
		d = r.daemon()
	}
	r.ready(d)
	r.finish(d)
}

// Redis is killed and comes back with what it has acknowledged.
func TestChaosRedisKilled(t *testing.T) {
	r := newRig(t, rigOptions{redis: map[string]string{"appendonly": "yes", "appendfsync": "always"}})
	d := r.begin()
	kills := 0
	for ; r.goesOn(); kills++ {
		r.published()
		if err := r.redis.Kill(); err != nil {
			t.Fatal(err)
		}
		r.committed()
		if err := r.redis.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d times", kills)
	r.finish(d)
}

// Postgres is shut down, or crashes and recovers.
func TestChaosPostgresRestarts(t *testing.T) {
	r := newRig(t, rigOptions{postgres: harness.NewPostgres(t, harness.PostgresOptions{Version: postgresVersion(t)})})
	d := r.begin()
	shutdowns, crashes := 0, 0
	for r.goesOn() {
		r.published()
		halt := r.pg.Shutdown
		if shutdowns++; r.rand.IntN(2) == 0 {
			halt = r.pg.Kill
			shutdowns, crashes = shutdowns-1, crashes+1
		}
		if err := halt(); err != nil {
			t.Fatal(err)
		}
		if err := r.pg.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("shut down %d times, crashed %d times", shutdowns, crashes)
	r.finish(d)
}

// Redis is full, again and again, until somebody raises maxmemory.
func TestChaosRedisFull(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.begin()
	times := 0
	for ; r.goesOn(); times++ {
		r.published()
		used := r.usedMemory()
		r.setMaxMemory(used + r.rand.Int64N(used/4)) // full now, or soon
		harness.Eventually(t, patience, "status says oom", func() bool {
			answer, err := get(d, "/api/status")
			return err == nil && strings.Contains(answer, `"error_kind": "oom"`)
		})
		r.committed()
		r.setMaxMemory(0)
	}
	t.Logf("full %d times", times)
	r.finish(d)
}

func (r *rig) usedMemory() int64 {
	r.t.Helper()
	var used int64
	r.askRedis(func(ctx context.Context, client *redis.Client) error {
		info, err := client.InfoMap(ctx, "memory").Result()
		if err != nil {
			return err
		}
		used, err = redis.NewStringResult(info["Memory"]["used_memory"], nil).Int64()
		return err
	})
	return used
}

func (r *rig) setMaxMemory(bytes int64) {
	r.t.Helper()
	r.askRedis(func(ctx context.Context, client *redis.Client) error {
		return client.Do(ctx, "CONFIG", "SET", "maxmemory", bytes).Err()
	})
}

func (r *rig) askRedis(f func(context.Context, *redis.Client) error) {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.redis.Addr()})
	defer client.Close()
	if err := f(r.t.Context(), client); err != nil {
		r.t.Fatal(err)
	}
}

// The network cuts connections at any byte, and stalls now and then, on both sides.
func TestChaosNetwork(t *testing.T) {
	pg := harness.SharedPostgres(t, postgresVersion(t))
	toPostgres, toRedis := harness.StartProxy(t, pg.Addr()), harness.StartProxy(t, "")
	r := newRig(t, rigOptions{postgres: pg, source: toPostgres.Through, sink: toRedis.Through})
	toRedis.SetTarget(r.redis.Addr())
	d := r.begin()
	stalls := 0
	for ; r.goesOn(); stalls++ {
		// Cuts so close that little gets through …
		toPostgres.CutRandomly(r.rand.Uint64(), 1, 30_000)
		toRedis.CutRandomly(r.rand.Uint64(), 1, 30_000)
		r.committed()
		// … and then so far apart that a whole transaction, and a full batch, do in time.
		toPostgres.CutRandomly(r.rand.Uint64(), 1, 1_000_000)
		toRedis.CutRandomly(r.rand.Uint64(), 1, 4_000_000)
		r.published()
		proxy := []*harness.Proxy{toPostgres, toRedis}[r.rand.IntN(2)]
		if dir := r.rand.IntN(3); dir < 2 {
			proxy.Stall(harness.Direction(dir))
		} else {
			proxy.Stall()
		}
		r.committed()
		proxy.Resume()
	}
	toPostgres.CutNever()
	toRedis.CutNever()
	t.Logf("cut %d connections to Postgres and %d to Redis, stalled %d times", toPostgres.Cuts(), toRedis.Cuts(), stalls)
	r.finish(d)
}

// Two daemons. The active one is paused until Postgres gives its slot to the
// other, and then wakes up with a batch that it thinks it has to send.
func TestChaosTwoDaemons(t *testing.T) {
	r := newRig(t, rigOptions{})
	harness.Exec(t, r.pipeline.DBURL, "ALTER DATABASE "+r.pipeline.Name+" SET wal_sender_timeout = '500ms'")
	active := r.begin()
	standby := r.daemon()
	pauses := 0
	for ; r.goesOn(); pauses++ {
		r.published()
		if err := active.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		r.ready(standby)
		if r.rand.IntN(2) == 0 {
			r.published()
		}
		if err := active.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		active, standby = standby, active
	}
	t.Logf("paused %d times", pauses)
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	r.ready(active)
	r.finish(active)
}
