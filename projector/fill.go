package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// The states of a view. A stopped one has left the configuration; its table stays and is not kept.
const (
	stateFilling = "filling"
	stateLive    = "live"
	stateStopped = "stopped"
)

// id tells mirrors apart: a mirror that is a view may have the name of another table's mirror.
func (m *mirrorDef) id() string {
	if m.View {
		return "view:" + m.Name
	}
	return m.Name
}

// wantedMirrors are the mirrors that the configured views need together, and what views that are
// kept in another form until those are filled need of them.
func (s *session) wantedMirrors() map[string]*mirrorDef {
	all := map[string]*mirrorDef{}
	for _, view := range sortedKeys(s.wanted) {
		for _, m := range s.wanted[view].Mirrors {
			if known := all[m.id()]; known != nil {
				known.merge(&m)
				continue
			}
			m.Columns, m.Indexes = slices.Clone(m.Columns), slices.Clone(m.Indexes)
			all[m.id()] = &m
		}
	}
	for _, view := range sortedKeys(s.wanted) {
		v := s.views[view]
		if v == nil || v.state != stateLive {
			continue
		}
		for _, m := range v.def.Mirrors {
			if known := all[m.id()]; known != nil && known.fits(&m) && s.carried(&m) {
				known.merge(&m)
			}
		}
	}
	return all
}

// carried reports whether the source still has all columns of a mirror.
func (s *session) carried(m *mirrorDef) bool {
	i := slices.IndexFunc(s.tables, func(t Table) bool { return t.Name == m.Source })
	return i >= 0 && !slices.ContainsFunc(m.Columns, func(c Column) bool {
		return !slices.ContainsFunc(s.tables[i].Columns, func(x SourceColumn) bool { return x.Name == c.Name })
	})
}

// fits reports whether one mirror can serve both.
func (m *mirrorDef) fits(o *mirrorDef) bool {
	if m.View || m.Source != o.Source || !slices.Equal(m.Key, o.Key) {
		return false
	}
	for _, c := range o.Columns {
		if i := slices.IndexFunc(m.Columns, func(x Column) bool { return x.Name == c.Name }); i >= 0 && m.Columns[i] != c {
			return false
		}
	}
	return true
}

// reconcile brings what the store has in step with the configuration: it begins to fill
// the mirrors that are missing, or lack a column, beside those in use.
func (s *session) reconcile(ctx context.Context) error {
	mirrors, err := s.loadMirrors(ctx)
	if err != nil {
		return err
	}
	if err := s.loadViews(ctx); err != nil {
		return err
	}
	inUse, filling := map[string]*mirror{}, map[string]*mirror{}
	for _, m := range mirrors {
		switch {
		case m.filling:
			filling[m.id()] = m
		case s.keeps(m):
			inUse[m.id()] = m
		}
	}
	wanted := s.wantedMirrors()
	if s.pos.gap != "" && s.pos.read == 0 {
		// What comes from here on, and backfills that are asked for behind it, are all there is.
		if s.pos.read, err = s.opts.Watermark(ctx); err != nil {
			return err
		}
	}
	var fresh []*mirror
	requests := map[string]string{} // by table: one backfill fills all its mirrors
	for _, id := range sortedKeys(wanted) {
		if m := inUse[id]; m != nil && m.covers(wanted[id]) && s.pos.gap == "" {
			continue
		}
		if m := filling[id]; m != nil && m.covers(wanted[id]) {
			continue
		}
		m := newMirror(s.opts, *wanted[id], true)
		request, asked := requests[m.Source]
		if !asked {
			if request, err = s.requestFor(ctx, m); err != nil {
				return err
			}
			requests[m.Source] = request
		}
		m.request = request
		fresh = append(fresh, m)
	}
	return s.in(ctx, s.pos, func(tx pgx.Tx) error {
		for _, m := range fresh {
			if err := m.startFilling(ctx, tx, s.opts.Pipeline); err != nil {
				return err
			}
		}
		if err := s.dropUnneeded(ctx, tx, mirrors, wanted); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM walrill.touched WHERE pipeline = $1", s.opts.Pipeline); err != nil { // builders begin anew
			return err
		}
		return s.registerViews(ctx, tx)
	})
}

