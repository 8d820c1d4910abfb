package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
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
	views    map[string]bool             // that are configured
	swept    bool                        // groups of other views are gone
	failed   bool                        // the last time, which was told
}

func (g *viewGroups) run(ctx context.Context, views *viewKeeper) error {
	g.moved = map[consumer.GroupMark]bool{}
	tick := time.NewTicker(groupsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := g.follow(ctx, views.progress())
		if err != nil && ctx.Err() == nil && !g.failed {
			g.log.Warn("the consumer groups of the views are not moved; the views themselves do not need them", "error", err,
				"fix", "an ACL user needs +xgroup and +xinfo")
		}
		g.failed = err != nil
	}
}

// progress is how far the views are that read the streams themselves and that this process keeps.
func (k *viewKeeper) progress() (list []*projector.Progress) {
	for _, st := range k.inStore() {
		if st.State == projector.StateRunning && st.Progress != nil {
			list = append(list, st.Progress)
		}
	}
	if k.documents != nil {
		for _, st := range k.documents.Status() {
			if st.Running && st.Progress != nil {
				list = append(list, st.Progress)
			}
		}
	}
	return list
}

// follow moves the groups of partitions in which something was read since, and destroys those of views that are gone.
func (g *viewGroups) follow(ctx context.Context, list []*projector.Progress) error {
	known := map[consumer.GroupMark]bool{}
	var todo []consumer.GroupMark
	for _, p := range list {
		for _, view := range slices.Sorted(maps.Keys(p.Live)) {
			keys, err := consumer.Partitions(ctx, g.client, g.pipeline, p.Live[view])
			if err != nil {
				return err
			}
			for _, key := range keys {
				place := consumer.GroupMark{Key: key, Group: groupOf(view), Seq: p.Seqs[key]} // the clock moves without events
				m := place
				m.Below = p.Clock
				if known[place] = true; !g.moved[place] {
					todo = append(todo, m)
				}
			}
		}
	}
	if err := consumer.MoveGroups(ctx, g.client, todo); err != nil {
		return err
	}
	g.moved = known
	if len(list) == 0 || g.swept {
		return nil
	}
	err := g.sweep(ctx)
	g.swept = err == nil
	return err
}

// sweep destroys the groups of views that have left the configuration, in all streams of the pipeline.
func (g *viewGroups) sweep(ctx context.Context) error {
	fields, err := g.client.HGetAll(ctx, event.MetaKey(g.pipeline)).Result()
	if err != nil {
		return err
	}
	meta, err := event.ParseMeta(fields)
	if err != nil {
		return err
	}
	keys, err := consumer.Partitions(ctx, g.client, g.pipeline, slices.Sorted(maps.Keys(meta.Streams)))
	if err != nil {
		return err
	}
	for _, key := range keys {
		groups, err := g.client.XInfoGroups(ctx, key).Result()
		if redis.HasErrorPrefix(err, "no such key") {
			continue
		}
		if err != nil {
			return err
		}
		for _, group := range groups {
			if view, ours := strings.CutPrefix(group.Name, groupOf("")); ours && !g.views[view] {
				if err := consumer.DropGroups(ctx, g.client, group.Name, []string{key}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func groupOf(view string) string { return "view:" + view }
