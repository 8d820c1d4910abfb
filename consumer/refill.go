package consumer

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// Limits of what one refill reads. XREAD counts entries of each partition and
// not bytes, so the count follows the size of the entries seen.
const (
	firstCount  = 64
	maxCount    = 1000
	chunkBudget = 8 << 20 // bytes, over all partitions of a refill
)

// refill reads the next entries of every partition that is hungry.
func (r *Reader) refill(ctx context.Context) error {
	ctx = ask(ctx, 0)
	var hungry []*lane
	for _, l := range r.merge.lanes {
		if l.hungry() {
			hungry = append(hungry, l)
		}
	}
	count := r.chunk.count(len(hungry))
	read, err := xread(ctx, r.opts.Client, hungry, count)
	if err != nil {
		r.chunk.failed()
		return err
	}
	entries, size := 0, 0
	for _, l := range hungry {
		queue, bytes, err := queueOf(read[l.key])
		if err != nil {
			return fmt.Errorf("read %s: %w", l.key, err)
		}
		entries, size = entries+len(queue), size+bytes
		r.merge.feed(l, queue, len(queue) == count)
	}
	r.chunk.saw(entries, size)
	return nil
}

// xread reads up to count entries of each lane behind what it has read, in one
// round trip: one command for all, except in a cluster, where each partition
// may be in another slot, and so on another node.
func xread(ctx context.Context, client redis.UniversalClient, lanes []*lane, count int) (map[string][]redis.XMessage, error) {
	groups := [][]*lane{lanes}
	if _, ok := client.(*redis.ClusterClient); ok {
		groups = groups[:0]
		for i := range lanes {
			groups = append(groups, lanes[i:i+1])
		}
	}
	cmds := make([]*redis.XStreamSliceCmd, len(groups))
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, group := range groups {
			cmds[i] = pipe.XRead(ctx, xreadArgs(group, count))
		}
		return nil
	})
	if err := failure(err, cmds); err != nil {
		return nil, fmt.Errorf("read partitions: %w", err)
	}
	read := make(map[string][]redis.XMessage, len(lanes))
	for _, cmd := range cmds {
		for _, s := range cmd.Val() {
			read[s.Stream] = s.Messages
		}
	}
	return read, nil
}

func xreadArgs(lanes []*lane, count int) *redis.XReadArgs {
	args := make([]string, 2*len(lanes))
	for i, l := range lanes {
		args[i], args[len(lanes)+i] = l.key, l.read.ID()
	}
	return &redis.XReadArgs{Streams: args, Count: int64(count), Block: -1}
}

// queueOf turns a reply into entries, and sums up their bytes.
func queueOf(messages []redis.XMessage) (queue []entry, bytes int, err error) {
	queue = make([]entry, len(messages))
	for i, m := range messages {
		pos, err := event.ParseID(m.ID)
		if err != nil {
			return nil, 0, unreadable{err}
		}
		queue[i] = entry{id: m.ID, pos: pos, fields: m.Values}
		for name, value := range m.Values {
			text, _ := value.(string)
			bytes += len(name) + len(text)
		}
	}
	return queue, bytes, nil
}

// chunk decides how many entries of each partition are read at a time.
type chunk struct {
	most int // entries of a partition: grows no faster than twofold
	size int // mean bytes of an entry, of the last refill that had any
}

func newChunk() chunk { return chunk{most: firstCount} }

// count is how many entries to read of each of so many partitions.
func (c *chunk) count(partitions int) int {
	n := min(c.most, maxCount)
	if c.size > 0 {
		n = min(n, chunkBudget/(c.size*partitions))
	}
	return max(n, 1)
}

// saw learns from what a refill has read.
func (c *chunk) saw(entries, bytes int) {
	if entries == 0 {
		return
	}
	c.size = max(1, bytes/entries)
	c.most = min(2*c.most, maxCount)
}

// failed asks for less: the answer may have been too long for the time it had.
func (c *chunk) failed() { c.most = max(1, c.most/2) }
