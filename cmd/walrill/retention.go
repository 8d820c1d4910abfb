package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walrill/walrill/bridge"
	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/sink"
	"github.com/walrill/walrill/web"
)

const (
	// retainEvery is how often the streams are looked at, at most; more often when little may become old.
	retainEvery = 2 * time.Second
	// retainPatience is the longest wait when Redis does not let them be trimmed.
	retainPatience = time.Minute
	// heldPasses is for how many passes a group may keep a stream from being trimmed before it is told: that of a view which comes
	// back stands where it was left until the view is filled.
	heldPasses = 5
)

// retention trims the streams beside the pipeline, also while they take no entries, as a full Redis gets room by it.
type retention struct {
	config    *config.Config
	trimmer   *sink.Trimmer
	confirmed func() uint64 // LSN that Postgres was told; 0 when this instance is not to trim
	log       *slog.Logger
	every     time.Duration

	failed  bool           // the last pass, which was told
	refused string         // what the last pass left alone, which was told
	passes  map[holder]int // in a row in which a group was far behind; heldPasses when that was told

	counts map[string]uint64
	mu     sync.Mutex
	report *web.Retention // of the last pass; nil before the first
}

// holder is a consumer group that keeps a stream from being trimmed.
type holder struct{ stream, group string }

func retentionOf(cfg *config.Config) sink.Retention {
	r := cfg.Sink.Retention
	return sink.Retention{MaxAge: r.MaxAge, MaxEntries: uint64(r.MaxEntries), KeepUnread: r.KeepUnread}
}

// retain makes what trims the streams part of the report, if they are ever trimmed.
func (r *reporter) retain(log *slog.Logger) error {
	k, err := newRetention(r.config, r.mayTrim, log)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retained = k
	return err
}

// newRetention is nil when nothing is ever trimmed.
func newRetention(cfg *config.Config, confirmed func() uint64, log *slog.Logger) (*retention, error) {
	if retentionOf(cfg).None() {
		return nil, nil
	}
	trimmer, err := sink.NewTrimmer(sinkOptions(cfg))
	if err != nil {
		return nil, err
	}
	every := retainEvery
	if age := cfg.Sink.Retention.MaxAge; age > 0 {
		every = max(100*time.Millisecond, min(every, age/20))
	}
	for _, f := range needWhole(cfg) {
		log.Warn(f.Finding, "view", strings.TrimPrefix(f.Subject, "view "), "fix", f.Fix)
	}
	return &retention{config: cfg, trimmer: trimmer, confirmed: confirmed, log: log, every: every, passes: map[holder]int{}, counts: map[string]uint64{}}, nil
}

// needWhole are the views that cannot be built again once entries are trimmed.
func needWhole(cfg *config.Config) (list []finding) {
	if retentionOf(cfg).None() {
		return nil
	}
	for _, v := range cfg.Views.List {
		if v.Fold.Events != nil && !v.Fold.Now {
			list = append(list, finding{capture.LevelWarning, "view " + v.Name,
				"sink.retention trims what this fold is made of: once the first entries are gone, it cannot be rebuilt, nor its definition changed",
				"leave sink.retention out, or give the view `start: now`, if it may begin anew with what comes then"})
		}
	}
	return list
}

// mayTrim is what Postgres was told, when this instance streams or is about to.
func (r *reporter) mayTrim() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipeline == nil || !trims(r.pipeline.bridge.Status().State) {
		return 0
	}
	return uint64(r.slot.Confirmed)
}

// trims reports whether an instance in a state trims: also one that waits for a full Redis to begin.
func trims(s bridge.State) bool {
	return s == bridge.StateStreaming || s == bridge.StateConnecting || s == bridge.StateRetrying || s == bridge.StateStopping
}

