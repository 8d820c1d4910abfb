package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

// viewNames are the views of a pipeline: those that are configured, and those that its store knew.
func viewNames(cfg *config.Config, list []removal) map[string]bool {
	names := map[string]bool{}
	for _, v := range cfg.Views.List {
		names[v.Name] = true
	}
	for _, r := range list {
		if r.What == "view" {
			names[r.Name] = true
		}
	}
	return names
}

// groups destroys the consumer groups of the pipeline's views in a stream that stays: nobody moves them any more, and what they lag grows.
func (d *dropper) groups(s *event.Stream) {
	found := map[string][]string{} // keys, by group
	var failed error
	for _, key := range s.Keys {
		groups, err := d.client.XInfoGroups(d.ctx, key).Result()
		if err != nil && !redis.HasErrorPrefix(err, "no such key") {
			failed = errors.Join(failed, fmt.Errorf("look for groups of %s: %w", key, err))
		}
		for _, group := range groups {
			for view := range d.named {
				if group.Name == groupOf(view) {
					found[group.Name] = append(found[group.Name], key)
				}
			}
		}
	}
	if failed != nil {
		d.list = append(d.list, removal{capture.NotRemoved, "groups", "of stream " + s.Name, failed.Error(), "walrill drop   # as a user with +xinfo and +xgroup"})
	}
	for _, group := range slices.Sorted(maps.Keys(found)) {
		r := removal{Outcome: capture.WouldRemove, What: "group", Name: group + " of stream " + s.Name}
		if !d.dry {
			r.Outcome = capture.Removed
			if err := consumer.DropGroups(d.ctx, d.client, group, found[group]); err != nil {
				r.Outcome, r.Reason, r.Fix = capture.NotRemoved, err.Error(), "walrill drop   # as a user with +xgroup"
			}
		}
		d.list = append(d.list, r)
	}
}
