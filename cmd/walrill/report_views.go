package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
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
	byKey    []string // views

	mu     sync.Mutex
	behind map[string]time.Time // since when a view of documents, or "" for those of the store, is behind the watermark
	verify *web.Verify          // how they compare with the source; nil when that is not asked for
}

// keep makes the projector part of the report; nil when there is none.
func (r *reporter) keep(k *viewKeeper, client redis.UniversalClient) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.views = nil; k == nil {
		return
	}
	r.views = &viewReporter{viewKeeper: k, streams: client, pipeline: r.config.Pipeline, behind: map[string]time.Time{}}
	for _, v := range r.config.Views.List {
		if v.Consistency == config.ConsistencyKey {
			r.views.byKey = append(r.views.byKey, v.Name)
		}
	}
}

func (v *viewReporter) report(cfg *config.Config) *web.Views {
	documents := v.documents.Status()
	st := documentState(documents)
	if list := v.inStore(); len(list) > 0 {
		st = storeState(list)
	}
	out := &web.Views{State: st.State, Error: redact(cfg, st.Error), Gap: st.Gap, Events: st.Events, Transactions: st.Transactions, Parked: st.Parked, Views: []web.View{}}
	for _, w := range st.Views {
		out.Views = append(out.Views, web.View{Name: w.Name, Kind: w.Kind, State: w.State, Error: w.Error, Parked: w.Parked})
	}
	if v.keyed != nil {
		out.Workers = v.workers(out)
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
	out.Behind = v.lag("", watermark, st.Clock)
	for _, d := range documents {
		w := web.View{Name: d.Name, Kind: d.Kind, State: d.State, Error: redact(cfg, d.Error), Parked: d.Parked, Lag: &web.Lag{Running: d.Running}}
		if _, lsn := event.SplitClock(d.Clock); lsn != 0 {
			w.Position = change.LSN(lsn).String()
		}
		w.Behind = v.lag(d.Name, watermark, d.Clock)
		out.Parked += d.Parked
		out.Views = append(out.Views, w)
	}
	return out
}

// storeState sums up the two kinds of views in Postgres.
func storeState(list []projector.Status) projector.Status {
	sum := list[0]
	for _, st := range list[1:] {
		if stateRank(st.State) > stateRank(sum.State) {
			sum.State, sum.Error = st.State, st.Error
		}
		if sum.Clock == 0 || st.Clock != 0 && st.Clock < sum.Clock {
			sum.Clock = st.Clock
		}
		sum.Gap = cmp.Or(sum.Gap, st.Gap)
		sum.Events, sum.Transactions, sum.Parked = sum.Events+st.Events, sum.Transactions+st.Transactions, sum.Parked+st.Parked
		sum.Views = slices.Concat(sum.Views, st.Views)
	}
	slices.SortFunc(sum.Views, func(a, b projector.ViewStatus) int { return strings.Compare(a.Name, b.Name) })
	return sum
}

// stateRank puts what somebody should see first above what is well.
func stateRank(state string) int {
	return slices.Index([]string{projector.StateStandby, projector.StateRunning, projector.StateStopped, projector.StateConnecting, projector.StateRetrying, projector.StateFailed}, state)
}

// workers tells of those that keep views key by key, and adds what those of this process have done.
func (v *viewReporter) workers(out *web.Views) *web.Workers {
	st := v.keyed.Workers()
	w := &web.Workers{Workers: st.Workers, Processes: st.Processes, Halt: st.Halt, Here: []web.Worker{}}
	for _, h := range st.Here {
		one := web.Worker{Worker: h.Worker, Partitions: h.Partitions, Events: h.Events, Transactions: h.Transactions}
		if _, lsn := event.SplitClock(h.Clock); lsn != 0 {
			one.Position = change.LSN(lsn).String()
		}
		w.Here = append(w.Here, one)
		out.Events, out.Transactions = out.Events+h.Events, out.Transactions+h.Transactions
	}
	return w
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

// lag is how far a view is behind a watermark, and since when, as far as the watermark is known; nil without a position.
func (v *viewReporter) lag(view string, watermark, clock uint64) *web.Behind {
	if clock == 0 {
		delete(v.behind, view)
		return nil
	}
	var b web.Behind
	since := v.behind[view]
	switch {
	case watermark == 0:
	case watermark > clock:
		if since.IsZero() {
			since = time.Now()
			v.behind[view] = since
		}
		b.LagBytes = int64(watermark - clock)
	default:
		since = time.Time{}
		delete(v.behind, view)
	}
	if !since.IsZero() {
		b.LagSeconds = time.Since(since).Seconds()
	}
	return &b
}

func (v *viewReporter) wait(ctx context.Context, view string, lsn uint64, timeout time.Duration) (uint64, error) {
	for i := range v.views {
		if v.views[i].Name == view {
			return projector.WaitForDocuments(ctx, v.client, v.pipeline, &v.views[i], lsn, timeout)
		}
	}
	if v.keyed != nil && (v.store == nil || slices.Contains(v.byKey, view)) {
		return v.keyed.Wait(ctx, view, lsn, timeout)
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

// workersSummary is who keeps views key by key in a few words.
func workersSummary(w *web.Workers) string {
	switch {
	case w.Halt != "":
		return "stopped for a moment: " + w.Halt
	case w.Workers == 0:
		return "none: one session keeps the views for now"
	}
	if w.Processes == 1 {
		return fmt.Sprintf("%d here, of %d over 1 process", len(w.Here), w.Workers)
	}
	return fmt.Sprintf("%d here, of %d over %d processes", len(w.Here), w.Workers, w.Processes)
}
