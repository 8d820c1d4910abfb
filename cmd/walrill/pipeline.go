package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/bridge"
	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/keys"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/sink"
	"github.com/walrill/walrill/transform"
)

// stopTimeout is how long a graceful stop waits for Redis.
const stopTimeout = 15 * time.Second

// pipeline is the stages of one configuration, joined.
type pipeline struct {
	config *config.Config
	source *capture.Source
	bridge *bridge.Bridge
	keys   *keys.Store // of data subjects
	// inForce is told of a configuration that was reloaded.
	inForce func(*config.Config)
}

// newPipeline joins the stages. Each session's publisher is shown to publishes.
func newPipeline(cfg *config.Config, httpAddr string, backfill capture.BackfillOptions, publishes func(*sink.Publisher), client redis.UniversalClient, log *slog.Logger) (*pipeline, error) {
	mapping := mapfile.Mapping(cfg)
	p := &pipeline{config: cfg}
	var err error
	if p.source, err = newSource(cfg, mapping, log, func(o *capture.Options) {
		o.Backfill, o.Repairs = backfill, cfg.Source.OnSlotLoss == config.OnSlotLossBackfill
	}); err != nil {
		return nil, err
	}
	if p.keys, err = subjectKeys(cfg); err != nil {
		return nil, err
	}
	p.bridge = bridge.New(bridge.Options{
		Prepare: func(ctx context.Context, known bridge.Known) (bridge.Source, error) {
			info, err := p.source.Prepare(ctx, capture.Known(known))
			return sourceOf(info), err
		},
		Open: func(ctx context.Context) (bridge.Stream, error) {
			stream, err := p.source.Open(ctx)
			if err != nil {
				return nil, err
			}
			return stream, nil
		},
		BeginRepair: beginRepair(cfg, p.source),
		MarkUsed:    p.source.MarkUsed,
		Lost:        p.source.Lost,
		Refresh:     p.source.Refresh,
		NewMapper:   func(epoch uint8) (bridge.Mapper, error) { return transform.New(mapping, epoch) },
		Sweep:       func(wake func()) bridge.Sweeper { return p.source.Sweep(wake) },
		NewPublisher: func(wake func()) (bridge.Publisher, error) {
			o := sinkOptions(cfg)
			o.Database, o.Log, o.Wake = p.source.Database(), log, wake
			pub, err := sink.New(o)
			if err != nil {
				return nil, err
			}
			publishes(pub)
			return pub, nil
		},
		Key:    p.keys.Key,
		Parked: func(ctx context.Context) ([]event.Parked, error) { return readParked(ctx, client, cfg.Pipeline) },
		Unpark: func(ctx context.Context, gone []event.Position) error {
			return removeParked(ctx, client, cfg.Pipeline, gone)
		},
		Pipeline:    cfg.Pipeline,
		Mapping:     recordOf(cfg),
		Entries:     recordedEntries,
		HTTP:        httpAddr,
		StopTimeout: stopTimeout,
		Log:         log,
	})
	return p, nil
}

func sinkOptions(cfg *config.Config) sink.Options {
	d := cfg.Sink.Durability
	return sink.Options{URL: cfg.Sink.URL.Reveal(), Pipeline: cfg.Pipeline, Format: event.Format(cfg.Sink.Format),
		Durability: sink.Durability{Replicas: d.Replicas, Fsync: d.Fsync, Timeout: d.Timeout}, Retention: retentionOf(cfg)}
}

// repair is capture's, as bridge wants it.
type repair struct{ *capture.Repair }

func (r repair) Run(ctx context.Context, id string) (bridge.Source, error) {
	info, err := r.Repair.Run(ctx, id)
	return sourceOf(info), err
}

// beginRepair is nil when a lost slot ends the process.
func beginRepair(cfg *config.Config, source *capture.Source) func(context.Context) (bridge.Repair, error) {
	if cfg.Source.OnSlotLoss != config.OnSlotLossBackfill {
		return nil
	}
	return func(ctx context.Context) (bridge.Repair, error) {
		r, err := source.BeginRepair(ctx)
		if err != nil {
			return nil, err
		}
		return repair{r}, nil
	}
}

func sourceOf(info capture.Info) bridge.Source {
	return bridge.Source{SystemID: info.SystemID, Timeline: info.Timeline, History: info.History,
		SlotCreated: info.SlotCreated, SlotUsed: info.SlotUsed, Tables: info.Tables}
}

// newSource makes the source of a configuration. A table is wanted when the
// mapping takes it. With may add to the options.
func newSource(cfg *config.Config, mapping transform.Mapping, log *slog.Logger, with func(*capture.Options)) (*capture.Source, error) {
	selection, err := selectionOf(cfg, mapping)
	if err != nil {
		return nil, err
	}
	options := capture.Options{
		URL:          cfg.Source.URL.Reveal(),
		Pipeline:     cfg.Pipeline,
		Slot:         cfg.Source.Slot,
		Publication:  cfg.Source.Publication,
		ReplayWindow: cfg.Sink.Durability.ReplayWindow,
		Selection:    selection,
		Log:          log,
	}
	if with != nil {
		with(&options)
	}
	return capture.NewSource(options)
}

// selectionOf is the tables that a mapping takes.
func selectionOf(cfg *config.Config, mapping transform.Mapping) (capture.Selection, error) {
	mapper, err := transform.New(mapping, 0)
	if err != nil {
		return capture.Selection{}, err
	}
	s := capture.Selection{Named: map[string]string{}, Prefixes: mapping.Prefixes(), Consumed: mapping.Consumes, Wanted: func(rel *change.Relation) (bool, error) {
		streams, err := mapper.Check(rel)
		return len(streams) > 0, err
	}}
	for _, stream := range cfg.Streams {
		for _, t := range stream.Named() {
			s.Named[t.Pattern] = t.At.String()
		}
	}
	return s, nil
}
