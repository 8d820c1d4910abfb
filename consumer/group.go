package consumer

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// A GroupMark is where a consumer group is to stand in one partition. The group reads nothing: it shows Redis's own
// tools how far a reader is that keeps its position elsewhere.
type GroupMark struct {
	Key, Group string
	Below      uint64 // everything below this clock was read
	Seq        uint64 // of the last event that was read; 0 when there was none
}

// MoveGroups moves consumer groups, makes those that are missing, and leaves partitions alone that do not exist. On Redis 7
// XINFO GROUPS then shows the true lag; before, Redis knows none. It needs the rights to XINFO STREAM, XGROUP SETID and
// XGROUP CREATE.
func MoveGroups(ctx context.Context, client redis.UniversalClient, marks []GroupMark) error {
	ctx = ask(ctx, 0)
	streams, err := describe(ctx, client, marks)
	if err != nil {
		return err
	}
	var todo []GroupMark
	for _, m := range marks {
		if streams[m.Key] != nil {
			todo = append(todo, m)
		}
	}
	missing, err := placeGroups(ctx, client, "setid", todo, streams)
	if err != nil || len(missing) == 0 {
		return err
	}
	_, err = placeGroups(ctx, client, "create", missing, streams)
	return err
}

// describe looks at the partitions; those that do not exist are not in the result.
func describe(ctx context.Context, client redis.UniversalClient, marks []GroupMark) (map[string]*redis.XInfoStream, error) {
	asked := map[string]*redis.XInfoStreamCmd{}
	pipe := client.Pipeline()
	for _, m := range marks {
		if asked[m.Key] == nil {
			asked[m.Key] = pipe.XInfoStream(ctx, m.Key)
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	streams := map[string]*redis.XInfoStream{}
	for key, cmd := range asked {
		switch info, failed := cmd.Result(); {
		case failed == nil:
			streams[key] = info
		case !redis.HasErrorPrefix(failed, "no such key"):
			return nil, fmt.Errorf("look at %s: %w", key, failed)
		}
	}
	return streams, nil
}

// placeGroups runs XGROUP verb for each mark, and returns those whose group does not exist.
func placeGroups(ctx context.Context, client redis.UniversalClient, verb string, marks []GroupMark, streams map[string]*redis.XInfoStream) ([]GroupMark, error) {
	cmds := make([]*redis.Cmd, len(marks))
	pipe := client.Pipeline()
	for i, m := range marks {
		args := []any{"xgroup", verb, m.Key, m.Group, before(m.Below).ID()}
		if n, ok := m.entriesRead(streams[m.Key]); ok {
			args = append(args, "entriesread", n)
		}
		cmds[i] = redis.NewCmd(ctx, args...)
		cmds[i].SetFirstKeyPos(2)
		_ = pipe.Process(ctx, cmds[i]) // it is only queued
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var missing []GroupMark
	for i, cmd := range cmds {
		switch failed := cmd.Err(); {
		case failed == nil:
		case redis.HasErrorPrefix(failed, "NOGROUP"):
			missing = append(missing, marks[i])
		case !redis.HasErrorPrefix(failed, "BUSYGROUP"): // another has made it meanwhile
			return nil, fmt.Errorf("move group %s in %s: %w", marks[i].Group, marks[i].Key, failed)
		}
	}
	return missing, nil
}

// entriesRead is how many of the entries that were ever added to the partition were read. ok is false when Redis does not
// count them, or the last one is not walrill's.
func (m *GroupMark) entriesRead(s *redis.XInfoStream) (n int64, ok bool) {
	if s.EntriesAdded == 0 {
		return 0, false
	}
	if s.Length == 0 {
		return s.EntriesAdded, true // what was not read is gone
	}
	last, ok := event.ParseSeq(s.LastEntry.Values)
	if !ok || last < m.Seq { // or Redis has lost its tail, which comes again
		return 0, false
	}
	return max(0, s.EntriesAdded-int64(last-m.Seq)), true
}

// DropGroups destroys a consumer group in those of the partitions that have it. It needs the right to XGROUP DESTROY.
func DropGroups(ctx context.Context, client redis.UniversalClient, group string, keys []string) error {
	ctx = ask(ctx, 0)
	cmds := make([]*redis.IntCmd, len(keys))
	pipe := client.Pipeline()
	for i, key := range keys {
		cmds[i] = pipe.XGroupDestroy(ctx, key, group)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, cmd := range cmds {
		if failed := cmd.Err(); failed != nil && !redis.HasErrorPrefix(failed, "The XGROUP subcommand requires the key to exist") {
			return fmt.Errorf("destroy group %s in %s: %w", group, keys[i], failed)
		}
	}
	return nil
}
