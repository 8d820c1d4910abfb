package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// planBackfills records which tables are new to the pipeline: all of them when there
// is no slot yet, otherwise those that are not in the publication. It comes before either is changed, so that a crash in
// between forgets nothing.
func (s *Source) planBackfills(ctx context.Context, conn *pgx.Conn, tables []*change.Relation) error {
	if s.opts.Backfill.Store == nil || !s.opts.Backfill.Initial {
		return nil
	}
	fresh, err := s.newTables(ctx, conn, tables)
	if err != nil || len(fresh) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	records, err := s.opts.Backfill.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("look for backfills: %w", err)
	}
	for _, rel := range fresh {
		if records[tableName(rel)].State != nil {
			continue // planned before, or done: it was taken out of the publication in between
		}
		if err := s.opts.Backfill.Store.Save(ctx, tableName(rel), BackfillState{State: BackfillWaiting}); err != nil {
			return fmt.Errorf("record the backfill of %s: %w", rel, err)
		}
	}
	return nil
}

func (s *Source) newTables(ctx context.Context, conn *pgx.Conn, tables []*change.Relation) ([]*change.Relation, error) {
	if _, err := readSlot(ctx, conn, s.opts.Slot); errors.Is(err, errNoSlot) {
		return tables, nil
	} else if err != nil {
		return nil, err
	}
	pub, err := readPublication(ctx, conn, s.opts.Publication, s.publicationMark())
	if err != nil || pub.allTables {
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
	var fresh []*change.Relation
	for i, t := range tables {
		if missing[names[i]] {
			fresh = append(fresh, t)
		}
	}
	return fresh, nil
}

// prepared are the tables of the last Prepare.
func (s *Source) prepared() []*change.Relation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tables
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
