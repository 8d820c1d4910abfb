package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// refuse ends the session at a change that cannot be mapped. What committed before it is published first, however
// long that takes: it fits the mapping as it is, and may not fit the one that has been mended. Of the change's own
// transaction nothing is, as far as it is in our hands still.
func (s *session) refuse(ctx context.Context, err error) error {
	var old stale
	if at := s.clock(s.tx.CommitLSN); errors.As(err, &old) && old.Stale() && s.bridge.stale != at {
		s.bridge.stale = at
		return err
	}
	s.pub.Rewind(s.clock(s.tx.CommitLSN))
	s.bridge.status.enter(StateStopping, err)
	if e := s.meanwhile(ctx, s.pub.Drain); e != nil {
		if ctx.Err() == nil {
			return e // the next session comes to this change again
		}
		return fatal{fmt.Errorf("%w\nand not all that was committed before could be published, which the next start does: let it do so before you change the mapping: %w", err, e)}
	}
	return fatal{err}
}

// cutOff ends the session where Postgres cannot go on. What committed before is published first: whoever has the slot
// moved on behind that place would lose it. Without Redis the next session comes to this place again.
func (s *session) cutOff(ctx context.Context, err error) error {
	if s.inside {
		s.pub.Rewind(s.clock(s.tx.CommitLSN))
	}
	s.bridge.status.enter(StateStopping, err)
	ctx, cancel := context.WithTimeout(ctx, s.bridge.opts.StopTimeout)
	defer cancel()
	return cmp.Or(s.pub.Drain(ctx), err)
}

// drain finishes what is in flight.
func (s *session) drain() error {
	s.bridge.status.enter(StateStopping, nil)
	ctx, cancel := context.WithTimeout(context.Background(), s.bridge.opts.StopTimeout)
	defer cancel()
	if err := s.meanwhile(ctx, s.pub.Drain); err != nil {
		return fmt.Errorf("stop: Redis did not take everything within %s; nothing is lost, the next start sends it: %w", s.bridge.opts.StopTimeout, err)
	}
	return s.confirm()
}
