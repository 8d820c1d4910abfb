// Package consumer reads what walrill publishes: it follows all partitions of
// one or more streams and hands out their events in commit order.
//
// It owns the reading side of the protocol: the watermark, the merge of
// partitions, where to start, and telling what is missing. It must not know how
// entries come to be written, nor what is done with the events. Any client that
// keeps to the same steps can do the same:
//
//  1. Learn the watermark W, the top of walrill:{pipeline}:commits.
//  2. Learn the partitions, then read each up to W: what is read after W was
//     learnt has every entry below W.
//  3. Hand out everything below W in the order of IDs; keep what is above.
//  4. Wait on :commits for the next W.
//
// On Redis this needs the commands XREAD, XREVRANGE, HMGET and EXISTS, and the
// right to read (%R~) the streams and walrill:{pipeline}:*. Step and Ranks need XINFO, too.
package consumer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// Options says what a Reader reads.
type Options struct {
	// Client stays the caller's, who closes it. It must read from masters.
	Client   redis.UniversalClient
	Pipeline string
	Streams  []string // at least one
	From     From
	// Choose says whether a partition is read, by its key; nil reads all. It is asked once for each, before anything below a
	// watermark that the partition may have entries of. Its error is that of the Reader from there on.
	Choose func(key string) (bool, error)
	// NoFollow ends with io.EOF when everything below the watermark of the
	// moment of Open has been handed out.
	NoFollow bool
	// Notify hears of what is no error, within calls of Next. It may be nil.
	Notify func(Notice)
}

// Reader follows streams. It holds no connection and no goroutine of its own
// between calls, so there is nothing to close. One goroutine may use it at a time.
type Reader struct {
	opts    Options
	link    link
	streams []*event.Stream // as many keys as partitions are known
	start   event.Position  // reading began behind it
	merge   merge
	chunk   chunk
	told    uint64       // the watermark that Step has told of
	lost    bool         // the watermark is below one that was reached, which was reported
	held    *event.Event // comes next, behind an error about it
	looked  time.Time    // when Step looked for what was trimmed before it was read
	owed    bool         // it is to look once more
	refused error        // by Choose
}

