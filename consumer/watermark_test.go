package consumer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

func TestWatermark(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	w, at, err := Watermark(t.Context(), client, pipeline)
	if w != 0 || !at.IsZero() || err != nil {
		t.Errorf("before anything is published: %d, %v, %v", w, at, err)
	}
	daemon := newWriter(t, client)
	daemon.watermark(100)
	daemon.watermark(event.Clock(1, 50))
	w, at, err = Watermark(t.Context(), client, pipeline)
	if w != event.Clock(1, 50) || !at.Equal(someTime) || err != nil {
		t.Errorf("got %d, %v, %v", w, at, err)
	}
	if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: event.CommitsKey(pipeline), ID: "99999999999999999-0",
		Values: []string{"time", "noon"}}).Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Watermark(t.Context(), client, pipeline); err == nil || !strings.Contains(err.Error(), "noon") {
		t.Errorf("got error %v", err)
	}
}

func TestWaitForReturnsWhenTheWatermarkIsThere(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	daemon := newWriter(t, client)
	done := make(chan error, 1)
	go func() { done <- WaitFor(within(t), client, pipeline, 100) }()
	for commit := uint64(98); commit < 100; commit++ {
		daemon.watermark(commit)
	}
	select {
	case err := <-done:
		t.Fatalf("returned below the LSN, with %v", err)
	default:
	}
	daemon.watermark(100)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := WaitFor(within(t), client, pipeline, 99); err != nil {
		t.Errorf("for one that has passed: %v", err)
	}
}

func TestWaitForFailsPastTheTimeout(t *testing.T) {
	noLeaks(t)
	_, client := newRedis(t, nil)
	newWriter(t, client).watermark(event.Clock(1, 50)) // far above 100, but in another epoch
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err := WaitFor(ctx, client, pipeline, 100)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "0/64") {
		t.Errorf("got error %v", err)
	}
	if stats := client.PoolStats(); stats.StaleConns > 0 || stats.Timeouts > 0 {
		t.Errorf("the wait has cost a connection: %+v", stats)
	}
}
