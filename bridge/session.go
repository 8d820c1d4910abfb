package bridge

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// session is one stretch of streaming: one replication connection, one
// mapper, one publisher. Its methods run in one goroutine.
type session struct {
	bridge *Bridge
	source Source
	stream Stream
	mapper Mapper
	pub    Publisher
	meta   event.Meta
	top    uint64 // of :commits when Redis was asked first
	known  map[*event.Stream]bool
	// blocked are the keys whose changes are parked.
	blocked event.Blocked
	// checked: streams of that name were found to be of this pipeline and its history when they were met.
	checked map[string]bool
	highest event.Position // of the highest entry that a stream had when it was met
	// complete: entries of transactions that committed below this clock are all there.
	complete uint64
	skipping bool      // the present transaction is one of them
	former   *former   // not nil as long as what another mapping has published in part is repeated
	inside   bool      // of a transaction
	tx       change.Tx // the present transaction, as it began
	lock     Repair    // this instance repairs, or has just repaired
	repaired bool      // the slot was made anew for streams that it leaves a gap in
	// left is where the timeline was left that the streams come from, 0 when it goes on.
	left change.LSN

	sweeper Sweeper // nil without one

	kick    chan struct{}         // the publisher finished something
	look    chan struct{}         // refresh is to look now
	waiting time.Time             // since when entries wait for a bigger batch
	beaten  time.Time             // when Postgres last heard from us within something long
	told    change.LSN            // last confirmed
	broken  atomic.Pointer[error] // what refresh found
	seen    progress
}

// gather is how long entries wait for a fuller batch while a backlog is worked off.
const gather = 2 * time.Millisecond

// connect makes the publisher and waits for Redis.
func (s *session) connect(ctx context.Context) (err error) {
	if s.pub, err = s.bridge.opts.NewPublisher(s.wake); err != nil {
		return err
	}
	s.bridge.status.attach(s.pub) // from now on it can say what it waits for
	if s.meta, s.top, err = s.pub.Connect(ctx); err != nil {
		return err
	}
	return CheckDropped(s.meta) // before anything is made in Postgres
}

// origin is what Redis knows of the Postgres that the streams come from.
func (s *session) origin() Known {
	known := Known{System: s.meta.System, Timeline: s.meta.Timeline, Repair: s.meta.Repair}
	if epoch, lsn := event.SplitClock(s.top); epoch == s.meta.Epoch && s.meta.Begun() {
		known.Complete = change.LSN(lsn)
	}
	return known
}

// start finds out where the streams stand. It must come after the slot was
// acquired: only then does nobody else move them on.
func (s *session) start(ctx, background context.Context) error {
	var err error
	var watermark uint64
	if err := s.meanwhile(ctx, func(ctx context.Context) (err error) { s.meta, watermark, err = s.pub.Connect(ctx); return err }); err != nil {
		return err
	}
	if s.meta.RepairFrom != 0 && !s.repaired {
		return errors.New("another instance repairs the slot")
	}
	s.source.SlotUsed = s.source.SlotUsed || s.bridge.begun
	if s.meta.IsZero() && !s.source.SlotCreated && !s.source.SlotUsed {
		s.bridge.opts.Log.Warn("the slot was there before this Redis knew of the pipeline: what came before it is not in the streams", "from", s.stream.Start())
	}
	if s.meta.Timeline != s.source.Timeline {
		s.left = s.source.History[s.meta.Timeline]
	}
	if s.meta, err = CheckLineage(s.meta, watermark, s.source, s.stream.Start()); err != nil {
		return err
	}
	s.complete = watermark
	if replay := s.bridge.replay; replay != 0 {
		s.complete = min(s.complete, replay)
	}
	if start := s.clock(s.stream.Start()); s.bridge.replay != 0 && start > s.bridge.replay {
		_, lsn := event.SplitClock(s.bridge.replay)
		return fatalf("Redis has lost entries that it had acknowledged, from %s on, and the slot cannot go back behind %s to replace them\n"+
			"  fix: restore Redis, or run `walrill adopt` to go on from here with that gap, in a new epoch", change.LSN(lsn), s.stream.Start())
	}
	s.bridge.replay = 0
	s.follow()
	if s.mapper, err = s.bridge.opts.NewMapper(s.meta.Epoch); err != nil {
		return err
	}
	s.meta.HTTP = s.bridge.opts.HTTP
	if err := s.meanwhile(ctx, s.pub.Claim); err != nil {
		return err
	}
	s.known = map[*event.Stream]bool{}
	if err := s.addStreams(ctx); err != nil {
		return err
	}
	if err := s.loadParked(ctx); err != nil {
		return err
	}
	if s.former, err = s.bridge.opts.checkMapping(s.meta, s.complete, s.highest); err != nil {
		return err
	}
	if s.former == nil {
		s.mapBy(s.bridge.opts.Mapping, s.complete)
	}
	if err := s.saveMeta(ctx); err != nil {
		return err
	}
	s.pub.Start(background)
	if err := s.baseline(ctx); err != nil {
		return err
	}
	s.unlock()
	s.bridge.begun = true
	if err := s.meanwhile(ctx, s.bridge.opts.MarkUsed); err != nil {
		return err
	}
	s.bridge.status.enter(StateStreaming, nil)
	s.bridge.opts.Log.Info("streaming", "from", s.stream.Start(), "tables", len(s.source.Tables), "epoch", s.meta.Epoch)
	return nil
}

