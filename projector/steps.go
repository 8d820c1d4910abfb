package projector

import (
	"context"
	"slices"
	"time"
)

// What views emit is said as of each source transaction. So the mirrors and queries that emit, and those that share a mirror with them, are brought
// from one source transaction to the next, a step, while a batch of many is one transaction of the store: the statements of all steps are
// queued, and sent together. Everything else is brought to the end of the batch at once.

// steps is what goes in steps, and the one at work.
type steps struct {
	mirrors []*mirror
	queries []*query

	commit uint64 // of the source transaction that was met last
	time   time.Time
	tx     uint32
	emits  bool // it has changed what may emit: the step ends with it
}

// queue is statements that are yet to be sent.
type queue struct {
	list  []statement
	bytes int
	anew  bool // what is queued is planned anew
}

// manyRows is from how many changed rows on statements are planned for tables as they are by then: a plan that was made while a table was
// small reads all of it for each row.
const manyRows = 1000

const planAnew = "SELECT set_config('plan_cache_mode', $1, true)"

// maxQueue is how many statements are sent together at most, about.
const maxQueue = 2000

// loadSteps finds what goes in steps. emits are the names of the views that emit.
func (s *session) loadSteps(emits map[string]bool) {
	s.steps = steps{}
	byName := map[string]*mirror{}
	for _, m := range s.mirrors {
		if m.View && !m.filling && emits[m.Name] {
			m.emits, m.stepped = true, true
		}
		if !m.View && !m.filling {
			byName[m.Name] = m
		}
	}
	stepped := map[*query]bool{}
	for grown := true; grown; {
		grown = false
		for _, q := range s.queries {
			step := emits[q.name]
			for _, d := range q.def.Mirrors {
				step = step || byName[d.Name].stepped
			}
			if !step || stepped[q] {
				continue
			}
			stepped[q], grown = true, true
			for _, d := range q.def.Mirrors {
				m := byName[d.Name]
				m.stepped, m.emits = true, m.emits || emits[q.name]
			}
		}
	}
	for _, m := range s.mirrors {
		if m.stepped {
			s.steps.mirrors = append(s.steps.mirrors, m)
		}
	}
	for _, q := range s.queries {
		if q.stepped = stepped[q]; q.stepped {
			s.steps.queries = append(s.steps.queries, q)
		}
	}
}

// inSteps reports whether anything goes in steps.
func (s *session) inSteps() bool { return len(s.steps.mirrors) > 0 }

// endStep queues what brings everything that goes in steps to the source transaction that was met last.
func (s *session) endStep(ctx context.Context) error {
	var mirrors []*mirror
	some := false
	for _, m := range s.steps.mirrors {
		if !m.fold.empty() || m.parts {
			mirrors = append(mirrors, m)
		}
		some = some || s.batch.part[m.changed]
	}
	if len(mirrors) == 0 && !some {
		return nil
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.enqueue(ctx, s.place()); err != nil {
		return err
	}
	s.steps.emits = false
	return s.bring(ctx, mirrors, s.steps.mirrors, s.steps.queries)
}

// place says of which source transaction the changes of views are.
func (s *session) place() statement {
	return statement{sql: setPlace, args: []any{placeOf(s.steps.commit, s.pos.read, s.steps.time, s.steps.tx)}, rows: -1}
}

// setPlace has what is computed anew, because somebody asks for it, emit as of now.
func (s *session) setPlace(ctx context.Context) error {
	if !s.inSteps() {
		return nil
	}
	s.steps.commit, s.steps.time, s.steps.tx = s.pos.read, time.Time{}, 0
	p := s.place()
	_, err := s.conn.Exec(ctx, p.sql, p.args...)
	return err
}

// bring queues what mirrors have gathered, and the rows of queries that it affects. All are the mirrors of these queries.
func (s *session) bring(ctx context.Context, mirrors, all []*mirror, queries []*query) error {
	for _, m := range mirrors {
		if err := s.bringMirror(ctx, m, false); err != nil {
			return err
		}
	}
	for _, q := range queries {
		if err := s.bringQuery(ctx, q); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(s.builders) {
		if err := s.noteKeys(ctx, s.builders[name]); err != nil {
			return err
		}
	}
	for _, m := range all {
		if s.batch.part[m.changed] {
			delete(s.batch.part, m.changed)
			if err := s.enqueue(ctx, m.empty()); err != nil {
				return err
			}
		}
	}
	if !s.queue.anew {
		return nil
	}
	s.queue.anew = false
	return s.enqueue(ctx, statement{sql: planAnew, args: []any{"auto"}, rows: -1})
}

// bringMirror queues what a mirror has gathered. A part of a source transaction that is too large to be gathered says nothing of what is
// emitted: only what becomes of each row in the end does.
func (s *session) bringMirror(ctx context.Context, m *mirror, part bool) error {
	var before, behind []statement
	if m.View && m.emits && (part || m.parts) {
		if !m.parts {
			before = append(before, statement{sql: m.makeParts(), rows: -1})
		}
		before = append(before, statement{sql: setPlace, args: []any{placePart}, rows: -1})
		if !part {
			behind = []statement{s.place(), {sql: "SELECT " + m.partsFunction + "()", rows: -1}, {sql: "DROP TABLE " + partsTable(m.Name), rows: -1}}
		}
		m.parts = part
	}
	list, err := s.gather(ctx, m)
	if err != nil {
		return err
	}
	for _, l := range [][]statement{before, list, behind} {
		if err := s.enqueue(ctx, l...); err != nil {
			return err
		}
	}
	return nil
}

// gather makes statements of what a mirror has gathered.
func (s *session) gather(ctx context.Context, m *mirror) ([]statement, error) {
	parked := s.parked[m.parkedAs()] > 0
	if parked {
		if err := s.send(ctx); err != nil {
			return nil, err
		}
		if err := m.fillParked(ctx, s.conn, s.opts.Pipeline); err != nil {
			return nil, err
		}
	}
	if len(m.fold.order) > manyRows && !s.queue.anew {
		s.queue.anew = true
		if err := s.enqueue(ctx, statement{sql: planAnew, args: []any{"force_custom_plan"}, rows: -1}); err != nil {
			return nil, err
		}
	}
	list := m.statements(parked)
	if len(m.fold.graves) > 0 {
		list = slices.Insert(list, 0, m.bury(s.opts.Pipeline))
	}
	if m.changed != "" {
		if s.batch.part == nil {
			s.batch.part = map[string]bool{}
		}
		s.batch.part[m.changed] = true
		m.noteDead()
	}
	m.fold.reset()
	return list, nil
}

// enqueue has statements run behind those before; in careful mode at once, one by one.
func (s *session) enqueue(ctx context.Context, list ...statement) error {
	if s.careful {
		for _, st := range list {
			if err := s.execCarefully(ctx, st); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range list {
		s.queue.bytes += list[i].size()
	}
	s.queue.list = append(s.queue.list, list...)
	if s.queue.bytes > maxFold || len(s.queue.list) > maxQueue {
		return s.send(ctx)
	}
	return nil
}

// send runs what is queued, in one round trip.
func (s *session) send(ctx context.Context) error {
	list := s.queue.list
	s.queue.bytes = 0
	s.queue.list = s.queue.list[:0]
	defer clear(list) // of what they hold
	return s.exec(ctx, list)
}
