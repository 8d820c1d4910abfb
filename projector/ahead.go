package projector

import (
	"context"
	"errors"

	"github.com/walrill/walrill/event"
)

// Limits of a portion that is read ahead. Three of them may be in memory, and the one that is handed out.
const (
	portionEvents = 1000
	portionBytes  = 1 << 20
)

// ahead reads a Feed in a goroutine of its own, so that the next events are read and decoded while the store works. After
// an error it reads nothing more.
type ahead struct {
	portions  chan portion
	now       portion // that is handed out
	watermark uint64
}

// portion is events, and what came behind them: nothing, a watermark that everything is below, or an error.
type portion struct {
	events    []event.Event
	bytes     int
	drained   bool
	watermark uint64
	err       error
}

func newAhead() *ahead { return &ahead{portions: make(chan portion, 2)} }

// read reads feed until it fails or ctx ends.
func (a *ahead) read(ctx context.Context, feed Feed) {
	for {
		p := nextPortion(ctx, feed)
		select {
		case a.portions <- p:
		case <-ctx.Done():
			return
		}
		if p.err != nil {
			return
		}
	}
}

func nextPortion(ctx context.Context, feed Feed) (p portion) {
	for len(p.events) < portionEvents && p.bytes < portionBytes {
		e, ok, err := feed.Step(ctx)
		switch {
		case err != nil:
			p.err = err
			return p
		case !ok:
			p.drained, p.watermark = true, feed.Watermark()
			return p
		}
		p.events = append(p.events, e)
		p.bytes += len(e.Data) + len(e.Old)
	}
	return p
}

// errIdle says that nothing has come in the time that there was.
var errIdle = errors.New("nothing has come")

// Step is Feed.Step, but for an end of ctx, which is errIdle and changes nothing: the next call goes on.
func (a *ahead) Step(ctx context.Context) (event.Event, bool, error) {
	for {
		if len(a.now.events) > 0 {
			e := a.now.events[0]
			a.now.events = a.now.events[1:]
			return e, true, nil
		}
		if a.now.err != nil {
			return event.Event{}, false, a.now.err
		}
		if a.now.drained {
			a.now.drained, a.watermark = false, a.now.watermark
			return event.Event{}, false, nil
		}
		select {
		case a.now = <-a.portions:
		case <-ctx.Done():
			return event.Event{}, false, errIdle
		}
	}
}

// Watermark is Feed.Watermark as of what Step has handed out.
func (a *ahead) Watermark() uint64 { return a.watermark }
