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
	projector *projector.Projector
	client    redis.UniversalClient
	pipeline  string

	mu     sync.Mutex
	behind time.Time   // since when the views are behind the watermark; zero when they are not
	verify *web.Verify // how they compare with the source; nil when that is not asked for
}

// keep makes the projector part of the report.
func (r *reporter) keep(p *projector.Projector, client redis.UniversalClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.views = &viewReporter{projector: p, client: client, pipeline: r.config.Pipeline}
}

func (v *viewReporter) report(cfg *config.Config) *web.Views {
	st := v.projector.Status()
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
	watermark, _, err := consumer.Watermark(ctx, v.client, v.pipeline)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
	case watermark > st.Clock:
		if v.behind.IsZero() {
			v.behind = time.Now()
		}
		out.LagBytes = int64(watermark - st.Clock)
	default:
		v.behind = time.Time{}
	}
	if v.verify != nil {
		last := *v.verify
		out.Verify = &last
	}
	if !v.behind.IsZero() {
		out.LagSeconds = time.Since(v.behind).Seconds()
	}
	return out
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
	reached, err := views.projector.Wait(ctx, view, uint64(lsn), timeout)
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
