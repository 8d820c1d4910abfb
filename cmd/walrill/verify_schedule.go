package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/projector"
	"github.com/walrill/walrill/web"
)

// verifySoon is how long after the start the views are compared for the first time.
const verifySoon = time.Minute

// verifyAll compares the views with the source now and then, while this daemon is the one that keeps them.
func (v *viewReporter) verifyAll(ctx context.Context, cfg *config.Config, every time.Duration, log *slog.Logger) error {
	v.note(func(r *web.Verify) { r.Every = every.String() })
	timer := time.NewTimer(min(every, verifySoon))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if v.keeps() {
			v.verifyOnce(ctx, cfg, log)
		}
		timer.Reset(every)
	}
}

// keeps reports whether this daemon keeps views: those in the store, or where there are none the documents.
func (v *viewReporter) keeps() bool {
	if list := v.inStore(); len(list) > 0 {
		return slices.ContainsFunc(list, func(st projector.Status) bool { return st.State == projector.StateRunning })
	}
	return !slices.ContainsFunc(v.documents.Status(), func(d projector.DocumentStatus) bool { return !d.Running })
}

// verifyOnce compares all views and makes known what was found.
func (v *viewReporter) verifyOnce(ctx context.Context, cfg *config.Config, log *slog.Logger) {
	began := time.Now()
	list, err := verifyGroups(ctx, cfg, verifyOptions(cfg, v.streams, v.client, log))
	if ctx.Err() != nil {
		return
	}
	now := time.Now().UTC()
	if err != nil {
		log.Warn("the views could not be compared with the source", "error", err)
		v.note(func(r *web.Verify) {
			r.At, r.Took, r.Error = now, time.Since(began).Seconds(), redact(cfg, err.Error())
		})
		return
	}
	found := []web.Verified{}
	for _, c := range list {
		name := c.View
		if len(c.For) > 0 {
			name = c.Table
		}
		w := web.Verified{View: name, At: now, Rows: c.Rows, Differences: c.Found, Parked: len(c.Parked), Unjudged: len(c.Unjudged)}
		if c.NotJudged != "" && !c.ByDesign {
			w.Unjudged++
			log.Warn("a view could not be compared", "view", name, "why", c.NotJudged)
		}
		found = append(found, w)
		if c.Found > 0 {
			log.Error("a view is not what it should be; `walrill verify` shows the rows, and with --repair mends them",
				"view", name, "differences", c.Found, "first", string(firstKey(c)))
		}
	}
	v.note(func(r *web.Verify) { r.At, r.Took, r.Error, r.Views = now, time.Since(began).Seconds(), "", found })
}

func firstKey(c *projector.Comparison) []byte {
	if len(c.Differences) == 0 {
		return nil
	}
	return c.Differences[0].Key
}

// note changes what is known of the last comparison.
func (v *viewReporter) note(f func(*web.Verify)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verify == nil {
		v.verify = &web.Verify{Views: []web.Verified{}}
	}
	f(v.verify)
}

// verifySummary is the last comparison in a few words.
func verifySummary(v *web.Verify) string {
	if v.At.IsZero() {
		return "every " + v.Every + ", not yet"
	}
	ago := time.Since(v.At).Round(time.Second)
	if v.Error != "" {
		return fmt.Sprintf("failed %s ago: %s", ago, v.Error)
	}
	var rows int64
	differences, unjudged := 0, 0
	for _, w := range v.Views {
		rows, differences, unjudged = rows+w.Rows, differences+w.Differences, unjudged+w.Unjudged
	}
	text := fmt.Sprintf("%d rows compared %s ago, %d differ", rows, ago, differences)
	if unjudged > 0 {
		text += fmt.Sprintf(", %d could not be judged", unjudged)
	}
	return text
}