// keeps reports whether a mirror in use is written to: one that is a view only while that is live.
func (s *session) keeps(m *mirror) bool {
	v := s.views[m.Name]
	return !m.View || v != nil && v.state == stateLive && v.def.Kind == "mirror"
}

// requestFor asks for the backfill that fills a mirror. At the pipeline's beginning the stream itself
// has, or will have, every row: its first backfill is in it.
func (s *session) requestFor(ctx context.Context, m *mirror) (string, error) {
	if s.pos.read == 0 {
		b, err := s.opts.Backfills.Look(ctx, m.Source)
		if err != nil || b.Known && b.Whole && b.Error == "" {
			return "", err
		}
	}
	id, err := s.opts.Backfills.Request(ctx, m.Source)
	if err == nil {
		s.opts.Log.Info("asked for a backfill, to fill a mirror", "table", m.Source, "mirror", m.Name)
	}
	return id, err
}

func (m *mirror) startFilling(ctx context.Context, tx pgx.Tx, pipeline string) error {
	text, err := json.Marshal(m.mirrorDef)
	if err != nil {
		return err
	}
	if err := tryExec(ctx, tx, "DROP TABLE IF EXISTS "+m.table); err != nil {
		return err
	}
	if err := tryExec(ctx, tx, m.createSQL(m.table)); err != nil {
		return fmt.Errorf("make mirror %s: %w", m.Name, err)
	}
	if err := m.indexes(ctx, tx); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO walrill.mirrors (pipeline, name, filling, definition, request) VALUES ($1, $2, true, $3, $4)
		ON CONFLICT (pipeline, name, filling) DO UPDATE SET definition = excluded.definition, request = excluded.request`, pipeline, m.id(), string(text), m.request)
	return err
}

// dropUnneeded drops mirrors that no view needs, neither as it is configured nor as it is kept.
func (s *session) dropUnneeded(ctx context.Context, tx pgx.Tx, mirrors []*mirror, wanted map[string]*mirrorDef) error {
	for _, m := range mirrors {
		needed := wanted[m.id()] != nil
		for _, v := range s.views {
			if needed || m.filling || v.state != stateLive || s.wanted[v.name] == nil {
				continue
			}
			needed = slices.ContainsFunc(v.def.Mirrors, func(d mirrorDef) bool { return d.id() == m.id() })
		}
		if needed {
			continue
		}
		if !m.View || m.filling { // the table of a view stays
			if err := s.dropQueries(ctx, tx, m.Name); err != nil {
				return err
			}
			if err := tryExec(ctx, tx, "DROP TABLE IF EXISTS "+m.table); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "DELETE FROM walrill.mirrors WHERE pipeline = $1 AND name = $2 AND filling = $3", s.opts.Pipeline, m.id(), m.filling); err != nil {
			return err
		}
	}
	return nil
}

// dropQueries drops the SQL views that compute views from a mirror.
func (s *session) dropQueries(ctx context.Context, tx pgx.Tx, mirror string) error {
	for _, v := range s.views {
		if v.def != nil && v.def.Kind == "query" && slices.ContainsFunc(v.def.Mirrors, func(d mirrorDef) bool { return d.Name == mirror }) {
			if err := tryExec(ctx, tx, "DROP VIEW IF EXISTS "+newQuery(s.opts, v.name, v.def).source); err != nil {
				return err
			}
		}
	}
	return nil
}

// registerViews notes the configured views, and stops those that are not configured any more.
func (s *session) registerViews(ctx context.Context, tx pgx.Tx) error {
	for _, name := range sortedKeys(s.wanted) {
		if v := s.views[name]; v == nil || v.def == nil {
			if err := free(ctx, tx, name, qualified(s.opts.Schema, name)); err != nil {
				return err
			}
		}
		var pipeline string
		err := tx.QueryRow(ctx, `INSERT INTO walrill.views AS v (name, pipeline, schema, state) VALUES ($1, $2, $3, 'filling')
			ON CONFLICT (name) DO UPDATE SET state = CASE v.state WHEN 'stopped' THEN 'filling' ELSE v.state END, error = '' RETURNING pipeline`,
			name, s.opts.Pipeline, s.opts.Schema).Scan(&pipeline)
		if err != nil {
			return err
		}
		if pipeline != s.opts.Pipeline {
			return &SetupError{View: name, Problem: fmt.Sprintf("pipeline %s keeps a view of this name in the same store", pipeline), Fix: "rename one of them"}
		}
		text, err := json.Marshal(s.wanted[name])
		if err != nil {
			return err
		}
		// What a rollback has pinned stays until the configuration says something new.
		if _, err := tx.Exec(ctx, `UPDATE walrill.views SET pinned = pinned AND configured = $2::jsonb, configured = $2::jsonb WHERE name = $1`, name, string(text)); err != nil {
			return err
		}
	}
	for name, v := range s.views {
		if s.wanted[name] == nil && v.state != stateStopped {
			if slices.Contains(s.opts.Leaving, name) {
				s.opts.Log.Info("a view is kept otherwise from now on: its table stays as it is until it is filled for that", "view", name)
			} else {
				s.leftOut(name)
			}
			if _, err := tx.Exec(ctx, "UPDATE walrill.views SET state = 'stopped' WHERE name = $1", name); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftOut says that a view is not kept any more.
func (s *session) leftOut(name string) {
	s.opts.Log.Warn("a view has left the configuration: it is not kept any more, and its table stays as it is",
		"view", name, "sql", fmt.Sprintf("DROP TABLE %s; DELETE FROM walrill.views WHERE name = %s", qualified(s.opts.Schema, name), literal(name)))
}

// breakOff notes that what was read cannot be relied on. The next session fills all mirrors anew, while
// the views stay as they are.
func (s *session) breakOff(ctx context.Context, cause error) error {
	s.conn.Exec(ctx, "ROLLBACK") //nolint:errcheck // of the batch that is given up, if there is one
	s.opts.Log.Error("the views cannot follow any more: all mirrors are filled anew, and the views stand still until then", "error", cause)
	if err := s.hide(ctx); err != nil {
		return err
	}
	mirrors, err := s.loadMirrors(ctx)
	if err != nil {
		return err
	}
	s.pos.gap, s.pos.read = cause.Error(), 0
	err = s.in(ctx, s.pos, func(tx pgx.Tx) error {
		for _, m := range mirrors {
			if m.filling {
				if err := tryExec(ctx, tx, "DROP TABLE IF EXISTS "+m.table); err != nil {
					return err
				}
			}
		}
		_, err := tx.Exec(ctx, "DELETE FROM walrill.mirrors WHERE pipeline = $1 AND filling", s.opts.Pipeline)
		if err == nil {
			_, err = tx.Exec(ctx, "DELETE FROM walrill.partitions WHERE pipeline = $1", s.opts.Pipeline)
		}
		if err == nil {
			_, err = tx.Exec(ctx, "DELETE FROM walrill.workers WHERE pipeline = $1", s.opts.Pipeline)
		}
		if err == nil {
			err = s.breakFolds(ctx, tx)
		}
		return err
	})
	if err != nil {
		return err
	}
	return errAgain
}

// filled reports whether a mirror has every row: its backfill has ended and is read to its end.
func (s *session) filled(ctx context.Context, m *mirror) (bool, error) {
	b, err := s.opts.Backfills.Look(ctx, m.Source)
	if err != nil {
		return false, err
	}
	id, ours, asked := b.answers(m.request)
	switch {
	case !asked:
		return false, s.requestAgain(ctx, m.Source)
	case id != m.request:
		if err := s.noteRequest(ctx, m.Source, id); err != nil {
			return false, err
		}
	}
	switch {
	case b.Error != "" && ours:
		return false, s.tell(ctx, m, "the backfill of "+m.Source+" failed: "+b.Error)
	}
	return ours && b.Done && s.pos.read >= max(b.Clock, b.End), nil
}

// requestAgain asks for another backfill of a table, for all its mirrors that are being filled: somebody asked for another one in
// the meantime, or Redis has forgotten ours.
func (s *session) requestAgain(ctx context.Context, table string) error {
	request, err := s.opts.Backfills.Request(ctx, table)
	if err != nil {
		return err
	}
	return s.noteRequest(ctx, table, request)
}

// noteRequest has the mirrors of a table that are being filled wait for a request.
func (s *session) noteRequest(ctx context.Context, table, request string) error {
	for _, m := range s.mirrors {
		if !m.filling || m.Source != table {
			continue
		}
		m.request = request
		if _, err := s.conn.Exec(ctx, "UPDATE walrill.mirrors SET request = $3 WHERE pipeline = $1 AND name = $2 AND filling", s.opts.Pipeline, m.id(), m.request); err != nil {
			return fmt.Errorf("note a request for a backfill: %w", err)
		}
	}
	return nil
}

// tell notes a problem with the views that need a mirror.
func (s *session) tell(ctx context.Context, m *mirror, problem string) error {
	for name, d := range s.wanted {
		if slices.ContainsFunc(d.Mirrors, func(x mirrorDef) bool { return x.id() == m.id() }) {
			if _, err := s.conn.Exec(ctx, "UPDATE walrill.views SET error = $2 WHERE name = $1 AND error <> $2", name, problem); err != nil {
				return err
			}
		}
	}
	return nil
}

// indexes makes the indexes that recomputing needs.
func (m *mirror) indexes(ctx context.Context, tx pgx.Tx) error {
	for _, c := range m.Indexes {
		var has bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = to_regclass($1) AND a.attname = $2)`, m.table, c).Scan(&has)
		if err == nil && !has {
			err = tryExec(ctx, tx, fmt.Sprintf("CREATE INDEX ON %s (%s)", m.table, quoteIdent(c)))
		}
		if err != nil {
			return fmt.Errorf("make an index of mirror %s: %w", m.Name, err)
		}
	}
	return nil
}

