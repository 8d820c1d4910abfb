package bridge

import (
	"strings"
	"testing"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

func TestCheckLineage(t *testing.T) {
	registered := event.Meta{System: "7", Timeline: 1}
	ours := event.Meta{System: "7", Timeline: 1, Baseline: 400}
	adopted := event.Meta{System: "7", Timeline: 1, Epoch: 1, Baseline: 400}
	repairing := event.Meta{System: "7", Timeline: 1, Baseline: 400, Repair: "x", RepairFrom: 500}
	begun := event.Meta{System: "7", Timeline: 1, Epoch: 1, Baseline: event.Clock(1, 700)}
	for _, c := range []struct {
		what      string
		meta      event.Meta
		watermark uint64
		source    Source
		start     change.LSN
		refused   string // part of the error; empty: taken
		timeline  int32
	}{
		{"new pipeline, new slot", event.Meta{}, 0, Source{SystemID: "7", Timeline: 1, SlotCreated: true}, 500, "", 1},
		{"registered, new slot", registered, 0, Source{SystemID: "7", Timeline: 1, SlotCreated: true}, 500, "", 1},
		{"the first start ended before a watermark", registered, 0, Source{SystemID: "7", Timeline: 1}, 500, "", 1},
		{"the slot was made by hand", event.Meta{}, 0, Source{SystemID: "7", Timeline: 1}, 500, "", 1},
		{"Redis has lost everything", event.Meta{}, 0, Source{SystemID: "7", Timeline: 1, SlotUsed: true}, 500, "knows nothing", 0},
		{"made anew by walrill, Redis is new too", event.Meta{}, 0, Source{SystemID: "7", Timeline: 1, SlotUsed: true, SlotCreated: true}, 500, "", 1},
		{"as it was left", ours, 500, Source{SystemID: "7", Timeline: 1}, 500, "", 1},
		{"the slot is behind: it repeats", ours, 900, Source{SystemID: "7", Timeline: 1}, 500, "", 1},
		{"promoted, nothing missing", ours, 500, Source{SystemID: "7", Timeline: 2, History: map[int32]change.LSN{1: 500}}, 500, "", 2},
		{"promoted behind the streams' end, the slot is older", ours, 900, Source{SystemID: "7", Timeline: 2, History: map[int32]change.LSN{1: 1000}}, 500, "", 2},
		{"promoted, the streams have more than it", ours, 900, Source{SystemID: "7", Timeline: 2, History: map[int32]change.LSN{1: 800}}, 500, "timeline 2", 0},
		{"promoted, the streams have more than it, though the slot was moved there", ours, 900, Source{SystemID: "7", Timeline: 2, History: map[int32]change.LSN{1: 800}}, 900, "left timeline 1 at 0/320", 0},
		{"promoted twice", ours, 900, Source{SystemID: "7", Timeline: 3, History: map[int32]change.LSN{1: 1000, 2: 1200}}, 500, "", 3},
		{"the old primary", event.Meta{System: "7", Timeline: 2, Baseline: 400}, 500, Source{SystemID: "7", Timeline: 1}, 500, "old primary", 0},
		{"promoted beside the one that the streams come from", event.Meta{System: "7", Timeline: 2, Baseline: 400}, 500, Source{SystemID: "7", Timeline: 3, History: map[int32]change.LSN{1: 450}}, 500, "does not come from there", 0},
		{"another Postgres", ours, 500, Source{SystemID: "8", Timeline: 1}, 500, "another Postgres", 0},
		{"the slot was made anew", ours, 500, Source{SystemID: "7", Timeline: 1, SlotCreated: true}, 700, "made anew", 0},
		{"Redis has lost its tail", ours, 500, Source{SystemID: "7", Timeline: 1}, 700, "lost entries", 0},
		{"Redis has lost the watermarks", ours, 0, Source{SystemID: "7", Timeline: 1}, 700, "lost entries", 0},
		{"Redis has lost :meta", event.Meta{}, 500, Source{SystemID: "7", Timeline: 1}, 500, ":meta", 0},
		{"adopted, first start", adopted, 500, Source{SystemID: "7", Timeline: 1, SlotCreated: true}, 700, "", 1},
		{"adopted after the watermarks were lost", adopted, 0, Source{SystemID: "7", Timeline: 1}, 700, "", 1},
		{"adopted, begun, and the watermarks lost again", begun, 0, Source{SystemID: "7", Timeline: 1}, 900, "lost entries", 0},
		{"adopted, going on", begun, event.Clock(1, 800), Source{SystemID: "7", Timeline: 1}, 800, "", 1},
		{"adopted, and lost since", begun, event.Clock(1, 800), Source{SystemID: "7", Timeline: 1}, 900, "lost entries", 0},
		{"a lost slot is being repaired", repairing, 500, Source{SystemID: "7", Timeline: 1}, 900, "", 1},
		{"repaired on a server that was promoted behind the streams", repairing, 500, Source{SystemID: "7", Timeline: 2, History: map[int32]change.LSN{1: 600}}, 900, "", 2},
		{"repaired on a server that lacks what the streams have", repairing, 500, Source{SystemID: "7", Timeline: 2, History: map[int32]change.LSN{1: 400}}, 900, "left timeline 1 at 0/190", 0},
		{":meta went back to before the adoption", ours, event.Clock(1, 800), Source{SystemID: "7", Timeline: 1}, 800, "epoch 1", 0},
	} {
		meta, err := CheckLineage(c.meta, c.watermark, c.source, c.start)
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%s: refused: %v", c.what, err)
		case c.refused == "" && (meta.Timeline != c.timeline || meta.System != c.source.SystemID || meta.Epoch != c.meta.Epoch):
			t.Errorf("%s: records %+v", c.what, meta)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), "fix:")):
			t.Errorf("%s: got %v, want an error with %q and its fix", c.what, err, c.refused)
		case c.refused != "" && !isPermanent(err):
			t.Errorf("%s: %v would be tried again", c.what, err)
		}
	}
}

func TestDroppedPipelineDoesNotStart(t *testing.T) {
	meta := event.Meta{System: "1", Timeline: 1, Dropped: "2026-11-23T05:00:00Z"}
	_, err := CheckLineage(meta, 0, Source{SystemID: "1", Timeline: 1}, 0)
	if err == nil || !isPermanent(err) || !strings.Contains(err.Error(), "walrill drop --streams") {
		t.Errorf("got %v, want an error that names the ways out", err)
	}
	meta.Dropped = ""
	if _, err := CheckLineage(meta, 0, Source{SystemID: "1", Timeline: 1}, 0); err != nil {
		t.Error(err)
	}
}
