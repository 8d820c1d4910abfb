package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/catalogue"
)

// sampleDepth is how many of a partition's newest entries are looked through for samples.
const sampleDepth = 200

// addSamples adds the newest entry of each type that is near the end of the stream.
func addSamples(ctx context.Context, client redis.UniversalClient, s *catalogue.Stream) error {
	newest := map[string]event.Event{}
	for _, key := range s.Keys {
		entries, err := client.XRevRangeN(ctx, key, "+", "-", sampleDepth).Result()
		if err != nil {
			return fmt.Errorf("read stream %s from Redis: %w", key, err)
		}
		for _, entry := range entries {
			e, err := event.ParseEntry(entry.ID, entry.Values)
			if err != nil {
				return fmt.Errorf("read stream %s: %w", key, err)
			}
			name := e.Type + " " + e.Table
			if before, ok := newest[name]; !ok || before.Position.Compare(e.Position) < 0 {
				newest[name] = e
			}
		}
	}
	for i := range s.Events {
		e := &s.Events[i]
		name := e.Type + " " + e.Table
		if n, ok := newest[name]; ok {
			e.Sample = sampleOf(&n)
			delete(newest, name)
		}
	}
	addSeen(s, newest)
	return nil
}

func sampleOf(e *event.Event) *catalogue.Sample {
	return &catalogue.Sample{ID: e.Position.ID(), Key: string(e.Key), Time: e.Time.UTC().Format(event.TimeFormat), Data: e.Data, Old: e.Old}
}

// addSeen adds the types that the application has lately written, of those that nothing declares, behind what tells of them.
func addSeen(s *catalogue.Stream, newest map[string]event.Event) {
	var list []catalogue.Event
	for _, e := range s.Events {
		list = append(list, e)
		if !e.Opaque {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(newest)) {
			if n := newest[name]; n.Table == e.Table {
				seen := e
				seen.Type, seen.Sample = n.Type, sampleOf(&n)
				list = append(list, seen)
			}
		}
	}
	s.Events = list
}
