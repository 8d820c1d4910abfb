package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/web"
)

// A process that keeps views alone says nothing of the slot and of Redis, and one that does not lead has no position.
func TestStatusOfViewsAlone(t *testing.T) {
	report := web.Report{Pipeline: "shop", State: "standby", Source: web.Source{SecondsToLoss: -1, SafeBytes: -1}, Reload: web.Reload{State: "none"},
		Views: &web.Views{State: "standby", LagBytes: 42080208, Workers: &web.Workers{Workers: 4, Processes: 1, Here: make([]web.Worker, 2)}}}
	var out strings.Builder
	if err := printReport(&out, report, false); err != nil {
		t.Fatal(err)
	}
	want := "pipeline  shop\nstate     standby\nviews     standby\nworkers   2 here, of 4 over 1 process\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
