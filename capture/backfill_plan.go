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
		// One that was done before has been outside, or is another table of that name by now.
		if state := records[t.String()].State; state != nil && state.State == BackfillWaiting {
			continue
		}
		if err := s.opts.Backfill.Store.Save(ctx, t.String(), BackfillState{State: BackfillWaiting}); err != nil {
			return fmt.Errorf("record the backfill of %s: %w", t, err)
		}
		s.replan(t.String())
	}
	return nil
}

// replan makes the running stream forget what it knows of a table's backfill.
func (s *Source) replan(table string) {
	s.mu.Lock()
	b := s.backfills
	s.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.states[table] = BackfillState{State: BackfillWaiting}
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
