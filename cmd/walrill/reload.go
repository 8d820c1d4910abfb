package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"syscall"
	"time"

	"github.com/walrill/walrill/bridge"
	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/transform"
)

const (
	reloadPoll  = 500 * time.Millisecond
	reloadRetry = 5 * time.Second // when it could not be checked

	reloadNone    = "none"
	reloadPending = "pending"
	reloadDone    = "done"
	reloadFailed  = "failed"
)

// reloader puts the configuration file in force when it changes, or at SIGHUP.
type reloader struct {
	path     string // "" without a file
	config   *config.Config
	pipeline *pipeline   // nil when only views are kept
	views    *viewRunner // nil when only changes are carried
	report   *reporter
	log      *slog.Logger

	handled stamp     // of the file that was read last; at first of none, as the file may have changed since the start read it
	polled  stamp     // a file that is being written is left alone until it rests
	retry   time.Time // when to try once more what could not be checked; zero when there is nothing to
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

func newReloader(path string, cfg *config.Config, views *viewRunner, report *reporter, log *slog.Logger) *reloader {
	return &reloader{path: path, config: cfg, views: views, report: report, log: log}
}

// stat is false while there is no file, as when an editor replaces it.
func (r *reloader) stat() (stamp, bool) {
	info, err := os.Stat(r.path)
	if err != nil {
		return stamp{}, false
	}
	return stamp{info.ModTime(), info.Size()}, true
}

// watch reloads until ctx ends.
func (r *reloader) watch(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ticker := time.NewTicker(reloadPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			if r.path == "" {
				r.log.Warn("SIGHUP: there is no configuration file to read again")
				continue
			}
			r.handled, _ = r.stat()
			r.reload(ctx)
		case <-ticker.C:
			if r.path != "" && r.due(time.Now()) {
				r.reload(ctx)
			}
		}
	}
}

// due reports whether the file has changed and rests, or is to be tried again.
func (r *reloader) due(now time.Time) bool {
	s, ok := r.stat()
	if !ok {
		return false
	}
	rests := s == r.polled
	r.polled = s
	changed := rests && s != r.handled
	if changed {
		r.handled = s
	}
	return changed || !r.retry.IsZero() && now.After(r.retry)
}

// reload reads the file and puts it in force, or says why not. An earlier file stays in force then.
func (r *reloader) reload(ctx context.Context) {
	again := !r.retry.IsZero()
	r.retry = time.Time{}
	cfg, err := r.read(ctx)
	switch {
	case ctx.Err() != nil: // the daemon stops
	case err == nil && cfg == r.config:
		r.report.reloading(reloadNone, nil)
	case err == nil:
		r.config = cfg
		r.report.reloading(reloadDone, nil)
		r.log.Info("the configuration was reloaded", "file", r.path)
	default:
		var unsure uncheckedError
		if errors.As(err, &unsure) {
			r.retry = time.Now().Add(reloadRetry)
		}
		r.report.reloading(reloadFailed, err)
		if !again || r.retry.IsZero() {
			r.log.Error("the configuration was not reloaded: the earlier one stays in force", "file", r.path, "error", err)
		}
	}
}

// uncheckedError: Postgres could not be asked; the file may be right.
type uncheckedError struct{ error }

// read returns the configuration that is in force then: the present one when the file says the same.
func (r *reloader) read(ctx context.Context) (*config.Config, error) {
	cfg, err := config.Load(r.path, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	if err := reloadable(r.path, r.config, cfg, r.views != nil); err != nil {
		return nil, err
	}
	streams := !reflect.DeepEqual(cfg.Streams, r.config.Streams)
	// A view depends on the streams that carry its tables.
	views := r.views != nil && (config.Fingerprint(cfg.Streams) != config.Fingerprint(r.config.Streams) && len(cfg.Views.List) > 0 ||
		config.Fingerprint(cfg.Views) != config.Fingerprint(r.config.Views))
	if !views && (!streams || r.pipeline == nil) {
		return r.config, nil
	}
	r.report.reloading(reloadPending, nil)
	if views {
		if err := r.views.check(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if streams && r.pipeline != nil {
		if err := r.remap(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if views {
		r.views.put(cfg)
	}
	return cfg, nil
}

// remap puts the mapping of a configuration in force.
func (r *reloader) remap(ctx context.Context, cfg *config.Config) error {
	mapping := mapfile.Mapping(cfg)
	trial, err := selectionOf(cfg, mapping)
	if err != nil {
		return err
	}
	tables, err := r.pipeline.source.Fit(ctx, trial)
	if err != nil {
		var setup *capture.SetupError
		if !errors.As(err, &setup) {
			err = uncheckedError{fmt.Errorf("Postgres could not be asked whether the tables fit; it is tried again: %w", err)}
		}
		return err
	}
	return r.pipeline.bridge.Reload(ctx, bridge.Reload{
		NewMapper: func(epoch uint8) (bridge.Mapper, error) { return transform.New(mapping, epoch) },
		Mapping:   recordOf(cfg),
		Tables:    tables,
		InForce: func() {
			r.pipeline.source.Select(trial)
			r.pipeline.inForce(cfg)
		},
	})
}

// reloadable refuses what cannot change while the daemon runs.
func reloadable(path string, old, cfg *config.Config, views bool) error {
	var problems []error
	for _, f := range []struct {
		name    string
		changed bool
		why     string
	}{
		{"pipeline", old.Pipeline != cfg.Pipeline, "the keys in Redis are named after it"},
		{"source.url", old.Source.URL.Reveal() != cfg.Source.URL.Reveal(), "the stream that is read is that of the database before"},
		{"source.slot", old.Source.Slot != cfg.Source.Slot, "it is being read from"},
		{"source.publication", old.Source.Publication != cfg.Source.Publication, "the stream was opened with it"},
		{"sink.url", old.Sink.URL.Reveal() != cfg.Sink.URL.Reveal(), "what is in flight goes to the Redis before"},
		{"sink.format", old.Sink.Format != cfg.Sink.Format, "the form of entries is chosen at the start"},
		{"views.store", views && old.Views.Store.Reveal() != cfg.Views.Store.Reveal(), "the views that are kept are in the one before"},
		{"views.schema", views && old.Views.Schema != cfg.Views.Schema, "the views that are kept are in the one before"},
		{"emit.stream of views", views && !slices.Equal(emittedStreams(old), emittedStreams(cfg)), "their streams are prepared at the start"},
		{"views.documents", views && old.Views.Documents.Reveal() != cfg.Views.Documents.Reveal(), "the documents that are kept are in the one before"},
	} {
		if f.changed {
			problems = append(problems, fmt.Errorf("%s: restart needed: %s has changed, and %s", path, f.name, f.why))
		}
	}
	if len(problems) == 0 && rest(old) != rest(cfg) {
		problems = append(problems, fmt.Errorf("%s: restart needed: a field outside of streams and views has changed, and only these can change while walrill runs", path))
	}
	for _, s := range cfg.Streams {
		for _, o := range old.Streams {
			if s.Name == o.Name && s.Partitions != o.Partitions {
				problems = append(problems, fmt.Errorf("%s: stream %s: partitions cannot change from %d to %d, not by a restart either: keys would move to other partitions and lose their order; "+
					"set it back to %[3]d, or use a new stream name", s.At, s.Name, o.Partitions, s.Partitions))
			}
		}
	}
	return errors.Join(problems...)
}

// rest is what a reload cannot change.
func rest(cfg *config.Config) string {
	c := *cfg
	c.Streams, c.Views = nil, config.Views{}
	return config.Fingerprint(c)
}
