package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// loadKept is load when only the states of views have changed.
func (s *session) loadKept(ctx context.Context) error {
	if err := s.conn.DeallocateAll(ctx); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	if err := s.loadViews(ctx); err != nil {
		return err
	}
	s.loadQueries()
	if err := s.loadEmits(ctx); err != nil {
		return err
	}
	return s.countParked(ctx)
}

// loadQueries finds which queries are kept, and which mirrors are written to.
func (s *session) loadQueries() {
	s.queries = nil
	needed := map[string]bool{}
	for _, v := range s.views {
		if v.state == stateLive && v.def.Kind == "query" && s.pos.gap == "" {
			s.queries = append(s.queries, newQuery(s.opts, v.name, v.def))
			for _, m := range v.def.Mirrors {
				needed[changedTable(m.Name)] = true
			}
		}
	}
	slices.SortFunc(s.queries, func(a, b *query) int { return strings.Compare(a.name, b.name) })
	s.bySrc = map[string][]*mirror{}
	s.mirrors = slices.DeleteFunc(s.mirrors, func(m *mirror) bool { return !m.filling && !s.keeps(m) })
	for _, m := range s.mirrors {
		m.stepped, m.emits = false, false
		if table := m.changedTable(); needed[table] || s.built(m) {
			m.changed = table
		}
		m.complete = m.complete || m.filling && m.View && s.builders[m.Name] != nil
		s.bySrc[m.Source] = append(s.bySrc[m.Source], m)
	}
}

// startOver goes back to what is committed, to apply it carefully. The builders go on.
func (s *session) startOver(ctx context.Context) (err error) {
	if _, err = s.conn.Exec(ctx, "ROLLBACK"); err != nil {
		return err
	}
	s.careful, s.until, s.calm = true, s.batch.commit, maxBatch
	s.batch, s.queue = batch{}, queue{}
	clear(s.dirty)
	if s.pos, err = s.loadPosition(ctx); err != nil {
		return err
	}
	return s.load(ctx)
}

// temporary makes the tables that take the old and new versions of changed rows. A batch empties those that it wrote to: to
// have Postgres do so at each commit would cost it milliseconds, because it truncates the files of all of them.
func (s *session) temporary(ctx context.Context) error {
	if _, err := s.conn.Exec(ctx, "DISCARD TEMP"); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	for _, m := range s.mirrors {
		if m.changed != "" {
			if err := s.makeChanged(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) makeChanged(ctx context.Context, m *mirror) error {
	if _, err := s.conn.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE %s (LIKE %s)", m.changed, m.table), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	return nil
}
