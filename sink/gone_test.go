package sink

import (
	"errors"
	"strings"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// What is deleted under a running publisher, over a connection that stays, is noticed by the next write to it,
// and nothing is written behind the loss.
func TestGoneWhileRunning(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	for name, deleted := range map[string][]string{
		"one partition": {"orders:1"},
		"all":           {"orders:0", "orders:1", "walrill:{shop}:commits"},
	} {
		t.Run(name, func(t *testing.T) {
			c.FlushAll(t.Context())
			s := newScript("orders", 100, 1)
			l := start(t, Options{URL: r.URL()}, s.stream)
			l.play(s, 0, 50)
			l.settle()
			c.Del(t.Context(), deleted...)
			l.play(s, 50, len(s.events))
			for l.p.Err() == nil {
				l.p.Offer()
				<-l.wake
			}
			var lost ErrTailLost
			if err := l.p.Err(); !errors.As(err, &lost) || !strings.HasPrefix(lost.Key, "orders:") || !lost.Found.IsZero() {
				t.Errorf("error %v, want one that says that a partition is gone", err)
			}
			if n := c.Exists(t.Context(), deleted...).Val(); n != 0 {
				t.Errorf("%d of %v were begun anew", n, deleted)
			}
		})
	}
	t.Run("watermarks", func(t *testing.T) { // these are known, and written again
		c.FlushAll(t.Context())
		s := newScript("orders", 100, 1)
		l := start(t, Options{URL: r.URL()}, s.stream)
		l.play(s, 0, 50)
		l.settle()
		c.Del(t.Context(), "walrill:{shop}:commits")
		l.play(s, 50, len(s.events))
		l.settle()
		complete(t, c, s)
	})
}
