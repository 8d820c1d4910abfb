package bridge

import (
	"context"
	"time"
)

// refreshInterval is how soon a new table is taken in.
const refreshInterval = 2 * time.Second

// refresh takes in new tables for as long as the session lasts; it returns how
// to end it. An error that is permanent ends the session; others are told
// once, until they change.
func (s *session) refresh(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		last := ""
		for s.rest(ctx) {
			err := s.bridge.opts.Refresh(ctx)
			switch {
			case ctx.Err() != nil:
			case err == nil:
				last = ""
			case isPermanent(err):
				s.broken.Store(&err)
				s.wake()
				return
			case err.Error() != last:
				last = err.Error()
				s.bridge.opts.Log.Warn("new tables cannot be taken in; what is captured goes on", "error", err)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// rest waits for the next time to look, and reports false when ctx ended first.
func (s *session) rest(ctx context.Context) bool {
	timer := time.NewTimer(refreshInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.look:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
