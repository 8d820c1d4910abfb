package capture

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lanes read a table ahead of what is published: one does, and a second one over a connection of its own as long as there is a place for
// it. They cut pieces off the table one after the other and read them side by side; next gives them in the table's order.
type lanes struct {
	job   *job
	queue chan *reading // in order; closed when there are no more
	slots chan struct{} // one for each piece that is read or not published yet
	quit  context.Context
	stop  context.CancelFunc
	group sync.WaitGroup
	two   atomic.Bool // the second lane is there, or cannot be
	all   atomic.Bool // the queue is closed
	head  *reading    // given out by next and not published yet

	mu sync.Mutex // held while a piece is cut
	at position   // where the next piece begins
}

// chunksAhead is how many chunks of a table are in memory at most: one that is published, two that are read.
const chunksAhead = 3

// reading is a piece that is read, or was.
type reading struct {
	piece   piece
	chunk   *chunk
	window  *window  // nil when there is nothing to publish
	to      position // behind it
	started time.Time
	err     error
	read    chan struct{} // closed when it was read; the rest is valid then
}

// start begins to read ahead from where the state is.
func (j *job) start(ctx context.Context, r *tableReader) *lanes {
	ahead := chunksAhead
	if j.state.Rate > 0 {
		ahead = 1
	}
	l := &lanes{job: j, queue: make(chan *reading, ahead), slots: make(chan struct{}, ahead), at: j.state.position()}
	l.quit, l.stop = context.WithCancel(ctx)
	l.group.Go(func() { l.run(ctx, r, func() bool { return true }) })
	return l
}

// widen adds the second lane when the table can be cut before it is read, and no other table waits for the place. Rows are about so
// many bytes wide.
func (l *lanes) widen(ctx context.Context, r *tableReader, width int) {
	j := l.job
	if l.two.Load() || l.all.Load() || j.state.Rate > 0 || j.state.Where != "" || r.target.whole || r.target.filter != "" {
		return
	}
	place := j.b.places.spare()
	if place == nil {
		return
	}
	l.two.Store(true)
	l.group.Go(func() {
		defer place.give()
		conn, err := j.connect(l.quit)
		if err != nil {
			if l.quit.Err() == nil {
				j.b.log.Warn("a backfill has no second connection to read with, and goes on with one", "table", j.name, "error", err)
			}
			return
		}
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a chunk that is not committed is read again
		second := j.reader(conn, r.target)
		second.width = width
		l.run(ctx, second, place.held)
		l.two.Store(false)
	})
}

// run reads pieces as long as there are any, and it may.
func (l *lanes) run(ctx context.Context, r *tableReader, may func() bool) {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.quit.Done():
			return
		}
		if !may() {
			<-l.slots
			return
		}
		now := l.cut(ctx, r)
		if now == nil {
			return
		}
		if now.piece.until != nil {
			l.job.read(ctx, r, now)
		}
	}
}

// cut takes the next piece. What has no end yet is read at once: the next one begins behind it. It returns nil when there is none.
func (l *lanes) cut(ctx context.Context, r *tableReader) *reading {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all.Load() || l.quit.Err() != nil {
		return nil
	}
	now := &reading{read: make(chan struct{})}
	var more bool
	if now.piece, more, now.err = l.job.pieceAt(ctx, r, l.at, l.two.Load()); now.err != nil {
		close(now.read)
		l.queue <- now
	}
	if now.err != nil || !more {
		l.all.Store(true)
		close(l.queue)
		return nil
	}
	l.queue <- now // it has room for all slots
	if now.piece.until != nil {
		l.at = now.piece.at
		l.at.after = now.piece.until
		return now
	}
	if l.job.read(ctx, r, now); now.err != nil {
		l.all.Store(true)
		close(l.queue)
		return nil
	}
	l.at = now.to
	return now
}

// next waits for the next piece, in order; nil when there are no more.
func (l *lanes) next(ctx context.Context) (*reading, error) {
	ticker := time.NewTicker(backfillPoll)
	defer ticker.Stop()
	var now *reading
	queue, read := l.queue, (chan struct{})(nil)
	for {
		select {
		case next, ok := <-queue:
			if !ok {
				return nil, nil
			}
			l.head, now, queue, read = next, next, nil, next.read
		case <-read:
			return now, nil
		case <-ticker.C:
			l.job.saveMoved(ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// published gives a piece's place, and its memory, to another.
func (l *lanes) published(r *tableReader, now *reading) {
	select {
	case r.spares <- now.chunk:
	default:
	}
	l.head = nil
	<-l.slots
}

// close waits until nobody reads any more, and gives up what was read for nothing.
func (l *lanes) close() {
	l.stop()
	l.group.Wait()
	l.giveUp(l.head)
	for {
		select {
		case now := <-l.queue:
			if now == nil {
				return
			}
			l.giveUp(now)
		default:
			return
		}
	}
}

func (l *lanes) giveUp(now *reading) {
	if now != nil && now.window != nil {
		l.job.b.core.drop(now.window)
	}
}

// follows reports whether a piece begins where the state is; not if the one before it turned out too big to be read as one.
func (p *piece) follows(state *BackfillState) bool {
	return p.from.part == state.Part && slices.Equal(p.from.after, state.After) && slices.Equal(p.from.read, state.Read)
}
