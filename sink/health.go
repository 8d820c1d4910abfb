package sink

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
)

// What a publisher is doing, as Status.State says it.
const (
	StateConnecting = "connecting" // has not been connected yet
	StateConnected  = "connected"
	StateRetrying   = "retrying" // Redis does not take what it is sent; ErrorKind and Error say why
	StateFailed     = "failed"   // for good; Err says why
)

// health follows whether Redis takes what it is sent. It logs when that
// changes or the reason does, not at every try. Any goroutine may use it.
type health struct {
	mu     sync.Mutex
	log    *slog.Logger
	state  string
	since  time.Time // of the state
	kind   kind      // of the last error; empty when there was none
	text   string
	server string
	errors map[string]uint64
}

func (h *health) init(log *slog.Logger) {
	*h = health{log: log, state: StateConnecting, since: time.Now(), errors: map[string]uint64{}}
}

// failed notes an error that will be retried.
func (h *health) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := kindOf(err)
	h.errors[string(k)]++
	changed := h.state != StateRetrying || h.kind != k
	if h.state != StateRetrying {
		h.state, h.since = StateRetrying, time.Now()
	}
	h.kind, h.text = k, err.Error()
	if changed {
		h.log.Warn("Redis does not take what it is sent; trying again until it does",
			"kind", k, "error", h.text, "hint", hint(k))
	}
}

// recovered notes that Redis has taken what it was sent.
func (h *health) recovered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == StateConnected {
		return
	}
	if h.state == StateRetrying {
		h.log.Info("Redis takes what it is sent again", "kind", h.kind, "after", time.Since(h.since).Round(time.Millisecond))
	}
	h.state, h.since = StateConnected, time.Now()
}

// connected notes which server is written to.
func (h *health) connected(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.server = l.master
	if h.server == "" {
		h.server = l.nodes()[0]
	}
}

// snapshot fills in what Status says of errors.
func (h *health) snapshot(s *Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.State, s.Since, s.Server = h.state, h.since, h.server
	s.ErrorKind, s.Error = string(h.kind), h.text
	s.Errors = maps.Clone(h.errors)
}

const (
	firstDelay = 20 * time.Millisecond
	maxDelay   = 5 * time.Second
)

// backoff waits before the next attempt: exponentially longer, up to a limit,
// with jitter, so that many instances do not come back at once. It reports
// false when ctx ends first.
func (p *Publisher) backoff(ctx context.Context, attempt int) bool {
	delay := min(maxDelay, p.firstDelay<<min(attempt, 16))
	timer := time.NewTimer(delay/2 + rand.N(delay/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
