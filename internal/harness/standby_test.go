package harness

import (
	"testing"
	"time"
)

// A standby follows its primary, has the failover slots, and takes writes once it is promoted.
func TestStandby(t *testing.T) {
	primary := NewPostgres(t, PostgresOptions{Version: 17})
	url := primary.URL("postgres")
	Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY)", "SELECT pg_create_logical_replication_slot('s', 'pgoutput', false, false, true)")
	standby := NewStandby(t, primary, StandbyOptions{})
	Exec(t, url, "INSERT INTO t VALUES (1)")
	at := standby.URL("postgres")
	Eventually(t, startTimeout, "the row arrives", func() bool { return Value(t, at, "SELECT count(*) FROM t") == "1" })
	Eventually(t, 2*startTimeout, "the slot is synchronised", func() bool {
		Exec(t, url, "SELECT pg_log_standby_snapshot()", "SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())")
		return Value(t, at, "SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = 's'") == "t"
	})
	start := time.Now()
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("promoted in %v", time.Since(start))
	Exec(t, at, "INSERT INTO t VALUES (2)")
	if got := Value(t, at, "SELECT timeline_id FROM pg_control_checkpoint()"); got == "" {
		t.Error("no timeline")
	}
}
