package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// As many single commits are measured as fit into the time, at most so many.
const (
	demoCommits     = 200
	demoMeasureTime = 1500 * time.Millisecond
)

// measure commits one small change at a time and takes how long each needs
// from Postgres's commit until a waiting XREAD has its event.
func (d *demo) measure(ctx context.Context) error {
	last, err := d.client.XRevRangeN(ctx, "customers", "+", "-", 1).Result()
	if err != nil || len(last) == 0 {
		return fmt.Errorf("demo: read customers: %d entries, %w", len(last), err)
	}
	id := last[0].ID
	for end := time.Now().Add(demoMeasureTime); len(d.result.latency) < demoCommits && time.Now().Before(end); {
		var took time.Duration
		if took, id, err = d.commitOne(ctx, id); err != nil {
			return fmt.Errorf("demo: measure latency: %w", err)
		}
		d.result.latency = append(d.result.latency, took)
	}
	slices.Sort(d.result.latency)
	return nil
}

// commitOne changes a customer and returns how long its event took and its
// entry's ID; id is that of the entry before.
func (d *demo) commitOne(ctx context.Context, id string) (time.Duration, string, error) {
	type answer struct {
		streams []redis.XStream
		at      time.Time
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		streams, err := d.client.XRead(ctx, &redis.XReadArgs{Streams: []string{"customers", id}, Count: 1, Block: demoTimeout}).Result()
		answers <- answer{streams, time.Now(), err}
	}()
	time.Sleep(time.Millisecond + rand.N(2*time.Millisecond)) // XREAD waits by then, and nothing else is in flight
	tag, err := d.db.Exec(ctx, "UPDATE customers SET visits = visits + 1 WHERE id = $1", 1+rand.N(demoCustomers))
	if err != nil {
		return 0, "", err
	}
	d.result.changes += int(tag.RowsAffected())
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	if a.err != nil {
		return 0, "", a.err
	}
	message := a.streams[0].Messages[0]
	e, err := event.ParseEntry(message.ID, message.Values)
	if err != nil {
		return 0, "", err
	}
	return a.at.Sub(e.Time), message.ID, nil
}

// percentile is the value of sorted durations that p percent do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}