// retryRows has rows that were set aside before tried again.
const retryRows = "UPDATE walrill.parked SET retry = true WHERE pipeline = $1 AND view = $2 AND row IS NOT NULL AND parked_at < now()"

// swap puts a filled mirror, which is no view, in the place of the one in use.
func (s *session) swap(ctx context.Context, tx pgx.Tx, m *mirror) error {
	live := newMirror(s.opts, m.mirrorDef, false)
	if err := s.dropQueries(ctx, tx, m.Name); err != nil {
		return err
	}
	for _, sql := range []string{
		"DROP TABLE IF EXISTS " + live.table,
		fmt.Sprintf("ALTER TABLE %s RENAME TO %s", m.table, quoteIdent(m.Name)),
		"ANALYZE " + live.table,
	} {
		if err := tryExec(ctx, tx, sql); err != nil {
			return err
		}
	}
	return s.inUseNow(ctx, tx, m)
}

// inUseNow notes that a filled mirror is the one in use.
func (s *session) inUseNow(ctx context.Context, tx pgx.Tx, m *mirror) error {
	// Rows that the one before refused came with the backfill, and those that this one refused did not.
	if _, err := tx.Exec(ctx, retryRows, s.opts.Pipeline, m.parkedAs()); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM walrill.mirrors WHERE pipeline = $1 AND name = $2 AND NOT filling", s.opts.Pipeline, m.id()); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "UPDATE walrill.mirrors SET filling = false, shape = $3 WHERE pipeline = $1 AND name = $2", s.opts.Pipeline, m.id(), m.shape)
	return err
}

// live notes that a view is right from here on.
func (s *session) live(ctx context.Context, tx pgx.Tx, v *viewRow, def *definition, rows int64) error {
	text, err := json.Marshal(def)
	if err != nil {
		return err
	}
	answer := v.answer
	if v.request != "" {
		answer = fmt.Sprintf("%s: %d rows differed", v.request, rows)
	}
	_, err = tx.Exec(ctx, `UPDATE walrill.views SET previous = CASE WHEN definition IS DISTINCT FROM $2::jsonb THEN coalesce(definition, previous) ELSE previous END,
		definition = $2::jsonb, state = 'live', error = '', answer = $3, live_since = coalesce(live_since, now()) WHERE name = $1`, v.name, string(text), answer)
	s.opts.Log.Info("a view is complete", "view", v.name, "position", clock(s.pos.read), "rows", rows)
	return err
}

func missingMirrors(def *definition, inUse map[string]*mirror) []string {
	var names []string
	for i := range def.Mirrors {
		d := &def.Mirrors[i]
		if m := inUse[d.id()]; m == nil || !m.covers(d) {
			names = append(names, d.Name)
		}
	}
	return names
}
