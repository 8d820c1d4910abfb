package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/walrill/walrill/config"
)

// rebuildBar shows on a terminal how far a rebuild is: the backfill of a mirror's table in rows, anything else in time.
type rebuildBar struct {
	options []mpb.ContainerOption // none where nobody looks
	view    string
	table   string // of a mirror
	store   *backfillStore

	bars  *mpb.Progress // made when there is something to show
	bar   *mpb.Bar
	text  atomic.Pointer[string]
	began time.Time
}

func newRebuildBar(w io.Writer, cfg *config.Config, client redis.UniversalClient, view string) *rebuildBar {
	b := &rebuildBar{view: view, store: &backfillStore{client: client, pipeline: cfg.Pipeline}}
	if isTerminal(w) {
		b.options = []mpb.ContainerOption{mpb.WithOutput(w)}
	}
	for _, v := range cfg.Views.List {
		if v.Name == view {
			b.table = v.Mirror
		}
	}
	return b
}

func (b *rebuildBar) say(text string) { b.text.Store(&text) }

// show is called now and then while the rebuild goes on. What cannot be learnt is not shown.
func (b *rebuildBar) show(ctx context.Context) {
	if b.options == nil {
		return
	}
	if b.bar == nil {
		b.bars, b.began = mpb.New(b.options...), time.Now()
		b.say("asked for")
		b.bar = b.bars.AddBar(0, mpb.BarWidth(32), mpb.PrependDecorators(decor.Name(b.view, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return *b.text.Load() })))
	}
	took := time.Since(b.began).Round(time.Second)
	b.say(fmt.Sprintf("being computed, %s", took))
	if b.table == "" {
		return
	}
	list, err := readBackfills(ctx, b.store)
	if err != nil {
		return
	}
	for _, r := range list {
		if r.Table == b.table {
			b.say(fmt.Sprintf("%s: %s, %s", r.Table, r.progress(), took))
			b.bar.SetTotal(max(r.Total, r.Rows, 1), false)
			b.bar.SetCurrent(r.Rows)
		}
	}
}

func (b *rebuildBar) end() {
	if b.bar != nil {
		b.bar.Abort(true)
		b.bars.Wait()
	}
}
