package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/walrill/walrill/capture"
)

const (
	followPoll = 300 * time.Millisecond
	lineEvery  = 10 * time.Second // without news
)

// backfillView shows backfills as they go on. end comes last.
type backfillView interface {
	show([]backfillReport)
	end()
}

func newBackfillView(w io.Writer) backfillView {
	if isTerminal(w) {
		return newBackfillBars(mpb.WithOutput(w))
	}
	return &backfillLines{w: w, said: map[string]said{}}
}

// followBackfills shows what pick chooses, until pick says that it is at its end. It returns nil when ctx ends.
func followBackfills(ctx context.Context, store *backfillStore, view backfillView, pick func([]backfillReport) ([]backfillReport, bool)) error {
	defer view.end()
	paces := map[string]backfillReport{}
	ticker := time.NewTicker(followPoll)
	defer ticker.Stop()
	for {
		all, err := readBackfills(ctx, store)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow the backfill, which goes on: %w", err)
		}
		list, ended := pick(all)
		for i := range list {
			list[i].Speed = pace(paces, list[i])
		}
		if view.show(list); ended {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// pace is the rows a second since we look: before, the daemon may have been down. first has each table as it was then.
func pace(first map[string]backfillReport, now backfillReport) float64 {
	before, known := first[now.Table]
	if !known || before.Rows > now.Rows || !before.Started.Equal(now.Started) {
		first[now.Table] = now
		return now.Speed
	}
	took := now.Updated.Sub(before.Updated)
	if now.State != capture.BackfillRunning || now.Rows == before.Rows || took <= 0 {
		return now.Speed
	}
	return float64(now.Rows-before.Rows) / took.Seconds()
}

// progress is a table's state in a few words.
func (b backfillReport) progress() string {
	switch {
	case b.Requested != "":
		return b.Requested + " requested"
	case b.Waits != "" && b.goesOn():
		return fmt.Sprintf("%s, %d rows, waits: %s", b.State, b.Rows, b.Waits)
	case b.State == capture.BackfillWaiting:
		return b.State
	case b.State == capture.BackfillRunning && left(b) != "-":
		return fmt.Sprintf("%d of %s rows, %.0f/s, %s left", b.Rows, percent(b), b.Speed, left(b))
	case b.State == capture.BackfillRunning:
		return fmt.Sprintf("%d rows, %.0f/s", b.Rows, b.Speed)
	case b.State == capture.BackfillDone:
		return fmt.Sprintf("done, %d rows, %s, in %s", b.Rows, size(b.Bytes), b.Finished.Sub(b.Started).Round(10*time.Millisecond))
	case b.Error != "":
		return b.State + ": " + b.Error
	}
	return fmt.Sprintf("%s, %d rows", b.State, b.Rows)
}

// backfillLines writes a line when there is news of a table, and now and then.
type backfillLines struct {
	w    io.Writer
	said map[string]said
}

// said is what was last written of a table.
type said struct {
	state string
	at    time.Time
}

func (l *backfillLines) show(list []backfillReport) {
	for _, b := range list {
		last := l.said[b.Table]
		now := said{b.State + b.Requested + b.Waits, time.Now()}
		if now.state != last.state || now.at.Sub(last.at) > lineEvery {
			fmt.Fprintf(l.w, "%s: %s\n", b.Table, b.progress())
			l.said[b.Table] = now
		}
	}
}

func (l *backfillLines) end() {}

// backfillBars draws a bar for each table. The text behind it is cut where the terminal ends.
type backfillBars struct {
	bars   *mpb.Progress
	tables map[string]*backfillBar
}

type backfillBar struct {
	bar *mpb.Bar
	now atomic.Pointer[backfillReport]
}

func newBackfillBars(options ...mpb.ContainerOption) *backfillBars {
	return &backfillBars{bars: mpb.New(append(options, mpb.WithRefreshRate(followPoll/2))...), tables: map[string]*backfillBar{}}
}

func (v *backfillBars) show(list []backfillReport) {
	for _, b := range list {
		t := v.tables[b.Table]
		if t == nil || !t.bar.IsRunning() && b.goesOn() { // a table that was at its end may begin anew
			t = v.add(b)
		}
		t.now.Store(&b)
		if b.Total > 0 && b.Where == "" {
			t.bar.SetTotal(max(b.Total, b.Rows), false)
		}
		switch t.bar.SetCurrent(b.Rows); {
		case b.goesOn():
		case b.State == capture.BackfillDone:
			t.bar.SetTotal(-1, true)
		default:
			t.bar.Abort(false)
		}
	}
}

func (v *backfillBars) add(b backfillReport) *backfillBar {
	t := &backfillBar{}
	t.now.Store(&b)
	t.bar = v.bars.AddBar(0, mpb.BarWidth(32), mpb.PrependDecorators(decor.Name(b.Table, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return t.now.Load().progress() })))
	v.tables[b.Table] = t
	return t
}

func (v *backfillBars) end() {
	for _, t := range v.tables {
		t.bar.Abort(false) // one that is at its end stays as it is
	}
	v.bars.Wait()
}
