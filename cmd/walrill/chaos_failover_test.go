package main

import (
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// The primary dies under load and its standby, which has a copy of the slot, is promoted. Everybody finds
// it under the old address. Nothing that the new primary has is lost or repeated, and the streams have
// nothing that it lacks, because the primary sent the daemon only what the standby had.
func TestChaosFailover(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresOptions{Version: max(postgresVersion(t), 17)})
	standby := harness.NewStandby(t, pg, harness.StandbyOptions{})
	harness.Exec(t, pg.URL("postgres"), "ALTER SYSTEM SET synchronized_standby_slots = "+harness.StandbySlot, "SELECT pg_reload_conf()")
	via := harness.StartProxy(t, pg.Addr())
	r := newRig(t, rigOptions{postgres: pg, via: via})
	d := r.begin()
	harness.Eventually(t, 3*patience, "both slots are synchronised", func() bool {
		r.listen() // a slot that stands still is not
		harness.Exec(t, pg.URL("postgres"), "SELECT pg_log_standby_snapshot()")
		return harness.Value(t, standby.URL("postgres"), "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary") == "2"
	})
	r.published()
	before := len(r.history)
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	via.SetTarget(standby.Addr())
	harness.Eventually(t, patience, "the daemon waits for a primary", func() bool {
		answer, err := get(d, "/api/status")
		return err == nil && stateOf(answer) == "in_recovery"
	})
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.ready(d)
	r.writes(r.commits.Load() + 2*leastCompared)
	r.finish(d)
	if len(r.history)-before < leastCompared {
		t.Errorf("%d transactions since shortly before the failover: this says nothing", len(r.history)-before)
	}
}
