package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// lookAfter puts filled mirrors to use, builds views whose mirrors have all that they need, and answers requests.
// It is called between batches.
func (s *session) lookAfter(ctx context.Context) error {
	if s.reshaped {
		if err := s.lookAtTables(ctx); err != nil {
			return err
		}
	}
	if err := s.lookElsewhere(ctx); err != nil {
		return err
	}
	if err := s.readRequests(ctx); err != nil {
		return err
	}
	if err := s.answerRequests(ctx); err != nil {
		return err
	}
	if err := s.repairKeys(ctx); err != nil {
		return err
	}
	if len(s.parked) > 0 || s.foldsAside() {
		if err := s.retryParked(ctx); err != nil {
			return err
		}
		if err := s.countParked(ctx); err != nil {
			return err
		}
	}
	if err := s.lookAfterFolds(ctx); err != nil {
		return err
	}
	done, waiting, err := s.filledMirrors(ctx)
	if err != nil {
		return err
	}
	if s.pos.gap != "" && waiting > 0 {
		return s.report(ctx) // all at once, because the views stand at one position
	}
	if len(done) > 0 || s.pos.gap != "" {
		if err := s.replace(ctx, done); err != nil {
			return err
		}
		if _, _, err := s.filledMirrors(ctx); err != nil {
			return err
		}
	}
	if err := s.startBuilders(ctx); err != nil {
		return err
	}
	return s.report(ctx)
}

// lookAtTables starts the session over when tables that views use are not as the views were planned with.
func (s *session) lookAtTables(ctx context.Context) error {
	tables, err := s.opts.Tables(ctx)
	if err != nil {
		s.opts.Log.Warn("a table may have been altered, and the source cannot be asked now; it is tried again", "error", err)
		return nil
	}
	s.reshaped = false
	byName := map[string]Table{}
	for _, t := range tables {
		byName[t.Name] = t
	}
	for _, t := range s.tables {
		if s.bySrc[t.Name] != nil && !sameJSON(t, byName[t.Name]) {
			s.opts.Log.Info("a table was altered: the views are planned anew", "table", t.Name)
			return errAgain
		}
	}
	return nil
}

// replace puts filled mirrors to use, and ends a gap. Views for which that is not the same as before are filling from there on, until
// they are built: after a gap all of them.
func (s *session) replace(ctx context.Context, done []*mirror) error {
	next := s.pos
	next.gap, next.shown = "", next.read
	replaced := map[string]*mirror{}
	for _, m := range done {
		replaced[m.id()] = m
	}
	for name, b := range s.builders {
		if b.def.needs(replaced) {
			if err := s.dropBuilder(ctx, name); err != nil { // it reads what is dropped
				return err
			}
		}
	}
	err := s.in(ctx, next, func(tx pgx.Tx) error {
		if err := s.swapMirrors(ctx, tx, replaced); err != nil {
			return err
		}
		return s.saveSeqs(ctx, tx)
	})
	if err != nil {
		return err
	}
	clear(s.dirty)
	s.pos = next // told together with the states of the views, for who waits
	return s.load(ctx)
}

func (s *session) swapMirrors(ctx context.Context, tx pgx.Tx, replaced map[string]*mirror) error {
	old := s.inUse()
	for _, id := range sortedKeys(replaced) {
		if err := s.swap(ctx, tx, replaced[id]); err != nil {
			return fmt.Errorf("put mirror %s to use: %w", replaced[id].Name, err)
		}
	}
	for _, name := range sortedKeys(s.views) {
		v := s.views[name]
		switch {
		case v.state != stateLive || v.def.folds():
		case s.pos.gap == "" && !v.def.needs(replaced):
		case s.pos.gap == "" && s.goesOn(v.def, old, replaced):
			if err := newQuery(s.opts, name, v.def).makeSource(ctx, tx); err != nil {
				return err
			}
		default:
			// No event may be made of what a view becomes without one: nothing is applied until it is built.
			s.waits[name] = s.pos.gap == "" && s.emits(name)
			if err := s.notLive(ctx, tx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) notLive(ctx context.Context, on execer, view string) error {
	_, err := on.Exec(ctx, "UPDATE walrill.views SET state = 'filling' WHERE name = $1", view)
	return err
}

// goesOn reports whether a view is right over other mirrors, too: they have what it needs, of the same rows.
func (s *session) goesOn(def *definition, old, replaced map[string]*mirror) bool {
	for i := range def.Mirrors {
		m, with := &def.Mirrors[i], replaced[def.Mirrors[i].id()]
		if with == nil {
			continue
		}
		was := old[m.id()]
		if was == nil || !with.covers(m) || !was.covers(m) || s.parked[m.parkedAs()] > 0 {
			return false
		}
	}
	return true
}

func (d *definition) needs(mirrors map[string]*mirror) bool {
	return slices.ContainsFunc(d.Mirrors, func(m mirrorDef) bool { return mirrors[m.id()] != nil })
}

// readRequests reads what commands ask for.
func (s *session) readRequests(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, `SELECT name, request, answer, pinned,
		EXISTS (SELECT FROM walrill.parked p WHERE p.pipeline = v.pipeline AND p.view = v.name AND p.source <> '' AND p.retry) FROM walrill.views v WHERE pipeline = $1`, s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	var name, request, answer string
	var pinned, again bool
	_, err = pgx.ForEachRow(rows, []any{&name, &request, &answer, &pinned, &again}, func() error {
		if v := s.views[name]; v != nil {
			v.request, v.answer, v.pinned, v.again = request, answer, pinned, again
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	return nil
}

// asked reports whether a request of the view is open, and of which kind.
func (v *viewRow) asked() (kind string, open bool) {
	kind, _, _ = strings.Cut(v.request, " ")
	return kind, v.request != "" && !strings.HasPrefix(v.answer, v.request+":")
}

// filledMirrors finds mirrors that can take the place of those in use, and how many cannot yet. Those that are views are left to builders.
func (s *session) filledMirrors(ctx context.Context) (done []*mirror, waiting int, err error) {
	for _, m := range s.mirrors {
		if !m.filling || m.complete {
			continue
		}
		ok, err := s.filled(ctx, m)
		switch {
		case err != nil:
			return nil, 0, err
		case !ok:
			waiting++
		case m.View:
			m.complete = true
		default:
			done = append(done, m)
		}
	}
	return done, waiting, nil
}

// inUse are the mirrors that views can be computed from.
func (s *session) inUse() map[string]*mirror {
	all := map[string]*mirror{}
	for _, m := range s.mirrors {
		if !m.filling {
			all[m.id()] = m
		}
	}
	return all
}

// report makes the state of the views known.
func (s *session) report(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, `SELECT v.name, v.state, v.error, (SELECT count(*)::int FROM walrill.parked p WHERE p.pipeline = v.pipeline AND p.view = v.name)
		FROM walrill.views v WHERE pipeline = $1 AND state <> 'stopped' ORDER BY name`, s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	var list []ViewStatus
	var v ViewStatus
	if _, err := pgx.ForEachRow(rows, []any{&v.Name, &v.State, &v.Error, &v.Parked}, func() error {
		v.Kind = "query"
		if d := s.wanted[v.Name]; d != nil {
			v.Kind = d.Kind
		}
		list = append(list, v)
		return nil
	}); err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	parked := 0
	for _, n := range s.parked {
		parked += n
	}
	s.projector.note(func(st *Status) {
		st.Views, st.Clock, st.Gap, st.Parked = list, s.pos.shown, s.pos.gap, parked
	})
	s.tellProgress()
	return nil
}
