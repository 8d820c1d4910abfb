package consumer

import (
	"container/heap"
	"context"
	"fmt"
	"math"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// From says where a Reader starts. The zero value is the beginning.
type From struct {
	kind  startKind
	after event.Position
	last  int
}

type startKind int

const (
	fromBeginning startKind = iota
	fromNow
	fromAfter
	fromLast
)

// Beginning starts with the first entry that there is.
func Beginning() From { return From{} }

// Now starts with the first event that is not complete yet: at the present
// watermark.
func Now() From { return From{kind: fromNow} }

// After starts with the first event behind a position, such as the last one
// that was handled.
func After(p event.Position) From { return From{kind: fromAfter, after: p} }

// Last starts with the last n events of all the partitions together.
func Last(n int) From { return From{kind: fromLast, last: n} }

// before is the highest position below a commit.
func before(commit uint64) event.Position {
	if commit == 0 {
		return event.Position{}
	}
	return event.Position{Commit: commit - 1, Ordinal: math.MaxUint64}
}

// resolve makes a position of From: reading starts behind it. The partitions
// are known, and everything below the watermark w is in them.
func (r *Reader) resolve(ctx context.Context, w uint64) (event.Position, error) {
	from := r.opts.From
	switch {
	case from.kind == fromAfter:
		// A position that was handed out was below the watermark.
		if from.after.Commit >= max(w, 1) {
			return event.Position{}, &LossError{Key: event.CommitsKey(r.opts.Pipeline), Reached: from.after.Commit, Watermark: w}
		}
		return from.after, nil
	case from.kind == fromNow, from.kind == fromLast && from.last <= 0:
		return before(w), nil
	case from.kind == fromLast:
		return r.resolveLast(ctx, w)
	}
	return event.Position{}, nil
}

// resolveLast finds the position before the last n entries below the
// watermark. It keeps no more than the n highest positions found so far.
func (r *Reader) resolveLast(ctx context.Context, w uint64) (event.Position, error) {
	highest := newest{n: r.opts.From.last}
	for _, l := range r.merge.lanes {
		if err := r.readBack(ctx, l.key, before(w), &highest); err != nil {
			return event.Position{}, fmt.Errorf("read %s backwards: %w", l.key, err)
		}
	}
	return highest.before(), nil
}

// readBack pages through a partition from end backwards, until n entries have
// been read or one is older than the n highest already found elsewhere.
func (r *Reader) readBack(ctx context.Context, key string, end event.Position, highest *newest) error {
	for left := highest.n; left > 0; {
		count := min(left, r.chunk.count(1))
		page, err := r.opts.Client.XRevRangeN(ctx, key, end.ID(), "-", int64(count)).Result()
		if err != nil {
			return err
		}
		queue, bytes, err := queueOf(page)
		if err != nil {
			return err
		}
		if !highest.take(queue) || len(queue) < count {
			return nil
		}
		r.chunk.saw(len(queue), bytes)
		left -= count
		end = preceding(queue[count-1].pos)
	}
	return nil
}

// newest keeps the n highest positions, the lowest of them on top of a heap.
type newest struct {
	n    int
	kept positionHeap
}

// take takes a page of entries, latest first, and reports whether all of them
// were among the highest.
func (h *newest) take(page []entry) bool {
	for _, e := range page {
		if len(h.kept) == h.n {
			if e.pos.Compare(h.kept[0]) <= 0 {
				return false
			}
			heap.Pop(&h.kept)
		}
		heap.Push(&h.kept, e.pos)
	}
	return true
}

// before is the position in front of the lowest one kept; zero, the beginning,
// when there were not n.
func (h *newest) before() event.Position {
	if len(h.kept) < h.n {
		return event.Position{}
	}
	return preceding(h.kept[0])
}

// preceding is the highest position below p, zero for zero.
func preceding(p event.Position) event.Position {
	if p.Ordinal > 0 {
		return event.Position{Commit: p.Commit, Ordinal: p.Ordinal - 1}
	}
	return before(p.Commit)
}

type positionHeap []event.Position

func (h positionHeap) Len() int           { return len(h) }
func (h positionHeap) Less(i, j int) bool { return h[i].Compare(h[j]) < 0 }
func (h positionHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *positionHeap) Push(p any)        { *h = append(*h, p.(event.Position)) }

func (h *positionHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	*h = old[:len(old)-1]
	return p
}

// baselines learns what each partition has before the start, so that a
// gap right behind it is seen. Where that was trimmed away, nothing is known.
func (r *Reader) baselines(ctx context.Context) error {
	if r.start.IsZero() {
		return nil
	}
	cmds := make([]*redis.XMessageSliceCmd, len(r.merge.lanes))
	_, err := r.opts.Client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, l := range r.merge.lanes {
			cmds[i] = pipe.XRevRangeN(ctx, l.key, r.start.ID(), "-", 1)
		}
		return nil
	})
	if err := failure(err, cmds); err != nil {
		return fmt.Errorf("read the entries before %v: %w", r.start, err)
	}
	for i, l := range r.merge.lanes {
		for _, m := range cmds[i].Val() {
			pos, err := event.ParseID(m.ID)
			if err != nil {
				return fmt.Errorf("read %s: %w", l.key, err)
			}
			if seq, ok := event.ParseSeq(m.Values); ok { // else an entry of another program
				l.last, l.lastSeq = pos, seq
			}
		}
	}
	return nil
}
