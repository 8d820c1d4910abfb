package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// buildEvery is how often a view is tried again whose SQL fails on the rows that there are.
	buildEvery = 10 * time.Second
	// maxBuilders is how many views are computed at a time.
	maxBuilders = 2
	// builderPoll is how often it is looked whether a builder has come to something while nothing else happens.
	builderPoll = 10 * time.Millisecond
)

// startBuilders begins to compute views that are new, changed, asked for, or whose mirrors are others by now.
func (s *session) startBuilders(ctx context.Context) error {
	if s.pos.gap != "" {
		return nil
	}
	for _, name := range sortedKeys(s.wanted) {
		v := s.views[name]
		if v == nil {
			continue
		}
		target, m := s.buildTarget(v)
		if b := s.builders[name]; b != nil && !b.def.same(target) {
			if err := s.dropBuilder(ctx, name); err != nil {
				return err
			}
		}
		waits := s.waits[name]
		if target == nil || s.builders[name] != nil || len(s.builders) >= maxBuilders && !waits || !waits && s.failedLately(v) {
			continue
		}
		b := s.newBuilder(v, target)
		if m != nil {
			b.ofMirror(m)
		}
		b.blocks = waits
		if err := s.startBuilder(ctx, b); err != nil {
			return fmt.Errorf("begin to build view %s: %w", name, err)
		}
	}
	return s.lookAfterBuilders(ctx)
}

func (s *session) failedLately(v *viewRow) bool {
	since := time.Since(s.failed[v.name])
	_, open := v.asked()
	return since < time.Second || since < buildEvery && !open
}

// buildTarget is the definition by which a view is to be computed now, and the filled mirror of which it is to be made; nil for none.
func (s *session) buildTarget(v *viewRow) (*definition, *mirror) {
	wanted, inUse := s.wanted[v.name], s.inUse()
	if wanted.Kind == "mirror" {
		for _, m := range s.mirrors {
			if m.complete && m.id() == wanted.Mirrors[0].id() {
				return wanted, m
			}
		}
		return nil, nil
	}
	kind, open := v.asked()
	target := wanted
	switch {
	case open && kind == Rollback && v.previous != nil:
		target = v.previous
	case v.pinned && v.def != nil:
		target = v.def
	case len(missingMirrors(wanted, inUse)) > 0 && v.state == stateLive:
		target = v.def // go on as before until the mirrors are there
	}
	if target.Kind != "query" || len(missingMirrors(target, inUse)) > 0 {
		return nil, nil
	}
	if v.state != stateLive || open || v.again || !target.same(v.def) || !sameJSON(target.Affects, v.def.Affects) {
		return target, nil
	}
	return nil, nil
}

// startBuilder has keys noted from here on, and then the builder begin.
func (s *session) startBuilder(ctx context.Context, b *builder) error {
	if _, err := s.conn.Exec(ctx, "DELETE FROM walrill.touched WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, b.view); err != nil {
		return err
	}
	var exists bool
	if err := s.conn.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", quoteIdent(s.opts.Schema)).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := s.conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+quoteIdent(s.opts.Schema)); err != nil {
			return err
		}
	}
	if s.builders == nil {
		s.builders = map[string]*builder{}
	}
	s.builders[b.view] = b
	if err := s.noteChanges(ctx); err != nil {
		return err
	}
	b.s = &session{projector: s.projector, opts: s.opts, fence: s.fence, parked: map[string]int{}}
	b.begin(ctx, b.compute)
	return nil
}