// Open finds the streams' partitions and the start. Unlike Next it does not
// wait for a Redis that does not answer. A start behind a position that the
// watermark has not passed is a *LossError: no Reader has handed it out.
func Open(ctx context.Context, o Options) (*Reader, error) {
	if o.Pipeline == "" || len(o.Streams) == 0 {
		return nil, errors.New("open reader: want a pipeline and at least one stream")
	}
	if o.Notify == nil {
		o.Notify = func(Notice) {}
	}
	r := &Reader{opts: o, link: link{notify: o.Notify}, chunk: newChunk()}
	for _, name := range o.Streams {
		r.streams = append(r.streams, &event.Stream{Name: name})
	}
	w, _, err := top(ctx, o.Client, o.Pipeline)
	if err != nil {
		return nil, err
	}
	if err := r.discover(ctx); err != nil || r.refused != nil {
		return nil, errors.Join(err, r.refused)
	}
	if r.start, err = r.resolve(ctx, w); err != nil {
		return nil, err
	}
	for _, l := range r.merge.lanes {
		l.read, l.last = r.start, r.start
	}
	r.merge.advance(w)
	if err := r.baselines(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Next returns the next event in commit order, waiting for it as long as ctx
// allows; the event is the caller's to keep. It waits through every absence of
// Redis, and may notice the end of ctx some 350 ms late (3 s with a Redis that
// has stopped to answer).
//
// After each of these errors the next call goes on, so that the caller decides
// what it means: ctx's own, and *GapError, *EntryError, *LateError and
// *LossError, which say something about the data. Any other error, such as a
// missing right, comes back until its cause is gone.
func (r *Reader) Next(ctx context.Context) (event.Event, error) {
	for {
		if e, ok, err := r.step(ctx, false); ok || err != nil {
			return e, err
		}
	}
}

// Step is Next for those who follow the watermark too: it also returns, with
// ok false, when the watermark has moved and everything below it has been handed
// out. Watermark says where it is. Before it says so, at first and then each second, it looks
// whether entries were trimmed that were never read and have none behind them: that is a *TrimmedError.
func (r *Reader) Step(ctx context.Context) (e event.Event, ok bool, err error) {
	if e, ok, err = r.step(ctx, true); err == nil && !ok {
		r.owed = true
		err = r.lookIfDue(ctx)
	}
	return e, ok, err
}

// step is Step, and with look it looks behind also while no watermark comes.
func (r *Reader) step(ctx context.Context, look bool) (e event.Event, ok bool, err error) {
	for ctx.Err() == nil {
		if r.held != nil {
			e := *r.held
			r.held = nil
			return e, true, nil
		}
		if l, raw, found := r.merge.next(); found {
			e, err := r.deliver(l, raw)
			return e, err == nil, err
		}
		if r.merge.drained() && r.merge.limit > r.told {
			r.told = r.merge.limit
			return event.Event{}, false, nil
		}
		if look && r.merge.drained() {
			if err := r.lookIfDue(ctx); err != nil {
				return event.Event{}, false, err
			}
		}
		if err := r.proceed(ctx); err != nil {
			return event.Event{}, false, err
		}
	}
	return event.Event{}, false, ctx.Err()
}

// Ready reports whether Next has an event at hand and will not wait for it: a
// moment at which it is false is one to flush what was made of the events.
func (r *Reader) Ready() bool { return r.held != nil || r.merge.waiting() }

// Watermark is the watermark up to which events are handed out at present.
// When Ready is false, Next waits for more of them or for a higher one.
func (r *Reader) Watermark() uint64 { return r.merge.limit }

// proceed reads more: entries below the watermark, or else the next watermark.
func (r *Reader) proceed(ctx context.Context) error {
	if !r.merge.drained() {
		return r.link.try(ctx, r.refill)
	}
	if r.opts.NoFollow {
		return io.EOF
	}
	var w uint64
	err := r.link.try(ctx, func(ctx context.Context) (err error) {
		if w, err = nextWatermark(ctx, r.opts.Client, r.opts.Pipeline, r.merge.limit); err != nil || w <= r.merge.limit {
			return err
		}
		return r.discover(ask(ctx, 0))
	})
	if err == nil {
		err = r.refused
	}
	if err != nil {
		return err
	}
	return r.reach(w)
}

// reach takes a watermark that was learnt. One that is below the limit is a loss.
func (r *Reader) reach(w uint64) error {
	lost := r.lost
	r.lost = w < r.merge.limit
	switch {
	case r.lost && !lost:
		return &LossError{Key: event.CommitsKey(r.opts.Pipeline), Reached: r.merge.limit, Watermark: w}
	case w > r.merge.limit:
		r.merge.advance(w)
	}
	return nil
}

// deliver makes an event of an entry and tells what is wrong around it: the
// error comes first and the event with the next call.
func (r *Reader) deliver(l *lane, raw entry) (event.Event, error) {
	e, err := event.ParseEntry(raw.id, raw.fields)
	if err != nil {
		return event.Event{}, &EntryError{Key: l.key, Err: err}
	}
	e.Stream, e.Partition = l.stream, l.partition
	if err := r.inspect(l, &e); err != nil {
		r.held = &e
		return event.Event{}, err
	}
	return e, nil
}

// inspect compares an event with the one before it in its partition.
func (r *Reader) inspect(l *lane, e *event.Event) error {
	last, lastSeq, wasLate := l.last, l.lastSeq, l.late
	l.last, l.lastSeq, l.late = e.Position, e.Seq, e.Position.Commit < r.merge.floor
	switch {
	case l.late && !wasLate:
		return &LateError{Key: l.key, Position: e.Position, Watermark: r.merge.floor}
	case lastSeq > 0 && e.Seq != lastSeq+1:
		return &GapError{Key: l.key, After: last, Before: e.Position, AfterSeq: lastSeq, BeforeSeq: e.Seq}
	case lastSeq == 0 && e.Seq > 1:
		r.opts.Notify(Trimmed{Key: l.key, Start: r.start, First: e.Position, Seq: e.Seq})
	}
	return nil
}
