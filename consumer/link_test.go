package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

// refusal is an error reply of Redis.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestTransient(t *testing.T) {
	for err, want := range map[error]bool{
		io.EOF:                   true,
		context.DeadlineExceeded: true,
		errors.New("redis: all sentinels specified in configuration are unreachable"): true,
		refusal("LOADING Redis is loading the dataset in memory"):                     true,
		refusal("CLUSTERDOWN The cluster is down"):                                    true,
		refusal("MOVED 1 127.0.0.1:1"):                                                true,
		refusal("UNBLOCKED force unblock from blocking operation"):                    true,
		refusal("ERR max number of clients reached"):                                  true,
		refusal("NOAUTH Authentication required."):                                    false,
		refusal("WRONGPASS invalid username-password pair or user is disabled."):      false,
		refusal("NOPERM this user has no permissions to run the 'xread' command"):     false,
		refusal("ERR unknown command"):                                                false,
		redis.ErrClosed:                                                               false,
		unreadable{io.EOF}:                                                            false,
	} {
		if got := transient(fmt.Errorf("read: %w", err)); got != want {
			t.Errorf("transient(%v) = %v", err, got)
		}
	}
}

func TestTryWaitsLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var notices []Notice
		l := link{notify: func(n Notice) { notices = append(notices, n) }}
		began, attempts := time.Now(), 0
		err := l.try(t.Context(), func(context.Context) error {
			if attempts++; attempts <= 10 {
				return io.EOF
			}
			return nil
		})
		took := time.Since(began)
		// Ten waits: 10 ms doubled to 640 ms, then three of 1 s; each by half at most shorter.
		if most := 4270 * time.Millisecond; err != nil || attempts != 11 || took > most || took < most/2 {
			t.Errorf("error %v after %d attempts in %v", err, attempts, took)
		}
		if diff := cmp.Diff([]Notice{Disconnected{io.EOF}, Reconnected{took}}, notices, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
			t.Errorf("notices (-want +got):\n%s", diff)
		}
	})
}

func TestTryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l := link{notify: func(Notice) {}}
		err := l.try(ctx, func(context.Context) error { return io.EOF })
		if err != context.DeadlineExceeded {
			t.Errorf("got error %v", err)
		}
	})
}

func TestLogNotices(t *testing.T) {
	var b strings.Builder
	notify := LogNotices(slog.New(slog.NewTextHandler(&b, nil)))
	notify(Disconnected{io.EOF})
	notify(Reconnected{1500 * time.Millisecond})
	notify(Trimmed{Key: "orders:0", Seq: 8})
	for i, want := range []string{"level=WARN", "1.5s", "orders:0"} {
		if lines := slices.Collect(strings.Lines(b.String())); len(lines) != 3 || !strings.Contains(lines[i], want) {
			t.Errorf("line %d lacks %q: %q", i, want, lines)
		}
	}
}
