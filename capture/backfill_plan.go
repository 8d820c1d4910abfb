package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// planBackfills records which tables are new to the pipeline: all of them when there
// is no slot yet, otherwise those that are not in the publication. It comes before either is changed, so that a crash in
// between forgets nothing.
func (s *Source) planBackfills(ctx context.Context, conn *pgx.Conn, tables []table, known Known) error {
	if s.opts.Backfill.Store == nil || !s.opts.Backfill.Initial {
		return nil
	}
	fresh, err := s.newTables(ctx, conn, tables, known)
	if err != nil || len(fresh) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	records, err := s.opts.Backfill.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("look for backfills: %w", err)
	}
	for _, t := range fresh {
		// One that was done before has been outside, or is another table of that name by now. What was asked of it
		// was answered, and is not done again.
		planned := BackfillState{State: BackfillWaiting}
		if state := records[t.String()].State; state != nil {
			if state.State == BackfillWaiting && state.Where == "" {
				continue
			}
			planned.Request = state.Request
		}
		if err := s.replan(ctx, t, planned); err != nil {
			return err
		}
	}
	return nil
}

// replan records that a table is to be backfilled. A stream that runs ends what it does for the table of that name and
// begins anew when the table is published, which setPrepared says.
func (s *Source) replan(ctx context.Context, t table, state BackfillState) error {
	s.mu.Lock()
	b := s.backfills
	s.mu.Unlock()
	if b != nil {
		if last := b.retire(t); last.Request != "" {
			state.Request = last.Request
		}
	}
	if err := s.opts.Backfill.Store.Save(ctx, t.String(), state); err != nil {
		return fmt.Errorf("record the backfill of %s: %w", t, err)
	}
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.states[t.String()] = state
	}
	return nil
}

// retire ends the backfill of the table that had this name, and keeps it ended until the table is prepared again. The stream has not had
// its changes all the while.
func (b *backfills) retire(t table) (last BackfillState) {
	b.mu.Lock()
	b.source.unprepare(t.String())
	b.retired[t.String()] = true
	delete(b.published, t.OID)
	j := b.jobs[t.String()]
	b.mu.Unlock()
	if j != nil {
		j.stop()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.states[t.String()]
}

// newTables are those that are new. When a slot that was in use is gone, there is a gap, which is not ours to fill unasked.
func (s *Source) newTables(ctx context.Context, conn *pgx.Conn, tables []table, known Known) ([]table, error) {
	pub, err := s.readPublication(ctx, conn)
	if err != nil {
		return nil, err
	}
	if _, err := readSlot(ctx, conn, s.opts.Slot); errors.Is(err, ErrNoSlot) && pub.comment != s.usedMark() && known.Complete == 0 {
		return tables, nil
	} else if err != nil && !errors.Is(err, ErrNoSlot) || pub.allTables {
		return nil, err
	}
	var names []string
	for _, t := range tables {
		names = append(names, pgx.Identifier{t.Namespace, t.Name}.Sanitize())
	}
	missing := map[string]bool{}
	for _, name := range without(names, pub.tables) {
		missing[name] = true
	}
	var fresh []table
	for i, t := range tables {
		if missing[names[i]] || s.arrived(t) {
			fresh = append(fresh, t)
		}
	}
	return fresh, nil
}

// arrived reports whether a table, that was published all the while perhaps, has come to be wanted, or to its name,
// since the last Prepare or Refresh: it was renamed or moved to another schema.
func (s *Source) arrived(t table) bool {
	known := s.prepared()
	same := func(rel *change.Relation) bool { return rel.OID == t.OID && rel.String() == t.String() }
	return known != nil && !slices.ContainsFunc(known, same)
}

// Lost says that the sink may have lost entries behind this position, so that the next stream begins those
// backfills anew that had published any there. The sink's own record cannot tell it, as it can in one server.
func (s *Source) Lost(behind change.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lostBehind == 0 || behind < s.lostBehind {
		s.lostBehind = behind
	}
}

// hasLost reports whether rows that were published up to here may be gone.
func (s *Source) hasLost(state *BackfillState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lsn, err := change.ParseLSN(state.LSN)
	return s.lostBehind != 0 && (err != nil && state.LSN != "" || lsn > s.lostBehind)
}

func (s *Source) regained() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lostBehind = 0
}

// prepared are the tables of the last Prepare or Refresh.
func (s *Source) prepared() []*change.Relation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tables
}

func (s *Source) unprepare(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables = slices.DeleteFunc(slices.Clone(s.tables), func(rel *change.Relation) bool { return rel.String() == name })
}

func (s *Source) setPrepared(tables []table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables = relations(tables)
}

// Backfills is how far the backfills are that the last stream knows of, by table. Any goroutine may ask.
func (s *Source) Backfills() []BackfillProgress {
	s.mu.Lock()
	b := s.backfills
	s.mu.Unlock()
	if b == nil {
		return nil
	}
	return b.progress()
}
