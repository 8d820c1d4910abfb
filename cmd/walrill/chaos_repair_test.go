package main

import (
	"testing"
	"time"

	"github.com/walrill/walrill/internal/harness"
)

// The slot is dropped again and again under load, also while the daemon runs, and the daemon is killed at random
// moments: before, in and after its repair. In the end the streams must give the tables.
func TestChaosSlotLost(t *testing.T) {
	r := newRig(t, rigOptions{backfill: fillTables, gaps: true})
	r.flags = []string{"--backfill-chunk", "100"}
	r.workers.Keys, r.workers.NoTruncate, r.workers.Pause = 2000, true, 2*time.Millisecond
	d := r.begin()
	losses, kills := 0, 0
	for r.goesOn() {
		r.published()
		if r.rand.IntN(2) == 0 {
			r.dropSlot()
			losses++
			r.committed()
			if r.rand.IntN(3) == 0 {
				harness.Exec(t, r.pipeline.DBURL, "TRUNCATE wl_pair")
			}
		}
		for range r.rand.IntN(3) {
			harness.Eventually(t, patience, "the daemon does something", func() bool { return d.Output() != "" })
			if r.rand.IntN(2) == 0 {
				r.repairing(d)
			}
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
			kills++
			d = r.daemon()
		}
		r.ready(d)
	}
	r.dropSlot()
	r.ready(d)
	t.Logf("lost the slot %d times, killed the daemon %d times", losses+1, kills)
	harness.Eventually(t, 3*patience, "the last repair is over and every table is backfilled", func() bool {
		return harness.Value(t, r.pipeline.DBURL, "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = 'walrill_"+r.pipeline.Name+"'") == "1" &&
			isReady(d) && r.backfilled() == 4
	})
	r.settle(d)
	seen, err := r.pipeline.VerifyTables(t.Context())
	if err != nil {
		t.Errorf("the streams do not give the tables:\n%v", err)
	}
	t.Logf("%d entries, %d rows compared; %+v", seen.Entries, seen.Rows, r.written)
	if seen.Rows < 100 {
		t.Errorf("only %d rows: this says nothing", seen.Rows)
	}
}

// dropSlot drops the daemon's slot from under it.
func (r *rig) dropSlot() {
	r.t.Helper()
	name := "walrill_" + r.pipeline.Name
	harness.Eventually(r.t, patience, "the slot can be dropped", func() bool {
		harness.Value(r.t, r.pipeline.DBURL, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+name+"' AND active")
		dropped := harness.Try(r.pipeline.DBURL, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+name+"'")
		return dropped == nil
	})
}

// repairing waits until the daemon has begun to repair, or has nothing to.
func (r *rig) repairing(d *harness.Program) {
	r.t.Helper()
	harness.Eventually(r.t, patience, "the daemon repairs, or streams", func() bool {
		answer, err := get(d, "/api/status")
		state := stateOf(answer)
		return err == nil && (state == "repairing" || state == "streaming")
	})
}
