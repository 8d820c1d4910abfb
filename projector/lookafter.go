package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

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
	builds := s.pendingBuilds(done)
	if len(done) == 0 && len(builds) == 0 && s.pos.gap == "" {
		return s.report(ctx)
	}
	next := s.pos
	next.gap, next.shown = "", next.read
	err = s.in(ctx, next, func(tx pgx.Tx) error {
		if err := s.replace(ctx, tx, done, builds); err != nil {
			return err
		}
		return s.saveSeqs(ctx, tx)
	})
	if err != nil {
		return err
	}
	clear(s.dirty)
	s.pos = next // told together with the states of the views, for who waits
	if err := s.load(ctx); err != nil {
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

// replace puts mirrors to use and builds views. A view that is computed from a mirror which is replaced, and cannot be
// built anew, stands still until it can: it is filling again.
func (s *session) replace(ctx context.Context, tx pgx.Tx, done []*mirror, builds []build) error {
	if _, err := tx.Exec(ctx, "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on", pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	replaced := map[string]bool{}
	for _, m := range done {
		replaced[m.id()] = true
		if err := s.swap(ctx, tx, m); err != nil {
			return fmt.Errorf("put mirror %s to use: %w", m.Name, err)
		}
	}
	built := map[string]bool{}
	for _, b := range builds {
		ok, err := s.buildView(ctx, tx, b)
		if err != nil {
			return err
		}
		built[b.view.name] = ok
	}
	for name, v := range s.views {
		if v.state != stateLive || v.def.Kind != "query" || built[name] || !v.def.needs(replaced) {
			continue
		}
		if _, err := tx.Exec(ctx, "UPDATE walrill.views SET state = 'filling' WHERE name = $1", name); err != nil {
			return err
		}
	}
	return nil
}

func (d *definition) needs(mirrors map[string]bool) bool {
	return slices.ContainsFunc(d.Mirrors, func(m mirrorDef) bool { return mirrors[m.id()] })
}

// readRequests reads what commands ask for.
func (s *session) readRequests(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT name, request, answer, pinned FROM walrill.views WHERE pipeline = $1", s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	var name, request, answer string
	var pinned bool
	_, err = pgx.ForEachRow(rows, []any{&name, &request, &answer, &pinned}, func() error {
		if v := s.views[name]; v != nil {
			v.request, v.answer, v.pinned = request, answer, pinned
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

func (s *session) filledMirrors(ctx context.Context) (done []*mirror, waiting int, err error) {
	for _, m := range s.mirrors {
		if !m.filling {
			continue
		}
		ok, err := s.filled(ctx, m)
		if err != nil {
			return nil, 0, err
		}
		if ok {
			done = append(done, m)
		} else {
			waiting++
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

// build is a view to compute as a whole.
type build struct {
	view *viewRow
	def  *definition
}

// pendingBuilds are the query views to compute: those that are new, changed, asked for, or whose mirror is replaced.
func (s *session) pendingBuilds(done []*mirror) []build {
	inUse, replaced := s.inUse(), map[string]bool{}
	for _, m := range done {
		inUse[m.id()], replaced[m.id()] = m, true
	}
	var builds []build
	for _, name := range sortedKeys(s.wanted) {
		v, wanted := s.views[name], s.wanted[name]
		if v == nil {
			continue
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
			continue
		}
		if time.Since(s.failed[name]) < buildEvery && !open && !target.needs(replaced) {
			continue
		}
		if v.state != stateLive || open || !target.same(v.def) || !sameJSON(target.Affects, v.def.Affects) || target.needs(replaced) {
			builds = append(builds, build{v, target})
		}
	}
	return builds
}

// buildEvery is how often a view is tried again whose SQL fails on the rows that there are.
const buildEvery = 10 * time.Second

// buildView computes a view as a whole, without the rows that are refused. When its SQL fails whatever the rows, that is told and tried
// again later.
func (s *session) buildView(ctx context.Context, tx pgx.Tx, b build) (ok bool, err error) {
	q := newQuery(s.opts, b.view.name, b.def)
	var rows int64
	err = pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) (err error) {
		rows, err = q.build(ctx, sub, s.opts, b.view.def)
		return err
	})
	if isDataError(err) {
		err = pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) (err error) {
			rows, err = s.buildCarefully(ctx, sub, q, b.view.def)
			return err
		})
	}
	if isDefinitionError(err) {
		return false, s.buildFailed(ctx, tx, b, err)
	}
	if err != nil {
		return false, fmt.Errorf("build view %s: %w", b.view.name, err)
	}
	if kind, open := b.view.asked(); open && kind == Rollback {
		if _, err := tx.Exec(ctx, "UPDATE walrill.views SET pinned = true WHERE name = $1", b.view.name); err != nil {
			return false, err
		}
	}
	delete(s.failed, b.view.name)
	return true, s.live(ctx, tx, b.view, b.def, rows)
}

func (s *session) buildFailed(ctx context.Context, tx pgx.Tx, b build, cause error) error {
	message := "its rows cannot be computed: " + reason(cause)
	s.failed[b.view.name] = time.Now()
	s.opts.Log.Error("a view cannot be built; it is tried again", "view", b.view.name, "error", message)
	answer := b.view.answer
	if _, open := b.view.asked(); open {
		answer = b.view.request + ": failed: " + message
	}
	_, err := tx.Exec(ctx, "UPDATE walrill.views SET error = $2, answer = $3 WHERE name = $1", b.view.name, message, answer)
	return err
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
