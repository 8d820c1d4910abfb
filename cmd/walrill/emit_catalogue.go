package main

import (
	"context"
	"log/slog"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/catalogue"
	"github.com/walrill/walrill/projector"
)

// judgeEmitted refuses what views emit when its data would break the consumers of what they have emitted.
func judgeEmitted(ctx context.Context, client redis.UniversalClient, cfg *config.Config, list []event.Schema) error {
	known, err := readVersions(ctx, client, event.ViewsPipeline(cfg.Pipeline))
	if err != nil {
		return err
	}
	for i := range list {
		if _, err := list[i].Judge(known); err != nil {
			return &projector.SetupError{Problem: "what they emit", Err: err}
		}
	}
	return nil
}

// emittedCatalogue says what views emit.
func emittedCatalogue(ctx context.Context, cfg *config.Config, client redis.UniversalClient) ([]catalogue.Stream, error) {
	names := emittedStreams(cfg)
	if names == nil {
		return nil, nil
	}
	versions, err := readVersions(ctx, client, event.ViewsPipeline(cfg.Pipeline))
	if err != nil {
		return nil, err
	}
	schemas, err := projector.EmittedSchemas(ctx, projectorOptions(cfg, client, slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	g := cataloguer{config: cfg, versions: versions, next: map[string]int{}}
	var list []catalogue.Stream
	for _, name := range names {
		stream := catalogue.Stream{Name: name, Keys: event.NewStream(name, 1).Keys, Events: []catalogue.Event{}}
		for i := range schemas {
			if schemas[i].Stream == name {
				stream.Events = append(stream.Events, g.emitted(&schemas[i]))
			}
		}
		if err := addSamples(ctx, client, &stream); err != nil {
			return nil, err
		}
		list = append(list, stream)
	}
	return list, nil
}

// emitted is an event of a view.
func (g *cataloguer) emitted(s *event.Schema) catalogue.Event {
	e := catalogue.Event{Type: s.Type, Table: s.Table, View: true, Key: s.Key}
	for _, v := range g.config.Views.List {
		for _, x := range v.Emit.Events {
			if g.config.Views.Schema+"."+v.Name == s.Table && x.Type == s.Type {
				e.Description, e.Owner = x.About.Description, x.About.Owner
			}
		}
	}
	g.number(&e, s)
	e.Fields = catalogue.FieldsOf(s.Columns)
	for i := range e.Fields {
		e.Fields[i].Required, e.Fields[i].Nullable = true, true
	}
	return e
}
