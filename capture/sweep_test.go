package capture

import (
	"strconv"
	"testing"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

// A transaction can be in the stream, and its events in the sink, while nobody sees its rows: they are not forgotten, but deleted when they can be seen.
func TestSweepOfInvisibleRows(t *testing.T) {
	url := ghost(t)
	harness.Exec(t, url, local+"CREATE TABLE outbox (id int PRIMARY KEY)")
	source := follow(t, url, newStore(), BackfillOptions{}).source
	woken := make(chan struct{}, 100)
	sweeper := source.Sweep(func() { woken <- struct{}{} })
	defer sweeper.Close()
	release := commitHidden(t, url, "INSERT INTO outbox VALUES (1)")
	xid, err := strconv.ParseUint(harness.Value(t, url, "SELECT backend_xid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	sweeper.See(&change.Change{Op: change.Insert, Relation: source.prepared()[0], New: []change.Value{value("1")}}, &change.Tx{CommitLSN: 10, XID: uint32(xid)})
	sweeper.Durable(20)
	harness.Eventually(t, 30*time.Second, "the sweeper has looked", func() bool {
		return harness.Value(t, url, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_current_snapshot%' AND pid <> pg_backend_pid()") == "1"
	})
	if lsn := sweeper.Durable(20); lsn != 10 {
		t.Errorf("up to %d may be confirmed while the row is invisible, want 10", lsn)
	}
	release()
	select {
	case <-woken:
	case <-time.After(30 * time.Second):
		t.Fatal("the row is not deleted when it is visible")
	}
	if lsn, rows := sweeper.Durable(20), harness.Value(t, url, "SELECT count(*) FROM outbox"); lsn != 20 || rows != "0" {
		t.Errorf("up to %d may be confirmed, and there are %s rows", lsn, rows)
	}
}
