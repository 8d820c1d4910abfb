package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// probeWindow is how many partition keys are looked for at a time when the
// daemon has not said how many there are, until so many in a row do not exist:
// a partition that has had no event yet does not, although a later one may.
const probeWindow = 64

// discover learns how many partitions each stream has. It is repeated when a
// watermark has been learnt and before the partitions are read up to it: what
// is below the watermark is then in a partition that discover has seen. A stream
// of which nothing exists yet has no partitions.
func (r *Reader) discover(ctx context.Context) error {
	counts, err := countPartitions(ctx, r.opts.Client, r.opts.Pipeline, r.opts.Streams)
	if err != nil {
		return err
	}
	for i, n := range counts {
		r.grow(i, n)
	}
	return nil
}

// Partitions are the keys of some streams' partitions, as many as there are at present.
func Partitions(ctx context.Context, client redis.UniversalClient, pipeline string, streams []string) ([]string, error) {
	if len(streams) == 0 {
		return nil, nil
	}
	counts, err := countPartitions(ask(ctx, 0), client, pipeline, streams)
	var keys []string
	for i, n := range counts {
		if n > 0 {
			keys = append(keys, event.NewStream(streams[i], n).Keys...)
		}
	}
	return keys, err
}

// countPartitions is how many partitions each of some streams has.
func countPartitions(ctx context.Context, client redis.UniversalClient, pipeline string, streams []string) ([]int, error) {
	fields := make([]string, len(streams))
	for i, s := range streams {
		fields[i] = event.PartitionsField(s)
	}
	key := event.MetaKey(pipeline)
	said, err := client.HMGet(ctx, key, fields...).Result()
	if err != nil {
		return nil, fmt.Errorf("read partitions from %s: %w", key, err)
	}
	counts := make([]int, len(streams))
	for i, s := range streams {
		if text, ok := said[i].(string); ok {
			if counts[i], err = strconv.Atoi(text); err != nil {
				err = unreadable{err}
			}
		} else {
			counts[i], err = probe(ctx, client, s)
		}
		if err != nil {
			return nil, fmt.Errorf("read partitions of stream %s: %w", s, err)
		}
	}
	return counts, nil
}

// grow gives the stream n partitions, if it has fewer.
func (r *Reader) grow(i, n int) {
	if n <= len(r.streams[i].Keys) {
		return
	}
	s := event.NewStream(r.streams[i].Name, n)
	r.streams[i] = s
	lanes := map[string]*lane{}
	for _, l := range r.merge.lanes {
		lanes[l.key] = l
	}
	for partition, key := range s.Keys {
		if l := lanes[key]; l != nil {
			l.stream, l.partition = s, partition
			continue
		}
		if !r.chosen(key) {
			continue
		}
		r.merge.add(&lane{key: key, stream: s, partition: partition, read: r.start, last: r.start})
	}
}

// chosen asks whether a partition is read.
func (r *Reader) chosen(key string) bool {
	if r.opts.Choose == nil {
		return true
	}
	ok, err := r.opts.Choose(key)
	if err != nil {
		r.refused = err
	}
	return ok && err == nil
}

// probe counts a stream's partitions by the keys that exist: `name`, or up to
// the highest of `name:0`, `name:1` and so on.
func probe(ctx context.Context, client redis.UniversalClient, name string) (int, error) {
	if n, err := client.Exists(ctx, name).Result(); err != nil || n > 0 {
		return int(n), err
	}
	count := 0
	for from := 0; ; from += probeWindow {
		last, err := lastExisting(ctx, client, event.NewStream(name, from+probeWindow).Keys[from:])
		if err != nil || last < 0 {
			return count, err
		}
		count = from + last + 1
	}
}

// lastExisting is the index of the last of some keys that exists; -1 for none.
func lastExisting(ctx context.Context, client redis.UniversalClient, keys []string) (int, error) {
	exist := make([]*redis.IntCmd, len(keys))
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, key := range keys {
			exist[i] = pipe.Exists(ctx, key)
		}
		return nil
	})
	last := -1
	for i, cmd := range exist {
		if cmd.Val() > 0 {
			last = i
		}
	}
	return last, failure(err, exist)
}

// failure is what failed in a pipeline. Its own error is that of the first
// command that has one, which may be no more than redis.Nil, "there is nothing".
func failure[C redis.Cmder](err error, cmds []C) error {
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
	}
	return nil
}
