package projector

import (
	"context"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// A daemon has just ended, and its session is there a little longer.
func TestDropWaitsForASessionThatEnds(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	holder := storeSession(t, url)
	take := func() {
		if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock($1, hashtext('shop'))", lockClass); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Pipeline: "shop", StoreURL: url}
	take()
	if _, err := Drop(t.Context(), o, false, true); err == nil {
		t.Fatal("somebody keeps the views, and drop does not mind")
	}
	done := make(chan error, 1)
	go func() { _, err := Drop(context.WithoutCancel(t.Context()), o, false, true); done <- err }()
	harness.Eventually(t, patience, "drop has found the lock taken", func() bool {
		return harness.Value(t, url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = '"+sessionName("drop")+"' AND query LIKE '%try_advisory%'") == "1"
	})
	if err := holder.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
