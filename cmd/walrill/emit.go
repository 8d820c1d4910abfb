package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
	"github.com/walrill/walrill/sink"
)

const (
	// emitPoll is how often the outbox of the views is looked at when the views have moved.
	emitPoll = 10 * time.Millisecond
	// emitPage is how many events are read from it at a time.
	emitPage = 1000
	// emitKeep is how long an event stays in it when it is published: what Redis loses within that time is published again.
	emitKeep = time.Hour
	// emitTidy is how often it is cleared.
	emitTidy = 30 * time.Second
)

// emitter publishes what views emit: from their outbox in the store to the streams of the views' own pipeline.
type emitter struct {
	config  *config.Config
	streams []string
	clock   func() uint64 // every commit below is in the views; 0 when another process keeps them
	log     *slog.Logger
}

// emittedStreams are the streams of a configuration that views publish to.
func emittedStreams(cfg *config.Config) []string {
	var names []string
	for _, v := range cfg.Views.List {
		if name := v.Emit.Stream; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// newEmitter is nil when no view emits.
func newEmitter(cfg *config.Config, views *projector.Projector, log *slog.Logger) *emitter {
	streams := emittedStreams(cfg)
	if streams == nil {
		return nil
	}
	return &emitter{cfg, streams, func() uint64 {
		if st := views.Status(); st.State == projector.StateRunning {
			return st.Clock
		}
		return 0
	}, log}
}

// run publishes until ctx ends, through every absence of the store and of Redis.
func (e *emitter) run(ctx context.Context) error {
	for {
		err := e.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		e.log.Warn("what views emit is not published now; trying again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// emitting is one session of the outbox and one publisher, from when the views are kept here to when something fails.
type emitting struct {
	*emitter
	outbox  *projector.Outbox
	pub     *sink.Publisher
	streams map[string]*event.Stream
	schemas map[string]*event.Schema // by form
	wake    chan struct{}
	last    projector.Emitted // that was read
	marked  uint64
	fresh   bool // nothing was read yet
}

func (e *emitter) session(ctx context.Context) error {
	clock, err := e.lead(ctx)
	if err != nil {
		return err
	}
	s := &emitting{emitter: e, streams: map[string]*event.Stream{}, schemas: map[string]*event.Schema{}, wake: make(chan struct{}, 1), fresh: true}
	if s.outbox, err = projector.OpenOutbox(ctx, e.config.Views.Store.Reveal(), e.config.Pipeline); err != nil {
		return err
	}
	defer s.outbox.Close()
	if err := s.open(ctx, clock); err != nil {
		return err
	}
	s.pub.Start(ctx)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.pub.Drain(ctx) //nolint:errcheck // what is not published is in the outbox
	}()
	tidy := time.Now()
	for {
		if err := s.publish(ctx); err != nil {
			return err
		}
		if time.Since(tidy) > emitTidy {
			tidy = time.Now()
			if err := s.outbox.Remove(ctx, s.pub.Durable(), emitKeep); err != nil {
				return err
			}
		}
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
}

// lead waits until this process keeps the views.
func (e *emitter) lead(ctx context.Context) (uint64, error) {
	for {
		if clock := e.clock(); clock > 0 {
			return clock, nil
		}
		select {
		case <-time.After(10 * emitPoll):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (s *emitting) wait(ctx context.Context) error {
	select {
	case <-s.wake:
	case <-time.After(emitPoll):
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.pub.Err()
}

// open makes the publisher, and looks what the streams have.
func (s *emitting) open(ctx context.Context, clock uint64) error {
	o := sinkOptions(s.config)
	o.Pipeline, o.Log, o.Database = event.ViewsPipeline(s.config.Pipeline), s.log, "views"
	o.Wake = func() {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	var err error
	if s.pub, err = sink.New(o); err != nil {
		return err
	}
	meta, watermark, err := s.pub.Connect(ctx)
	if err != nil {
		return err
	}
	s.marked = watermark
	epoch, _ := event.SplitClock(clock)
	meta.System, meta.Timeline, meta.Epoch, meta.Streams = "views of "+s.config.Pipeline, 1, max(meta.Epoch, epoch), map[string]int{}
	for _, name := range s.emitter.streams {
		meta.Streams[name] = 1
	}
	if err := s.pub.SaveMeta(ctx, meta); err != nil {
		return err
	}
	return nil
}

// stream is a stream by its name, which the configuration may not have any more.
func (s *emitting) stream(ctx context.Context, name string) (*event.Stream, error) {
	if stream := s.streams[name]; stream != nil {
		return stream, nil
	}
	stream := event.NewStream(name, 1)
	highest, err := s.pub.AddStream(ctx, stream)
	if err != nil {
		return nil, err
	}
	removed, err := s.outbox.Removed(ctx, name)
	if err != nil {
		return nil, err
	}
	if highest.Compare(removed) < 0 {
		s.log.Error("Redis has lost events of views that were published long ago, and cannot be published again", "stream", name, "has", highest, "had", removed)
	}
	s.streams[name] = stream
	return stream, nil
}

// schema is that of an event, with its version: it is in the catalogue before the event is published.
func (s *emitting) schema(ctx context.Context, e *projector.Emitted) (*event.Schema, error) {
	if schema := s.schemas[e.Form]; schema != nil {
		return schema, nil
	}
	schema, err := s.outbox.Schema(ctx, e.Form)
	if err != nil {
		return nil, err
	}
	schema.Terms = &event.Terms{Version: schema.Version, Compatibility: event.CompatibleNone} // what breaks was refused before it was emitted
	schema.Since = e.Position.LSN()
	if schema.Version, err = s.pub.ClaimSchema(ctx, schema); err != nil {
		return nil, err
	}
	s.schemas[e.Form] = schema
	return schema, nil
}

// publish hands what is new to the publisher, and then says how far the views are.
func (s *emitting) publish(ctx context.Context) error {
	clock := s.clock() // before the outbox is read: what is below is in it
	if clock == 0 || clock <= s.marked && !s.fresh {
		return nil
	}
	for {
		list, err := s.outbox.After(ctx, s.last, emitPage)
		if err != nil {
			return err
		}
		for i := range list {
			if err := s.append(ctx, &list[i]); err != nil {
				return err
			}
		}
		if len(list) < emitPage {
			break
		}
	}
	s.pub.Mark(clock, time.Now())
	s.marked, s.fresh = max(s.marked, clock), false
	return s.offer(ctx)
}

func (s *emitting) append(ctx context.Context, e *projector.Emitted) error {
	s.last = *e
	stream, err := s.stream(ctx, e.Stream)
	if err != nil {
		return err
	}
	if s.pub.Full() {
		if err := s.offer(ctx); err != nil {
			return err
		}
	}
	out := e.Event
	out.Stream = stream
	if out.Shape, err = s.schema(ctx, e); err != nil {
		return err
	}
	out.Schema = out.Shape.Version
	s.pub.Append(&out)
	return nil
}

// offer hands the batch over, and waits while another one is in flight.
func (s *emitting) offer(ctx context.Context) error {
	for !s.pub.Offer() {
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