// noteChanges makes the tables of changed rows that builders need and nobody else.
func (s *session) noteChanges(ctx context.Context) error {
	for _, m := range s.mirrors {
		if m.changed != "" || !s.built(m) {
			continue
		}
		m.changed = m.changedTable()
		if err := s.makeChanged(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// built reports whether a builder reads a mirror.
func (s *session) built(m *mirror) bool {
	if m.changedTable() == "" {
		return false
	}
	for _, b := range s.builders {
		for i := range b.noted.def.Mirrors {
			if changedTable(b.noted.def.Mirrors[i].Name) == m.changedTable() {
				return true
			}
		}
	}
	return false
}

// lookAfterBuilders goes on with builders that have come to the end of a step. It is called between batches.
func (s *session) lookAfterBuilders(ctx context.Context) error {
	for _, name := range sortedKeys(s.builders) {
		for b := s.builders[name]; b != nil && (b.blocks || b.stepDone()); b = s.builders[name] {
			select {
			case <-b.done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := s.nextStep(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// builderDone reports whether a builder has come to the end of a step.
func (s *session) builderDone() bool {
	for _, b := range s.builders {
		if b.stepDone() {
			return true
		}
	}
	return false
}

func (b *builder) stepDone() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

func (s *session) nextStep(ctx context.Context, b *builder) error {
	v := s.views[b.view]
	if b.err != nil {
		return s.buildFailed(ctx, v, b, b.err)
	}
	if b.holds || b.few() {
		return s.finishBuild(ctx, v, b)
	}
	// From here on nobody but the builder writes to the table.
	b.holds = true
	if v.state == stateLive {
		b.blocks = b.blocks || s.emits(b.view)
		if err := s.notLive(ctx, s.conn, b.view); err != nil {
			return err
		}
		if err := s.loadKept(ctx); err != nil {
			return err
		}
		if err := s.report(ctx); err != nil {
			return err
		}
	}
	b.begin(ctx, b.write)
	return nil
}

// finishBuild takes a view over.
func (s *session) finishBuild(ctx context.Context, v *viewRow, b *builder) error {
	b.s.pos = s.pos
	err := b.finish(ctx, func(tx pgx.Tx) error {
		if m := s.fillingMirror(b); m != nil {
			if err := s.endMirror(ctx, tx, m); err != nil {
				return err
			}
		}
		if b.request != "" && b.request == v.request {
			if kind, _ := v.asked(); kind == Rollback {
				if _, err := tx.Exec(ctx, "UPDATE walrill.views SET pinned = true WHERE name = $1", b.view); err != nil {
					return err
				}
			}
		}
		of := *v
		of.request = b.request
		return s.live(ctx, tx, &of, b.def, b.rows)
	})
	if err != nil {
		return s.buildFailed(ctx, v, b, err)
	}
	delete(s.failed, b.view)
	delete(s.waits, b.view)
	delete(s.builders, b.view)
	b.close()
	if b.holds || b.mirror != nil {
		return s.load(ctx)
	}
	return s.loadKept(ctx)
}

// fillingMirror is the mirror that a builder takes, as it is by now; nil for a query.
func (s *session) fillingMirror(b *builder) *mirror {
	if b.mirror == nil {
		return nil
	}
	return s.mirrors[slices.IndexFunc(s.mirrors, func(m *mirror) bool { return m.filling && m.id() == b.mirror.id() })]
}

// endMirror makes away with what a view that is a mirror was filled in.
func (s *session) endMirror(ctx context.Context, tx pgx.Tx, m *mirror) error {
	if err := tryExec(ctx, tx, "DROP TABLE "+m.table); err != nil {
		return err
	}
	return s.inUseNow(ctx, tx, m)
}

// buildFailed tells why a view cannot be built; it is tried again.
func (s *session) buildFailed(ctx context.Context, v *viewRow, b *builder, cause error) error {
	if err := s.dropBuilder(ctx, b.view); err != nil {
		return err
	}
	if errors.Is(cause, errFenced) || ctx.Err() != nil {
		return cause
	}
	if isDefinitionError(cause) {
		if gone, err := s.anyDropped(ctx); err != nil {
			return err
		} else if gone {
			return errAgain
		}
	}
	delete(s.waits, b.view)
	s.failed[b.view] = time.Now()
	message := "its rows cannot be computed: " + reason(cause)
	s.opts.Log.Error("a view cannot be built; it is tried again", "view", b.view, "error", message)
	answer := v.answer
	if b.request != "" && isDefinitionError(cause) {
		answer = b.request + ": failed: " + message
	}
	if _, err := s.conn.Exec(ctx, "UPDATE walrill.views SET error = $2, answer = $3 WHERE name = $1", b.view, message, answer); err != nil {
		return err
	}
	return s.loadKept(ctx)
}

// dropBuilder ends a builder, and waits until the store has forgotten its session and what that has locked.
func (s *session) dropBuilder(ctx context.Context, view string) error {
	b := s.builders[view]
	delete(s.builders, view)
	b.stop()
	<-b.done
	if b.s.conn == nil {
		return nil
	}
	pid := b.s.conn.PgConn().PID()
	b.close()
	for {
		var there bool
		err := s.conn.QueryRow(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2", int32(pid), sessionName(fillName(s.opts.Pipeline))).Scan(&there)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("end the session that builds view %s: %w", view, err)
		}
		if err := pause(ctx, builderPoll); err != nil {
			return err
		}
	}
}

func (s *session) closeBuilders() {
	for name, b := range s.builders {
		b.close()
		delete(s.builders, name)
	}
}

// emits reports whether a view emits events.
func (s *session) emits(view string) bool {
	for i := range s.opts.Views {
		if v := &s.opts.Views[i]; v.Name == view {
			return v.Emit != nil
		}
	}
	return false
}
