package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
	"github.com/walrill/walrill/web"
)

// viewReporter tells of the views that this daemon keeps.
type viewReporter struct {
	*viewKeeper
	streams  redis.UniversalClient
	pipeline string

	mu     sync.Mutex
	behind map[string]time.Time // since when a view of documents, or "" for those of the store, is behind the watermark
	verify *web.Verify          // how they compare with the source; nil when that is not asked for
}

// keep makes the projector part of the report.
func (r *reporter) keep(k *viewKeeper, client redis.UniversalClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.views = &viewReporter{viewKeeper: k, streams: client, pipeline: r.config.Pipeline, behind: map[string]time.Time{}}
}

func (v *viewReporter) report(cfg *config.Config) *web.Views {
	documents := v.documents.Status()
	st := documentState(documents)
	if v.store != nil {
		st = v.store.Status()
	}
	out := &web.Views{State: st.State, Error: redact(cfg, st.Error), Gap: st.Gap, Events: st.Events, Transactions: st.Transactions, Parked: st.Parked, Views: []web.View{}}
	for _, w := range st.Views {
		out.Views = append(out.Views, web.View{Name: w.Name, Kind: w.Kind, State: w.State, Error: w.Error, Parked: w.Parked})
	}
	_, lsn := event.SplitClock(st.Clock)
	if lsn != 0 {
		out.Position = change.LSN(lsn).String()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	watermark, _, err := consumer.Watermark(ctx, v.streams, v.pipeline)
	if err != nil {
		watermark = 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verify != nil {
		last := *v.verify
		out.Verify = &last
	}
	out.LagBytes, out.LagSeconds = v.lag("", watermark, st.Clock)
	for _, d := range documents {
		w := web.View{Name: d.Name, Kind: d.Kind, State: d.State, Error: redact(cfg, d.Error), Parked: d.Parked, Lag: &web.Lag{Running: d.Running}}
		if _, lsn := event.SplitClock(d.Clock); lsn != 0 {
			w.Position = change.LSN(lsn).String()
		}
		w.LagBytes, w.LagSeconds = v.lag(d.Name, watermark, d.Clock)
		out.Parked += d.Parked
		out.Views = append(out.Views, w)
	}
	return out
}

// documentState sums up views that are all documents.
func documentState(list []projector.DocumentStatus) projector.Status {
	st := projector.Status{State: projector.StateRunning}
	for i, d := range list {
		if !d.Running {
			st.State = projector.StateConnecting
			st.Error = d.Error
		}
		if i == 0 || d.Clock < st.Clock {
			st.Clock = d.Clock
		}
	}
	return st
}

// lag is how far a view is behind a watermark, and since when, as far as the watermark is known.
func (v *viewReporter) lag(view string, watermark, clock uint64) (bytes int64, seconds float64) {
	since := v.behind[view]
	switch {
	case watermark == 0:
	case watermark > clock:
		if since.IsZero() {
			since = time.Now()
			v.behind[view] = since
		}
		bytes = int64(watermark - clock)
	default:
		since = time.Time{}
		delete(v.behind, view)
	}
	if !since.IsZero() {
		seconds = time.Since(since).Seconds()
	}
	return bytes, seconds
}

func (v *viewReporter) wait(ctx context.Context, view string, lsn uint64, timeout time.Duration) (uint64, error) {
	for i := range v.views {
		if v.views[i].Name == view {
			return projector.WaitForDocuments(ctx, v.client, v.pipeline, &v.views[i], lsn, timeout)
		}
	}
	if v.store == nil {
		return 0, &projector.WaitError{View: view, Problem: "walrill keeps no view " + view}
	}
	return v.store.Wait(ctx, view, lsn, timeout)
}

// wait implements web.Waiter.
func (r *reporter) wait(ctx context.Context, view, text string, timeout time.Duration) (string, error) {
	r.mu.Lock()
	views := r.views
	r.mu.Unlock()
	if views == nil {
		return "", &web.WaitError{Err: errors.New("this daemon keeps no views"), Status: http.StatusNotFound}
	}
	lsn, err := change.ParseLSN(text)
	if err != nil {
		return "", &web.WaitError{Err: err, Status: http.StatusBadRequest}
	}
	reached, err := views.wait(ctx, view, uint64(lsn), timeout)
	var failed *projector.WaitError
	switch {
	case errors.As(err, &failed) && !failed.Known:
		return "", &web.WaitError{Err: err, Status: http.StatusNotFound}
	case errors.As(err, &failed):
		return "", &web.WaitError{Err: err, Status: http.StatusGatewayTimeout}
	case err != nil:
		return "", errors.New(redact(r.config, err.Error()))
	}
	return change.LSN(reached).String(), nil
}
