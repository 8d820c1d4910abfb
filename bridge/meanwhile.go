package bridge

import (
	"cmp"
	"context"
	"time"
)

// meanwhile runs something that may take long and keeps the replication
// connection alive; when that is not possible, because Postgres shuts down, it is broken off.
func (s *session) meanwhile(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	var beatErr error
	for {
		select {
		case err := <-done:
			// Many short ones in a row, such as a transaction of hundreds of new tables, are a long one too.
			if beatErr == nil && time.Since(s.beaten) > beat {
				beatErr = s.beat()
			}
			return cmp.Or(beatErr, err)
		case <-ticker.C:
			if beatErr == nil {
				if beatErr = s.beat(); beatErr != nil {
					cancel()
				}
			}
		}
	}
}

func (s *session) beat() error {
	s.beaten = time.Now()
	return s.stream.Beat()
}

const beat = 100 * time.Millisecond

// wake is called by the publisher's goroutine.
func (s *session) wake() {
	signal(s.kick)
	s.stream.Wake()
}

// signal leaves a note in a channel of capacity 1.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
