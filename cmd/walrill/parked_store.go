package main

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// parkedPage is how many entries of :parked are read at once.
const parkedPage = 500

// readParked reads the stream :parked.
func readParked(ctx context.Context, client redis.UniversalClient, pipeline string) ([]event.Parked, error) {
	key := event.ParkedKey(pipeline)
	var list []event.Parked
	for from := "-"; ; {
		entries, err := client.XRangeN(ctx, key, from, "+", parkedPage).Result()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		for _, e := range entries {
			p, err := event.ParseParked(e.ID, e.Values)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", key, err)
			}
			list = append(list, p)
		}
		if len(entries) < parkedPage {
			return list, nil
		}
		from = "(" + entries[len(entries)-1].ID
	}
}

// removeParked removes entries of the stream :parked.
func removeParked(ctx context.Context, client redis.UniversalClient, pipeline string, gone []event.Position) error {
	for rest := gone; len(rest) > 0; rest = rest[min(len(rest), parkedPage):] {
		ids := make([]string, 0, parkedPage)
		for _, p := range rest[:min(len(rest), parkedPage)] {
			ids = append(ids, p.ID())
		}
		if err := client.XDel(ctx, event.ParkedKey(pipeline), ids...).Err(); err != nil {
			return fmt.Errorf("remove what was resolved from %s: %w", event.ParkedKey(pipeline), err)
		}
	}
	return nil
}
