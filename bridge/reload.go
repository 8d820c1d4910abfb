package bridge

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Reload is a mapping that is to take the place of the one in force.
type Reload struct {
	NewMapper func(epoch uint8) (Mapper, error)
	Mapping   string             // its record
	Tables    []*change.Relation // those that it maps, as they are now
	// InForce is called by the run loop when the mapping is in force and before anything is mapped
	// by it. It must not block. New tables may join from then on.
	InForce func()
}

// reload is a Reload that waits for its moment.
type reload struct {
	Reload
	done chan error    // capacity 1
	back chan struct{} // capacity 1: a session took it, and ended before it had decided
}

// Reload puts another mapping in force between two transactions, once everything before is
// acknowledged and marked: what a restart repeats is then all behind the change, or skipped. It waits for that moment,
// also while the pipeline does not stream. An error says why the mapping is refused; the one in force stays.
// One goroutine may call it at a time.
func (b *Bridge) Reload(ctx context.Context, r Reload) error {
	p := &reload{Reload: r, done: make(chan error, 1), back: make(chan struct{}, 1)}
	b.reload.Store(p)
	b.poke()
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
	}
	for !b.reload.CompareAndSwap(p, nil) { // it is being decided
		select {
		case err := <-p.done:
			return err
		case <-p.back:
		}
	}
	return ctx.Err()
}

// poke has the run loop of the present session look around.
func (b *Bridge) poke() {
	if s := b.streaming.Load(); s != nil {
		s.wake()
	}
}

// replayed reports whether everything that was in the streams when the session began has been
// passed: what an earlier session had published in part was mapped by that session's mapping, and must be mapped by it again.
func (s *session) replayed() bool {
	passed := max(s.complete, s.clock(s.stream.Start()), s.clock(s.seen.received))
	return passed > s.highest.Commit
}

// swap is called between two transactions while a reload waits. An error ends the session, and the reload waits on.
func (s *session) swap(ctx context.Context) error {
	p := s.bridge.reload.Load()
	if !s.replayed() || !s.bridge.reload.CompareAndSwap(p, nil) {
		return nil
	}
	err := s.settle(ctx)
	var refused error
	if err == nil {
		refused, err = s.adopt(ctx, p)
	}
	if err != nil {
		s.bridge.reload.CompareAndSwap(nil, p)
		signal(p.back)
		return err
	}
	if refused == nil {
		s.enforce(p)
	}
	p.done <- refused
	return nil
}

// settle waits until everything that was read is acknowledged and marked. Postgres hears from us meanwhile.
func (s *session) settle(ctx context.Context) error {
	if s.seen.received == 0 {
		return s.confirm() // nothing was
	}
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for s.offer(); s.pub.Durable() < s.clock(s.seen.received); s.offer() {
		select {
		case <-s.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := errors.Join(s.confirm(), s.stream.Beat()); err != nil {
			return err
		}
	}
	return s.confirm()
}

// adopt makes the mapper and the streams of a reload the session's, or says why it is refused and leaves everything as it was.
func (s *session) adopt(ctx context.Context, p *reload) (refused, err error) {
	mapper, err := p.NewMapper(s.meta.Epoch)
	if err != nil {
		return err, nil
	}
	mapper.SetBlocked(s.blocked)
	oldMapper, oldTables, oldKnown, oldMeta := s.mapper, s.source.Tables, s.known, s.meta
	s.mapper, s.source.Tables, s.known, s.meta.Streams = mapper, p.Tables, map[*event.Stream]bool{}, maps.Clone(s.meta.Streams)
	if err = s.addStreams(ctx); err == nil {
		s.mapBy(p.Mapping, max(s.complete, s.clock(s.seen.received)))
		err = s.saveMeta(ctx)
	}
	if err == nil {
		s.former = nil
	} else {
		s.mapper, s.source.Tables, s.known, s.meta = oldMapper, oldTables, oldKnown, oldMeta
	}
	if isPermanent(err) {
		return err, nil
	}
	return nil, err
}

// enforce makes a reload the mapping of this session and of those that follow.
func (s *session) enforce(p *reload) {
	s.bridge.opts.NewMapper, s.bridge.opts.Mapping = p.NewMapper, p.Mapping
	p.InForce()
	signal(s.look)
}

// follow takes a reload that waits when the instance before this one had it in force already.
func (s *session) follow() {
	p := s.bridge.reload.Load()
	if p == nil || p.Mapping == "" || p.Mapping != s.meta.Mapping || !s.bridge.reload.CompareAndSwap(p, nil) {
		return
	}
	s.enforce(p)
	p.done <- nil
}

// mapBy notes for :meta which mapping makes the entries from a clock on, and since when its outboxes have been outboxes.
func (s *session) mapBy(mapping string, since uint64) {
	if s.meta.Mapping != mapping {
		s.meta.Mapping, s.meta.Since = mapping, since
	}
	outboxes := map[string]uint64{}
	for _, table := range s.mapper.Outboxes() {
		outboxes[table] = s.meta.Since
		if earlier, ok := s.meta.Outboxes[table]; ok {
			outboxes[table] = earlier
		}
	}
	s.meta.Outboxes = outboxes
}