func (s *session) saveMeta(ctx context.Context) error {
	return s.meanwhile(ctx, func(ctx context.Context) error { return s.pub.SaveMeta(ctx, s.meta) })
}

// baseline writes the watermark from which on the streams are complete. That
// it was written is recorded after it was, so that :meta without a watermark
// tells a loss from a start that got no further.
func (s *session) baseline(ctx context.Context) error {
	start := s.clock(s.stream.Start())
	s.pub.Mark(start, time.Now())
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for s.offer(); s.pub.Durable() < start; s.offer() {
		select {
		case <-s.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := errors.Join(s.pub.Err(), s.stream.Beat()); err != nil {
			return err
		}
	}
	if s.meta.Begun() && s.meta.RepairFrom == 0 {
		return nil
	}
	if !s.meta.Begun() {
		s.meta.Baseline = start
	}
	s.meta.RepairFrom = 0
	return s.saveMeta(ctx)
}

// addStreams makes the streams of every table known to the publisher.
func (s *session) addStreams(ctx context.Context) error {
	for _, table := range s.source.Tables {
		streams, err := s.mapper.Check(table)
		if err != nil {
			return fatal{err}
		}
		for _, stream := range streams {
			if err := s.addStream(ctx, stream); err != nil {
				return err
			}
		}
	}
	return s.checkSchemas(ctx, s.source.Tables)
}

func (s *session) addStream(ctx context.Context, stream *event.Stream) error {
	if s.known[stream] {
		return nil
	}
	var top event.Position
	if err := s.meanwhile(ctx, func(ctx context.Context) (err error) { top, err = s.pub.AddStream(ctx, stream); return err }); err != nil {
		return err
	}
	if s.checked[stream.Name] { // what is in it by now is ours
		top = event.Position{}
	}
	if stream.Control {
		s.known[stream], s.checked[stream.Name] = true, true
		return nil
	}
	if err := CheckStream(s.meta, stream, top); err != nil {
		return err
	}
	if s.left != 0 && top.Commit >= s.clock(s.left) {
		return fatalf("stream %s has an entry of %s, and the history that it comes from ended at %s: the new primary lacks it\n"+
			"  fix: run `walrill adopt` to accept the new primary's history, in a new epoch", stream.Name, top, s.left)
	}
	if s.meta.Streams == nil {
		s.meta.Streams = map[string]int{}
	}
	s.meta.Streams[stream.Name] = len(stream.Keys)
	s.known[stream], s.checked[stream.Name] = true, true
	if s.highest.Compare(top) < 0 {
		s.highest = top
	}
	return nil
}

func (s *session) clock(lsn change.LSN) uint64 { return event.Clock(s.meta.Epoch, uint64(lsn)) }

// run streams until ctx ends, then drains.
func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.wake)
	defer stop()
	defer s.refresh(ctx)()
	if s.bridge.opts.Sweep != nil {
		s.sweeper = s.bridge.opts.Sweep(s.wake)
		defer s.sweeper.Close()
	}
	s.bridge.streaming.Store(s)
	defer s.bridge.streaming.Store(nil)
	if s.bridge.reload.Load() != nil {
		s.wake()
	}
	for ctx.Err() == nil {
		err := s.step(ctx)
		if err == nil && !s.inside && s.bridge.reload.Load() != nil {
			err = s.swap(ctx)
		}
		if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
			return err
		}
	}
	if s.inside { // its part would have to be repeated by the same mapping, which may be changed before the next start
		s.pub.Rewind(s.clock(s.tx.CommitLSN))
	}
	return s.drain()
}

// step handles the next item.
func (s *session) step(ctx context.Context) error {
	item, err := s.stream.Next()
	if isPermanent(err) {
		return s.cutOff(ctx, err)
	}
	if err != nil {
		return err
	}
	switch item.Kind {
	case change.ItemChanges:
		if s.skipping {
			s.seen.repeated += uint64(len(item.Changes))
			s.seeAgain(item.Changes)
			return nil
		}
		for i := range item.Changes {
			if err := s.change(ctx, &item.Changes[i]); err != nil {
				return err
			}
		}
	case change.ItemBegin:
		if s.former != nil && s.clock(item.Tx.CommitLSN) > s.former.until.Commit {
			if err := s.leave(ctx); err != nil {
				return err
			}
		}
		// What is complete is not mapped again: the mapping or the tables may
		// be others by now, and would count its entries differently.
		s.inside, s.skipping = true, s.clock(item.Tx.CommitLSN) < s.complete
		s.mapper.Begin(item.Tx)
		s.tx = item.Tx
	case change.ItemCommit:
		s.seen.transactions++
		if !s.skipping {
			if err := s.append(ctx, s.mapper.Commit()); err != nil {
				return err
			}
		}
		s.inside = false // not before: of what the commit makes all goes out, or nothing
		s.mark(item)
	case change.ItemWatermark:
		s.mark(item)
	case change.ItemIdle:
		return s.idle(item.Busy)
	}
	if s.pub.Full() {
		return s.handOver(ctx)
	}
	return nil
}

