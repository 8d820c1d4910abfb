package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8"

	"github.com/walrill/walrill/event"
)

func TestBackfillBars(t *testing.T) {
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := func(table, state string, rows, total int64) backfillReport {
		return backfillReport{Table: table, Speed: 10, Backfill: event.Backfill{State: state, Rows: rows, Total: total, Bytes: 5 * rows, Started: started, Finished: started.Add(3 * time.Second)}}
	}
	waits, failed := state("public.notes", "waiting", 0, 0), state("public.notes", "failed", 0, 0)
	waits.Waits, failed.Error = "transaction 7 to end", "no such column"
	begun := []backfillReport{state("public.orders", "running", 50, 200), waits}
	ended := []backfillReport{state("public.orders", "done", 210, 210), failed}
	for _, tc := range []struct {
		shows [][]backfillReport
		want  []string
	}{
		{[][]backfillReport{begun}, []string{"public.orders  [=======>---", "50 of 200 (25%) rows, 10/s, 15s left", "public.notes   [------------------------------] waiting, 0 rows, waits: transaction 7 to end"}},
		{[][]backfillReport{begun, ended}, []string{"[==============================] done, 210 rows, 1.0 KiB, in 3s", "failed: no such column"}},
		{[][]backfillReport{begun, ended, begun}, []string{"50 of 200 (25%) rows"}},
	} {
		var out bytes.Buffer
		v := newBackfillBars(mpb.WithOutput(&out), mpb.WithWidth(120), mpb.WithAutoRefresh())
		for _, list := range tc.shows {
			v.show(list)
		}
		v.end()
		for _, want := range tc.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is not in %q", want, &out)
			}
		}
	}
}

func TestBackfillPace(t *testing.T) {
	first := map[string]backfillReport{}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	report := func(rows int64, after time.Duration) backfillReport {
		return backfillReport{Table: "t", Speed: 1, Backfill: event.Backfill{State: "running", Rows: rows, Started: at, Updated: at.Add(after)}}
	}
	for i, tc := range []struct {
		rows  int64
		after time.Duration
		want  float64
	}{{1000, time.Hour, 1}, {1000, time.Hour, 1}, {3000, time.Hour + 4*time.Second, 500}, {0, 2 * time.Hour, 1}, {90, 2*time.Hour + time.Second, 90}} {
		if got := pace(first, report(tc.rows, tc.after)); got != tc.want {
			t.Errorf("report %d: %v rows a second, want %v", i, got, tc.want)
		}
	}
}
