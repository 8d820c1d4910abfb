package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

// demoFollower reads all streams as a consumer does and offers a transaction
// of its choice now and then.
type demoFollower struct {
	samples chan []event.Event // owned by who receives them

	reader *consumer.Reader
	began  time.Time
	events atomic.Int64
	behind atomic.Int64 // of the last event when it arrived, nanoseconds
	cancel context.CancelFunc
	done   chan struct{}
}

// Between samples a person can read; a longer transaction is cut.
const (
	demoSampleEvery = 1200 * time.Millisecond
	demoSampleMost  = 5
)

// followDemo starts to read what comes from now on. The follower must be stopped.
func followDemo(ctx context.Context, client redis.UniversalClient) (*demoFollower, error) {
	reader, err := consumer.Open(ctx, consumer.Options{Client: client, Pipeline: "demo", Streams: demoStreams, From: consumer.Now()})
	if err != nil {
		return nil, err
	}
	f := &demoFollower{samples: make(chan []event.Event), reader: reader, began: time.Now(), done: make(chan struct{})}
	ctx, f.cancel = context.WithCancel(ctx)
	go f.run(ctx)
	return f, nil
}

func (f *demoFollower) stop() {
	f.cancel()
	<-f.done
}

// run reads to the end of ctx. What is wrong with the streams is the check's
// business, which reads everything again; only an error that lasts ends it.
func (f *demoFollower) run(ctx context.Context) {
	defer close(f.done)
	var tx []event.Event
	next := time.Now()
	for ctx.Err() == nil {
		e, err := f.reader.Next(ctx)
		if aboutData(err) {
			continue
		}
		if err != nil {
			return
		}
		f.events.Add(1)
		f.behind.Store(int64(time.Since(e.Time)))
		if len(tx) > 0 && tx[0].Position.Commit != e.Position.Commit {
			if time.Now().After(next) {
				next = time.Now().Add(demoSampleEvery)
				f.offer(ctx, tx)
			}
			tx = nil
		}
		if len(tx) < demoSampleMost {
			tx = append(tx, e)
		}
	}
}

// aboutData reports whether an error says something about the streams, so that
// the reader goes on behind it.
func aboutData(err error) bool {
	var gap *consumer.GapError
	var entry *consumer.EntryError
	var late *consumer.LateError
	var loss *consumer.LossError
	return errors.As(err, &gap) || errors.As(err, &entry) || errors.As(err, &late) || errors.As(err, &loss)
}

func (f *demoFollower) offer(ctx context.Context, tx []event.Event) {
	select {
	case f.samples <- tx:
	case <-ctx.Done():
	}
}

// progress is the progress line.
func (f *demoFollower) progress(left time.Duration) string {
	n := int(f.events.Load())
	rate := float64(n) / time.Since(f.began).Seconds()
	return fmt.Sprintf("%2.0f s to go   %s events, %s a second   %d ms behind",
		math.Ceil(max(0, left.Seconds())), demoCount(n), demoCount(int(rate)), time.Duration(f.behind.Load()).Milliseconds())
}
