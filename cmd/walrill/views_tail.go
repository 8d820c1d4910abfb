package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
)

// tailEvery is how often a feed that is at the watermark looks for what it can have missed.
const tailEvery = time.Second

// tailed is a feed that does not take a stream that was trimmed before it came there for one in which nothing happened: no later
// event says so. It looks before it says that everything below the watermark was handed out.
type tailed struct {
	*consumer.Reader
	client   redis.UniversalClient
	pipeline string
	streams  []string
	log      *slog.Logger

	start  event.Position
	last   map[string]event.Position // by partition
	looked time.Time
}

// Step implements projector.Feed.
func (f *tailed) Step(ctx context.Context) (event.Event, bool, error) {
	e, ok, err := f.Reader.Step(ctx)
	switch {
	case err != nil:
	case ok:
		f.last[e.Stream.Keys[e.Partition]] = e.Position
	case time.Since(f.looked) > tailEvery:
		if err = f.look(ctx, f.Watermark()); err == nil {
			f.looked = time.Now()
		}
	}
	return e, ok && err == nil, err
}

// look compares the last entry that each partition ever had, when it is below the watermark, with the last that came.
func (f *tailed) look(ctx context.Context, watermark uint64) error {
	keys, err := consumer.Partitions(ctx, f.client, f.pipeline, f.streams)
	if err != nil {
		return err
	}
	asked := map[string]*redis.XInfoStreamCmd{}
	pipe := f.client.Pipeline()
	for _, key := range keys {
		asked[key] = pipe.XInfoStream(ctx, key)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for key, cmd := range asked {
		info, err := cmd.Result()
		switch {
		case err != nil && redis.HasErrorPrefix(err, "no such key"):
			continue
		case err != nil && redis.HasErrorPrefix(err, "NOPERM"):
			f.log.Warn("the views cannot see whether streams were trimmed before they were read", "error", err)
			return nil
		case err != nil:
			return fmt.Errorf("look at stream %s: %w", key, err)
		}
		ever, err := event.ParseID(info.LastGeneratedID)
		if err != nil {
			return fmt.Errorf("look at stream %s: %w", key, err)
		}
		came := f.start
		if last, ok := f.last[key]; ok {
			came = last
		}
		if ever.Commit < watermark && ever.Compare(came) > 0 && (info.Length == 0 || info.LastEntry.ID != info.LastGeneratedID) {
			return &projector.MissingError{Err: fmt.Errorf("%s had an entry at %v, which was trimmed before it was read", key, ever)}
		}
	}
	return nil
}
