package sink

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// benchEvent is an event of some 300 bytes, 420 as RESP.
func benchEvent(s *event.Stream) event.Event {
	return event.Event{Stream: s, Type: "accounts.updated", Key: []byte("123456"), Op: 'u', Table: "public.accounts",
		Time: time.Date(2026, 11, 3, 9, 5, 7, 0, time.UTC), Tx: 123456, Data: []byte(strings.Repeat("x", 172))}
}

// BenchmarkAppend is the run loop's side alone: what one event costs it.
func BenchmarkAppend(b *testing.B) {
	l := newLoop(b, Options{URL: "redis://127.0.0.1:1"})
	s := event.NewStream("accounts", 8)
	parts := make([]*partition, len(s.Keys))
	for i, key := range s.Keys {
		parts[i] = newPartition(key)
	}
	l.p.streams[s] = parts
	e := benchEvent(s)
	b.ReportAllocs()
	for b.Loop() {
		e.Position.Commit++
		e.Position.Ordinal = 1
		e.Partition = int(e.Position.Commit & 7)
		l.p.Append(&e)
		if l.p.Full() {
			l.p.cur.reset()
		}
	}
}

// BenchmarkPublish is all of it: to Redis and acknowledged.
func BenchmarkPublish(b *testing.B) {
	r := harness.NewRedis(b, harness.RedisOptions{})
	s := event.NewStream("accounts", 8)
	c := client(b, r.URL())
	for name, url := range map[string]string{"tcp": r.URL(), "unix": r.SocketURL()} {
		b.Run(name, func(b *testing.B) {
			c.FlushAll(b.Context())
			l := start(b, Options{URL: url}, s)
			e := benchEvent(s)
			b.ReportAllocs()
			for i := range b.N {
				e.Position = event.Position{Commit: uint64(i + 1), Ordinal: 1}
				e.Partition = i & 7
				l.p.Append(&e)
				l.p.Mark(uint64(i+1), e.Time)
				if l.p.Full() {
					l.offer()
				}
				if i%500_000 == 499_999 { // Redis's memory is not what is measured
					b.StopTimer()
					trim(c, s)
					b.StartTimer()
				}
			}
			l.settle()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
	b.Run("go-redis", func(b *testing.B) { goRedis(b, c, s) })
}

func trim(c *redis.Client, s *event.Stream) {
	for _, key := range s.Keys {
		c.XTrimMaxLen(context.Background(), key, 10)
	}
}

// goRedis publishes the same with a go-redis pipeline in a second goroutine.
func goRedis(b *testing.B, c *redis.Client, s *event.Stream) {
	c.FlushAll(b.Context())
	e := benchEvent(s)
	work := make(chan redis.Pipeliner, 1)
	done := make(chan error, 1)
	go func() {
		var failed error
		for pipe := range work {
			if _, err := pipe.Exec(context.Background()); err != nil {
				failed = err
			}
		}
		done <- failed
	}()
	b.ReportAllocs()
	pipe := c.TxPipeline()
	for i := range b.N {
		pipe.XAdd(b.Context(), &redis.XAddArgs{Stream: s.Keys[i&7], ID: event.Position{Commit: uint64(i + 1), Ordinal: 1}.ID(),
			Values: []any{"type", e.Type, "key", e.Key, "op", "u", "table", e.Table, "time", e.Time.Format(event.TimeFormat),
				"tx", e.Tx, "seq", i / 8, "data", e.Data}})
		if i%1000 == 999 {
			work <- pipe
			pipe = c.TxPipeline()
		}
		if i%500_000 == 499_999 {
			b.StopTimer()
			trim(c, s)
			b.StartTimer()
		}
	}
	work <- pipe
	close(work)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
