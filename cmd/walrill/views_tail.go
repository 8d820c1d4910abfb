package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
)

// feeds opens readers of the streams for a projector.
type feeds struct {
	client   redis.UniversalClient
	pipeline string
	log      *slog.Logger
}

// replayPatience is how long a lost tail may take to be published again before the views are filled anew.
const replayPatience = 30 * time.Second

// open opens a reader of the partitions that choose takes; of all when it is nil.
func (f *feeds) open(ctx context.Context, streams []string, after event.Position, choose func(key string) (bool, error)) (projector.Feed, error) {
	o := consumer.Options{Client: f.client, Pipeline: f.pipeline, Streams: streams, Choose: choose, Notify: consumer.LogNotices(f.log)}
	if !after.IsZero() {
		o.From = consumer.After(after)
	}
	for deadline := time.Now().Add(replayPatience); ; {
		r, err := consumer.Open(ctx, o)
		var loss *consumer.LossError
		switch {
		case err == nil:
			return r, nil
		case !errors.As(err, &loss):
			return nil, err
		case time.Now().After(deadline):
			return nil, &projector.MissingError{Err: err}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
