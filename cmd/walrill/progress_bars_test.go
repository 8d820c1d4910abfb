package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/vbauerster/mpb/v8"

	"github.com/walrill/walrill/config"
)

// The bars say of what, and how far.
func TestProgressBars(t *testing.T) {
	var out bytes.Buffer
	options := []mpb.ContainerOption{mpb.WithOutput(&out), mpb.WithWidth(120), mpb.WithAutoRefresh()}
	verify := &verifyBars{bars: mpb.New(options...)}
	verify.show("orders_copy", 50, 200)
	verify.show("orders_copy", 200, 200)
	verify.show("totals", 10, 40)
	verify.end()
	replay := &replayBar{bars: mpb.New(options...)}
	replay.show(1000, 100, 300)
	replay.show(2000, 200, 300)
	replay.end()
	rebuild := &rebuildBar{options: options, view: "order_summary"}
	rebuild.show(t.Context())
	rebuild.end()
	for _, want := range []string{"orders_copy", "200 of about 200", "totals", "10 of about 40", "replay", "50 %", "order_summary", "being computed, 0s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, &out)
		}
	}

	out.Reset()
	silent := newRebuildBar(&out, &config.Config{}, nil, "seen")
	silent.show(t.Context())
	silent.end()
	if out.Len() > 0 {
		t.Errorf("where nobody looks it wrote %q", &out)
	}
}
