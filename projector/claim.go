package projector

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// A view that is kept otherwise from now on, key by key or in whole transactions, goes from one group of views to the other: who
// keeps the first stops it there, or nobody keeps that; then the other takes its record, with the table as it stands, and fills it beside.

// claimEvery is how often it is looked whether a view can be had.
const claimEvery = time.Second

// claim takes the views that others have kept. Those that they still keep are noted, and waited for when there is nothing else to do.
func (s *session) claim(ctx context.Context) error {
	for told := false; ; told = true {
		if err := s.claimWhat(ctx); err != nil {
			return err
		}
		if len(s.elsewhere) > 0 && !told {
			s.opts.Log.Warn("views are still kept otherwise, by a process with another configuration: waiting for it to stop", "views", s.elsewhere)
		}
		if len(s.elsewhere) == 0 || len(s.elsewhere) < len(s.opts.Views) {
			return nil
		}
		s.projector.note(func(st *Status) {
			st.State, st.Error = StateConnecting, fmt.Sprintf("view %s is still kept otherwise, by a process with another configuration", s.elsewhere[0])
		})
		if err := pause(ctx, claimEvery); err != nil {
			return err
		}
	}
}

// claimWhat takes what can be had.
func (s *session) claimWhat(ctx context.Context) error {
	s.elsewhere = nil
	rows, err := s.conn.Query(ctx, "SELECT name, state = 'stopped' FROM walrill.views WHERE pipeline = $1 ORDER BY name", s.opts.Other)
	if err != nil {
		return fmt.Errorf("look for views that are kept otherwise: %w", err)
	}
	var stopped, kept []string
	var name string
	var still bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &still}, func() error {
		switch {
		case !slices.ContainsFunc(s.opts.Views, func(v View) bool { return v.Name == name }):
		case still:
			stopped = append(stopped, name)
		default:
			kept = append(kept, name)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("look for views that are kept otherwise: %w", err)
	}
	if len(kept) > 0 {
		free, err := s.fenceOther(ctx)
		if err != nil {
			return err
		}
		if free {
			stopped = append(stopped, kept...)
		} else {
			s.elsewhere = kept
		}
	}
	if len(stopped) == 0 {
		return nil
	}
	s.opts.Log.Info("views are kept otherwise from now on", "views", stopped)
	return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue("DELETE FROM walrill.mirrors m WHERE pipeline = $1 AND NOT filling AND name IN (SELECT 'view:' || n FROM unnest($2::text[]) n)", s.opts.Other, stopped)
		for _, table := range []string{"parked", "parked_events", "repairs", "folds"} {
			b.Queue("DELETE FROM walrill."+table+" WHERE pipeline = $1 AND view = ANY ($2)", s.opts.Other, stopped)
		}
		b.Queue("UPDATE walrill.views SET pipeline = $3, state = 'filling', request = '', answer = '', error = '', pinned = false WHERE pipeline = $1 AND name = ANY ($2)", s.opts.Other, stopped, s.opts.Pipeline)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("take over views that were kept otherwise: %w", err)
		}
		return nil
	})
}

// fenceOther makes sure that nobody writes the other views of the pipeline any more. It reports false when somebody keeps them.
func (s *session) fenceOther(ctx context.Context) (free bool, err error) {
	err = pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock($1, hashtext($2))", lockClass, s.opts.Other).Scan(&free); err != nil || !free {
			return err
		}
		if _, err := fenceWorkers(ctx, tx, s.opts.Other); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE walrill.pipelines SET fence = fence + 1 WHERE pipeline = $1", s.opts.Other)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("take over views that were kept otherwise: %w", err)
	}
	return free, nil
}

// lookElsewhere starts over when a view can be had that was still kept otherwise.
func (s *session) lookElsewhere(ctx context.Context) error {
	if len(s.elsewhere) == 0 || time.Since(s.claimed) < claimEvery {
		return nil
	}
	s.claimed = time.Now()
	before := len(s.elsewhere)
	if err := s.claimWhat(ctx); err != nil {
		return err
	}
	if len(s.elsewhere) < before {
		return errAgain
	}
	return nil
}