func (s *session) mark(item *change.Item) {
	s.pub.Mark(s.clock(item.Watermark), item.Time)
	s.seen.received, s.seen.time = item.Watermark, item.Time
}

func (s *session) change(ctx context.Context, c *change.Change) error {
	if c.Op == change.Message && c.Prefix == event.ParkedPrefix {
		return s.resolve(ctx, c.Content)
	}
	if s.former != nil {
		if skip, err := s.repeat(ctx, c); err != nil || skip {
			return err
		}
	}
	events, err := s.mapper.Map(c)
	for n := needsKey(nil); errors.As(err, &n); {
		if err := s.giveKey(ctx, n); err != nil {
			return err
		}
		events, err = s.mapper.Map(c)
	}
	if err != nil {
		return s.refuse(ctx, err)
	}
	s.seen.changes++
	if s.sweeper != nil && s.mapper.Consumed(c) {
		s.sweeper.See(c, &s.tx)
	}
	return s.append(ctx, events)
}

// seeAgain shows the sweeper rows whose events an earlier session has published, since their table was an outbox then, and that may still
// be there.
func (s *session) seeAgain(changes []change.Change) {
	if s.sweeper == nil {
		return
	}
	for i := range changes {
		c := &changes[i]
		if c.Op != change.Insert || !s.mapper.Consumed(c) {
			continue
		}
		if since, ok := s.meta.Outboxes[c.Relation.String()]; ok && since <= s.clock(s.tx.CommitLSN) {
			s.sweeper.See(c, &s.tx)
		}
	}
}

// append hands events to the publisher.
func (s *session) append(ctx context.Context, events []event.Event) error {
	for i := range events {
		e := &events[i]
		if !s.known[e.Stream] {
			if err := s.newStream(ctx, e.Stream); err != nil {
				return err
			}
		}
		if e.Stream.Control {
			s.tellParked(e)
		}
		if e.Schema == 0 && e.Shape != nil {
			if err := s.giveVersion(ctx, e); err != nil {
				return err
			}
		}
		s.pub.Append(e)
	}
	if s.former != nil && len(events) > 0 {
		s.former.reached = events[len(events)-1].Position
	}
	return nil
}

// giveKey looks up the key that a mapper needs. It is there for good before anything is published that needs it.
func (s *session) giveKey(ctx context.Context, n needsKey) error {
	var key []byte
	err := s.meanwhile(ctx, func(ctx context.Context) (err error) { key, err = s.bridge.opts.Key(ctx, n.NeedsKey()); return err })
	if err != nil {
		return err
	}
	return n.Give(key)
}

// newStream is for a stream that first shows itself in the middle of things.
func (s *session) newStream(ctx context.Context, stream *event.Stream) error {
	if err := s.addStream(ctx, stream); err != nil {
		return err
	}
	return s.saveMeta(ctx)
}

// idle is called whenever the network has to be waited for: what has
// gathered goes out, unless a backlog promises a fuller batch in a moment. The rest of a transaction is
// waited for, unless the batch is full: should it be refused, nothing of it is published.
func (s *session) idle(busy bool) error {
	if s.pub.Pending() && !s.inside {
		now := time.Now()
		if s.waiting.IsZero() {
			s.waiting = now
		}
		if !busy || now.Sub(s.waiting) > gather {
			s.offer()
		}
	}
	return s.confirm()
}

func (s *session) offer() bool {
	if !s.pub.Offer() {
		return false
	}
	s.waiting = time.Time{}
	return true
}

// handOver waits until the publisher takes the full batch. Postgres is not
// read meanwhile, but hears from us.
func (s *session) handOver(ctx context.Context) error {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for !s.offer() {
		select {
		case <-s.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if err := errors.Join(s.confirm(), s.stream.Beat()); err != nil {
			return err
		}
	}
	return s.confirm()
}

// confirm tells Postgres what has become durable.
func (s *session) confirm() error {
	s.seen.parked = len(s.blocked)
	s.bridge.status.progress(s.seen)
	if err := s.pub.Err(); err != nil {
		return err
	}
	if err := s.broken.Load(); err != nil {
		return *err
	}
	epoch, lsn := event.SplitClock(s.pub.Durable())
	durable := change.LSN(lsn)
	if s.sweeper != nil && epoch == s.meta.Epoch {
		if err := s.sweeper.Err(); err != nil {
			return err
		}
		durable = s.sweeper.Durable(durable)
	}
	if epoch == s.meta.Epoch && durable > s.told {
		s.told = durable
		s.stream.Confirm(durable)
	}
	return nil
}
