package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/web"
)

// A process that keeps views alone says nothing of the slot and of Redis, and one that does not lead has no position.
func TestStatusOfViewsAlone(t *testing.T) {
	report := web.Report{Pipeline: "shop", State: "standby", Source: web.Source{SecondsToLoss: -1, SafeBytes: -1}, Reload: web.Reload{State: "none"},
		Views: &web.Views{State: "standby", Workers: &web.Workers{Workers: 4, Processes: 1, Here: make([]web.Worker, 2)}}}
	var out strings.Builder
	if err := printReport(&out, report, false); err != nil {
		t.Fatal(err)
	}
	want := "pipeline  shop\nstate     standby\nviews     standby\nworkers   2 here, of 4 over 1 process\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// A lag without a position would be the whole of the WAL.
func TestNoLagWithoutAPosition(t *testing.T) {
	v := &viewReporter{behind: map[string]time.Time{}}
	if b := v.lag("", 1000, 0); b != nil {
		t.Errorf("without a position: %+v", *b)
	}
	if b := v.lag("", 1000, 400); b == nil || b.LagBytes != 600 {
		t.Errorf("at 400 of 1000: %+v", b)
	}
	text, err := json.Marshal(&web.Views{State: "standby"})
	if err != nil || strings.Contains(string(text), "lag_") {
		t.Errorf("%s, %v", text, err)
	}
}
