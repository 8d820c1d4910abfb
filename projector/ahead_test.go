package projector

import (
	"context"
	"errors"
	"testing"

	"github.com/walrill/walrill/event"
)

// listFeed hands out events, with a watermark behind each that is a multiple of ten thousand, and then fails or waits.
type listFeed struct {
	n, end    uint64
	told      bool
	fail      error
	waits     chan struct{} // gets a note when it waits
	watermark uint64
}

func (f *listFeed) Watermark() uint64 { return f.watermark }

func (f *listFeed) Step(ctx context.Context) (event.Event, bool, error) {
	if f.n%10_000 == 0 && f.n > 0 && !f.told {
		f.told, f.watermark = true, f.n+1
		return event.Event{}, false, nil
	}
	if f.n == f.end {
		if f.fail != nil {
			return event.Event{}, false, f.fail
		}
		f.waits <- struct{}{}
		<-ctx.Done()
		return event.Event{}, false, ctx.Err()
	}
	f.n, f.told = f.n+1, false
	return event.Event{Position: event.Position{Commit: f.n}, Data: make([]byte, 100)}, true, nil
}

func (f *listFeed) Ranks(context.Context) (map[string]uint64, error) { return nil, nil }

// What is read ahead comes in the same order, with the watermarks at the same places and the error at the end.
func TestAheadKeepsTheOrder(t *testing.T) {
	broken := errors.New("broken")
	a := newAhead()
	go a.read(t.Context(), &listFeed{end: 25_000, fail: broken})
	var n, drained uint64
	for {
		e, ok, err := a.Step(t.Context())
		if err != nil {
			if !errors.Is(err, broken) {
				t.Errorf("it ends with %v", err)
			}
			break
		}
		if !ok {
			drained++
			if a.Watermark() != n+1 || n != drained*10_000 {
				t.Fatalf("watermark %d behind event %d", a.Watermark(), n)
			}
			continue
		}
		if n++; e.Position.Commit != n {
			t.Fatalf("event %d comes as the %dth", e.Position.Commit, n)
		}
	}
	if n != 25_000 || drained != 2 {
		t.Errorf("%d events and %d watermarks", n, drained)
	}
	if _, _, err := a.Step(t.Context()); !errors.Is(err, broken) {
		t.Errorf("the next call says %v", err)
	}
}

// A call that ends by its own context loses nothing, and reading ends with the reader's.
func TestAheadWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, f := newAhead(), &listFeed{waits: make(chan struct{}, 1)}
	ended := make(chan struct{})
	go func() { a.read(ctx, f); close(ended) }()
	<-f.waits
	short, end := context.WithCancel(t.Context())
	end()
	if _, _, err := a.Step(short); !errors.Is(err, errIdle) {
		t.Errorf("a call without time says %v", err)
	}
	cancel()
	<-ended
}
