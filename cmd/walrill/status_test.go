package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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

// A daemon that answers for another pipeline is not taken for this one's, and is named.
func TestDaemonOfAnotherPipeline(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(web.Report{Pipeline: "billing", State: "streaming"})
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	if report, others := findDaemon(t.Context(), "billing", "", addr); report == nil || report.State != "streaming" || others != "" {
		t.Errorf("its own: %+v, %q", report, others)
	}
	report, others := findDaemon(t.Context(), "shop", "", addr)
	if report != nil || !strings.HasPrefix(others, addr+" is the daemon of pipeline billing; ") {
		t.Errorf("another's: %+v, %q", report, others)
	}
	if report, others := findDaemon(t.Context(), "shop", nowhere); report != nil || others != "" {
		t.Errorf("nobody: %+v, %q", report, others)
	}
}
