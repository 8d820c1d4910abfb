package capture

import (
	"context"
	"errors"

	"github.com/walrill/walrill/change"
)

// Fit reads the tables that another selection would capture and says whether it can, as Prepare
// would. It changes nothing. The error is a *SetupError when the selection is at fault. Any goroutine may call it.
func (s *Source) Fit(ctx context.Context, selection Selection) ([]*change.Relation, error) {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	all, err := readTables(ctx, conn, s.opts.Publication)
	if err != nil {
		return nil, err
	}
	tables, unfit, err := selection.of(all)
	if err = errors.Join(err, unfit); err != nil {
		return nil, err
	}
	if selection.empty(tables) {
		return nil, errNoTables
	}
	pub, err := s.readPublication(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := s.checkPublication(pub, tables); err != nil {
		return nil, err
	}
	if err := s.checkSweep(ctx, conn, selection, tables); err != nil {
		return nil, err
	}
	return relations(tables), s.checkRenamed(selection, pub, tables)
}

// Select puts another selection in force: the next Refresh takes its tables in, and takes out of the
// publication, if walrill made it, those that it leaves out. Any goroutine may call it.
func (s *Source) Select(selection Selection) {
	s.selecting.Lock()
	defer s.selecting.Unlock()
	s.opts.Selection = selection
	s.selected++
}

// selection is the one in force; its Wanted is for wantedTables alone.
func (s *Source) selection() Selection {
	s.selecting.Lock()
	defer s.selecting.Unlock()
	return s.opts.Selection
}

// selections is how many Select has put in force.
func (s *Source) selections() int {
	s.selecting.Lock()
	defer s.selecting.Unlock()
	return s.selected
}