// run trims until ctx ends, through every absence of Redis.
func (k *retention) run(ctx context.Context) {
	defer k.trimmer.Close()
	failures := 0
	for {
		wait := k.every
		if confirmed := k.confirmed(); confirmed == 0 {
			wait = min(wait, time.Second)
		} else {
			more, err := k.pass(ctx, confirmed)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				failures++
				wait = min(retainPatience, k.every<<min(failures, 16))
			case more:
				failures, wait = 0, 0
			default:
				failures = 0
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// pass trims once, and reports whether there is more.
func (k *retention) pass(ctx context.Context, confirmed uint64) (more bool, err error) {
	scopes := []sink.TrimScope{{Pipeline: k.config.Pipeline, Confirmed: confirmed}}
	if len(emittedStreams(k.config)) > 0 {
		scopes = append(scopes, sink.TrimScope{Pipeline: event.ViewsPipeline(k.config.Pipeline), Confirmed: event.MaxLSN})
	}
	now := time.Now()
	found, err := k.trimmer.Trim(ctx, now, scopes...)
	if ctx.Err() != nil {
		return false, nil
	}
	for _, s := range found.Streams {
		k.counts[s.Name] += s.Trimmed
	}
	k.logErrors(err, found.Refused)
	if err != nil {
		report := web.Retention{Streams: []web.RetainedStream{}, Held: []web.HeldStream{}}
		if last := k.now(); last != nil {
			report = *last
		}
		report.Error = redact(k.config, err.Error())
		k.tell(&report)
		return false, err
	}
	held := gather(found.Held)
	k.logHeld(held)
	report := &web.Retention{At: now.UTC(), Error: redact(k.config, refusal(found.Refused)), Streams: []web.RetainedStream{}, Held: []web.HeldStream{}}
	for _, s := range found.Streams {
		report.Streams = append(report.Streams, web.RetainedStream{Name: s.Name, Trimmed: k.counts[s.Name], Gone: s.Gone, Oldest: s.Oldest})
	}
	for _, h := range held {
		report.Held = append(report.Held, h.HeldStream)
	}
	k.tell(report)
	return found.More, nil
}

// refusal sums up why partitions were left alone.
func refusal(errs []error) string {
	switch len(errs) {
	case 0:
		return ""
	case 1:
		return errs[0].Error()
	}
	return fmt.Sprintf("%v (and %d more)", errs[0], len(errs)-1)
}

func (k *retention) tell(report *web.Retention) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.report = report
}

// now is what the last pass has found; nil when there was none.
func (k *retention) now() *web.Retention {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.report
}

// logErrors says what keeps the streams from being trimmed, when that has begun.
func (k *retention) logErrors(err error, errs []error) {
	refused := refusal(errs)
	if err != nil && !k.failed {
		k.log.Warn("the streams are not trimmed; trying again", "error", err, "fix", trimFix(err.Error()))
	}
	if err == nil && k.failed {
		k.log.Info("the streams are trimmed again")
	}
	k.failed = err != nil
	if err != nil {
		return
	}
	if refused != "" && refused != k.refused {
		k.log.Warn("some streams are not trimmed", "error", errors.New(refused), "fix", trimFix(refused))
	}
	k.refused = refused
}

// trimFix is what mends an error.
func trimFix(text string) string {
	if strings.Contains(text, "NOPERM") {
		return "an ACL user needs +xtrim +xrange +xinfo +xpending; `walrill check` says which it lacks"
	}
	return "`walrill status` shows whether it goes on"
}

// heldStream is what one group holds of one stream.
type heldStream struct {
	web.HeldStream
	holder
	overdue bool
}

// gather sums up what a group holds, over the partitions of each stream.
func gather(list []sink.Hold) []*heldStream {
	by := map[holder]*heldStream{}
	keys := map[holder][]string{}
	for _, h := range list {
		who := holder{h.Stream, h.Group}
		s := by[who]
		if s == nil {
			s = &heldStream{HeldStream: web.HeldStream{Stream: h.Stream, Group: h.Group, Oldest: h.Oldest}, holder: who}
			by[who] = s
		}
		s.Partitions++
		s.Unread += h.Unread
		s.overdue = s.overdue || h.Overdue
		if h.Oldest.Before(s.Oldest) {
			s.Oldest = h.Oldest
		}
		keys[who] = append(keys[who], h.Key)
	}
	out := slices.SortedFunc(maps.Values(by), func(a, b *heldStream) int {
		return cmp.Or(strings.Compare(a.Stream, b.Stream), strings.Compare(a.Group, b.Group))
	})
	for _, s := range out {
		slices.Sort(keys[s.holder])
		s.Fix = dropGroup(keys[s.holder], s.Group)
		if view, ours := strings.CutPrefix(s.Group, groupOf("")); ours {
			s.Fix = "see what holds the view " + view + " up (walrill status); if it is gone for good: " + s.Fix
		}
	}
	return out
}

// dropGroup is the command that removes a group from partitions.
func dropGroup(keys []string, group string) string {
	for i, key := range keys {
		keys[i] = shellQuote(key)
	}
	if len(keys) == 1 {
		return "redis-cli XGROUP DESTROY " + keys[0] + " " + shellQuote(group)
	}
	return "for key in " + strings.Join(keys, " ") + `; do redis-cli XGROUP DESTROY "$key" ` + shellQuote(group) + "; done"
}

func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// logHeld warns of each group that has kept a stream well beyond the limits for some passes, once until it has let go.
func (k *retention) logHeld(held []*heldStream) {
	now := map[holder]int{}
	for _, h := range held {
		n := k.passes[h.holder]
		if !h.overdue && n < heldPasses {
			continue
		}
		now[h.holder] = min(n+1, heldPasses)
		if n == heldPasses-1 {
			k.log.Warn("a consumer group keeps a stream from being trimmed", "stream", h.Stream, "group", h.Group, "unread", h.Unread,
				"oldest", h.Oldest.UTC().Format(time.RFC3339), "fix", "have it read on, or remove it: "+h.Fix)
		}
	}
	for h, n := range k.passes {
		if n == heldPasses && now[h] == 0 {
			k.log.Info("a consumer group does not keep a stream from being trimmed any more", "stream", h.stream, "group", h.group)
		}
	}
	k.passes = now
}

// printRetention adds to what `walrill status` prints.
func printRetention(row func(name, format string, args ...any), r *web.Retention) {
	var trimmed uint64
	oldest := r.At
	for _, s := range r.Streams {
		trimmed += s.Trimmed
		if !s.Oldest.IsZero() && s.Oldest.Before(oldest) {
			oldest = s.Oldest
		}
	}
	row("retention", "%d entries trimmed since the start; the oldest is %s old", trimmed, r.At.Sub(oldest).Round(time.Second))
	if r.Error != "" {
		row("", "not all is trimmed: %s", r.Error)
	}
	for _, h := range r.Held {
		row("", "%s: group %s has %d entries yet to read, and the oldest is %s old; if nobody reads them: %s", h.Stream, h.Group, h.Unread, r.At.Sub(h.Oldest).Round(time.Second), h.Fix)
	}
}
