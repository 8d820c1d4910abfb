package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/projector"
)

// viewRunner keeps the views of the configuration in force: when that is another one, they are kept by a new keeper, which goes on
// where the one before stopped between two batches.
type viewRunner struct {
	client redis.UniversalClient
	report *reporter
	log    *slog.Logger
	next   chan *config.Config // that is to be in force
}

func newViewRunner(client redis.UniversalClient, report *reporter, log *slog.Logger) *viewRunner {
	return &viewRunner{client, report, log, make(chan *config.Config, 1)}
}

// run keeps the views of cfg, and of what comes after it, until ctx ends. A configuration that cannot be begun with is given up
// for the one before; it is an error when there is none.
func (v *viewRunner) run(ctx context.Context, cfg *config.Config) error {
	var before *config.Config
	for {
		next, err := v.keep(ctx, cfg)
		switch {
		case next != nil:
			before, cfg = cfg, next
		case err != nil && before != nil && ctx.Err() == nil:
			v.report.reloading(reloadFailed, err)
			v.log.Error("the views that the configuration has now cannot be kept: those before are kept on", "error", err)
			before, cfg = nil, before
		default:
			return err
		}
	}
}

// keep keeps the views of a configuration until another one comes, or something cannot go on.
func (v *viewRunner) keep(ctx context.Context, cfg *config.Config) (next *config.Config, err error) {
	parts := newParts(ctx)
	parts.run(func(ctx context.Context) error {
		select {
		case next = <-v.next:
		case <-ctx.Done():
		}
		return nil
	})
	if len(cfg.Views.List) == 0 {
		v.report.keep(nil, nil)
		return next, parts.wait()
	}
	views, err := newViewKeeper(cfg, v.client, v.log)
	if err != nil {
		return nil, errors.Join(err, parts.stop())
	}
	defer views.close()
	v.report.keep(views, v.client)
	views.start(parts)
	groups := &viewGroups{client: v.client, pipeline: cfg.Pipeline, log: v.log, views: map[string]bool{}}
	for _, view := range cfg.Views.List {
		groups.views[view.Name] = true
		if view.Whole != "" {
			v.log.Warn(keptWhole, "view", view.Name, "reason", view.Whole)
		}
	}
	parts.run(func(ctx context.Context) error { return groups.run(ctx, views) })
	if views.store != nil {
		if e := newEmitter(cfg, views.store, v.log); e != nil {
			parts.run(e.run)
		}
	}
	if every := cfg.Views.VerifyEvery; every > 0 {
		report := v.report.views
		parts.run(func(ctx context.Context) error { return report.verifyAll(ctx, cfg, every, v.log) })
	}
	err = parts.wait()
	return next, err
}

// check plans the views of a configuration that is to be in force.
func (v *viewRunner) check(ctx context.Context, cfg *config.Config) error {
	o := projectorOptions(cfg, v.client, slog.New(slog.DiscardHandler))
	var err error
	for _, group := range groupOptions(cfg, v.client, slog.New(slog.DiscardHandler)) {
		if err == nil {
			err = projector.Plan(ctx, group)
		}
	}
	for _, d := range documentsOf(cfg) {
		if err == nil {
			_, err = projector.ExplainDocuments(ctx, o, &d)
		}
	}
	var setup *projector.SetupError
	if err != nil && !errors.As(err, &setup) {
		err = uncheckedError{fmt.Errorf("it could not be checked whether its views can be kept; it is tried again: %w", err)}
	}
	return err
}

// put has a configuration that was checked take the place of the one in force.
func (v *viewRunner) put(cfg *config.Config) {
	select {
	case <-v.next: // one that nobody has seen
	default:
	}
	v.next <- cfg
}
