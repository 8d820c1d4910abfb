package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

const (
	// blockFor is how long one XREAD waits for the next watermark. go-redis does
	// not interrupt a read when its context ends, so this, and the tenth of a
	// second that Redis may take to notice, is also how late an end is noticed.
	blockFor = 250 * time.Millisecond
	// pollCount is how many watermarks one XREAD takes: enough that a reader a
	// little behind needs no second question for the top.
	pollCount = 100
)

// Watermark is the pipeline's watermark W and the time it was written with:
// every event whose ID's first half is below W is in its partition. Both are
// zero when the pipeline has not published anything yet.
func Watermark(ctx context.Context, client redis.UniversalClient, pipeline string) (uint64, time.Time, error) {
	w, text, err := top(ctx, client, pipeline)
	if err != nil || w == 0 {
		return 0, time.Time{}, err
	}
	at, err := time.Parse(event.TimeFormat, text)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("read watermark from %s: entry %d-0: time: %w", event.CommitsKey(pipeline), w, err)
	}
	return w, at, nil
}

// top is the watermark and its time as text; zero when there is none.
func top(ctx context.Context, client redis.UniversalClient, pipeline string) (w uint64, at string, err error) {
	key := event.CommitsKey(pipeline)
	entries, err := client.XRevRangeN(ctx, key, "+", "-", 1).Result()
	if err != nil {
		return 0, "", fmt.Errorf("read watermark from %s: %w", key, err)
	}
	if len(entries) == 0 {
		return 0, "", nil
	}
	at, _ = entries[0].Values["time"].(string)
	w, err = watermarkOf(key, entries)
	return w, at, err
}

// Epoch is the epoch in force: `walrill adopt` raises it before anything is published in it.
func Epoch(ctx context.Context, client redis.UniversalClient, pipeline string) (uint8, error) {
	key := event.MetaKey(pipeline)
	fields, err := client.HMGet(ctx, key, event.EpochField).Result()
	if err != nil {
		return 0, fmt.Errorf("read the epoch from %s: %w", key, err)
	}
	text, ok := fields[0].(string)
	if !ok {
		return 0, nil // nothing has begun
	}
	epoch, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("read the epoch from %s: %w", key, unreadable{err})
	}
	return uint8(epoch), nil
}

// watermarkOf is the watermark that the last of some entries stands for.
func watermarkOf(key string, entries []redis.XMessage) (uint64, error) {
	pos, err := event.ParseID(entries[len(entries)-1].ID)
	if err != nil {
		return 0, fmt.Errorf("read watermark from %s: %w", key, unreadable{err})
	}
	return pos.Commit, nil
}

// WaitFor returns when everything that was committed up to an LSN is in the
// streams: when the watermark has reached it. lsn is Postgres's own number,
// such as a writer's pg_current_wal_lsn() after its commit, and is compared
// within the epoch in force. WaitFor fails when ctx ends or Redis does not
// answer; it never says that something is there when it is not.
func WaitFor(ctx context.Context, client redis.UniversalClient, pipeline string, lsn uint64) error {
	w, _, err := top(ctx, client, pipeline)
	for err == nil {
		if epoch, reached := event.SplitClock(w); w > 0 && reached >= lsn {
			var now uint8
			if now, err = Epoch(ctx, client, pipeline); err != nil {
				break
			}
			if epoch >= now {
				return nil
			}
		}
		if ctx.Err() != nil {
			break
		}
		w, err = nextWatermark(ctx, client, pipeline, w)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("wait for %s in the streams of %s: %w", clock(lsn), pipeline, err)
}

// nextWatermark waits a moment for a watermark above w. What it returns is the
// watermark as it is then, which may be w still, or below it after a loss.
func nextWatermark(ctx context.Context, client redis.UniversalClient, pipeline string, w uint64) (uint64, error) {
	block := blockFor
	if deadline, ok := ctx.Deadline(); ok {
		block = max(time.Millisecond, min(block, time.Until(deadline))) // 0 would be for ever
	}
	ctx = ask(ctx, block)
	key := event.CommitsKey(pipeline)
	reply, err := client.XRead(ctx, &redis.XReadArgs{
		Streams: []string{key, event.Position{Commit: w}.ID()},
		Count:   pollCount,
		Block:   block,
	}).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("read watermark from %s: %w", key, err)
	}
	if len(reply) == 0 || len(reply[0].Messages) == pollCount {
		w, _, err := top(ctx, client, pipeline)
		return w, err
	}
	return watermarkOf(key, reply[0].Messages)
}
