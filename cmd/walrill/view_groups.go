package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/projector"
)

// groupsEvery is how often the groups are moved.
const groupsEvery = 2 * time.Second

// viewGroups keeps a consumer group for each view in each partition that it reads, so that Redis's own tools show how far the
// view is. The position that counts is the one in the view store.
type viewGroups struct {
	client   redis.UniversalClient
	pipeline string
	log      *slog.Logger
	moved    map[consumer.GroupMark]bool // where they stand
	gone     map[string]bool             // groups of views that are not kept any more
	failed   bool                        // the last time, which was told
}

func (g *viewGroups) run(ctx context.Context, p *projector.Projector) error {
	g.moved, g.gone = map[consumer.GroupMark]bool{}, map[string]bool{}
	tick := time.NewTicker(groupsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		st := p.Status()
		if st.State != projector.StateRunning || st.Progress == nil {
			continue
		}
		err := g.follow(ctx, st.Progress)
		if err != nil && ctx.Err() == nil && !g.failed {
			g.log.Warn("the consumer groups of the views are not moved; the views themselves do not need them", "error", err,
				"fix", "an ACL user needs +xgroup and +xinfo")
		}
		g.failed = err != nil
	}
}

// follow moves the groups of partitions in which something was read since, and destroys those of views that are gone.
func (g *viewGroups) follow(ctx context.Context, p *projector.Progress) error {
	var marks []consumer.GroupMark
	for _, view := range slices.Sorted(maps.Keys(p.Live)) {
		keys, err := consumer.Partitions(ctx, g.client, g.pipeline, p.Live[view])
		if err != nil {
			return err
		}
		for _, key := range keys {
			marks = append(marks, consumer.GroupMark{Key: key, Group: groupOf(view), Below: p.Clock, Seq: p.Seqs[key]})
		}
		delete(g.gone, view)
	}
	known := map[consumer.GroupMark]bool{}
	var todo []consumer.GroupMark
	for _, m := range marks {
		place := m
		place.Below = 0 // the clock moves without events
		if known[place] = true; !g.moved[place] {
			todo = append(todo, m)
		}
	}
	if err := consumer.MoveGroups(ctx, g.client, todo); err != nil {
		return err
	}
	g.moved = known
	for view, streams := range p.Stopped {
		if g.gone[view] {
			continue
		}
		keys, err := consumer.Partitions(ctx, g.client, g.pipeline, streams)
		if err == nil {
			err = consumer.DropGroups(ctx, g.client, groupOf(view), keys)
		}
		if err != nil {
			return err
		}
		g.gone[view] = true
	}
	return nil
}

func groupOf(view string) string { return "view:" + view }
