package event_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/event"
)

func TestMetaRoundTrip(t *testing.T) {
	for _, m := range []event.Meta{
		{},
		{System: "7123456789012345678", Timeline: 3, Epoch: 255, Baseline: 255<<56 | 500, Mapping: "c0ffee", Since: 255<<56 | 600, Outboxes: map[string]uint64{"public.outbox": 255<<56 | 550}, HTTP: "127.0.0.1:8077", Streams: map[string]int{"orders": 8, "a:b": 1}},
	} {
		got, err := event.ParseMeta(m.Fields())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestParseMetaRefusesNonsense(t *testing.T) {
	for _, fields := range []map[string]string{{"epoch": "256"}, {"epoch": "-1"}, {"timeline": "x"}, {"partitions:a": "many"}, {"outboxes": `{"a":"b"}`}, {"baseline": "0/16B3748"}} {
		if _, err := event.ParseMeta(fields); err == nil {
			t.Errorf("%v was taken", fields)
		}
	}
}
