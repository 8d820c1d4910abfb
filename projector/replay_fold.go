package projector

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// makeFolds makes the tables of folds, and readies their SQL. Events that the views are kept without are left out here, too.
func (r *replay) makeFolds(ctx context.Context) error {
	for _, name := range sortedKeys(r.defs) {
		def := r.defs[name]
		if !def.folds() {
			continue
		}
		schema := fillSchema(r.Pipeline)
		if _, err := r.conn.Exec(ctx, createTable(qualified(schema, name), def)); err != nil {
			return fmt.Errorf("make view %s: %w", name, err)
		}
		f, err := newFolding(ctx, r.conn, &r.Options, name, def, schema, quoteIdent(mirrorSchema(r.Pipeline))+", public")
		if err != nil {
			return err
		}
		if f.apart, err = loadApart(ctx, r.conn, r.kept, name); noViewsYet(err) {
			f.apart, err = newApart(), nil
		}
		if err != nil {
			return err
		}
		f.aside = map[string]bool{}
		r.folds = append(r.folds, f)
	}
	return nil
}

// takeFolds gathers an event for the folds.
func (r *replay) takeFolds(ctx context.Context, e *event.Event) error {
	for _, f := range r.folds {
		f.take(e)
		if !f.full() && len(f.events) < maxBatch {
			continue
		}
		if err := r.flushFold(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) flushFolds(ctx context.Context) error {
	for _, f := range r.folds {
		if err := r.flushFold(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// flushFold applies what a fold has gathered. A key of which an event is refused stands still from there on.
func (r *replay) flushFold(ctx context.Context, f *folding) error {
	if len(f.events) == 0 {
		return nil
	}
	events := f.events
	err := pgx.BeginFunc(ctx, r.conn, func(pgx.Tx) error { return f.flush(ctx, r.conn, false) })
	if isDataError(err) {
		f.events = events
		err = pgx.BeginFunc(ctx, r.conn, func(pgx.Tx) error { return f.flush(ctx, r.conn, true) })
	}
	if err != nil {
		return fmt.Errorf("view %s: %w", f.view, err)
	}
	return nil
}

// refusedKeys counts the keys of each fold that were refused here, or that wait in the view that is kept.
func (r *replay) refusedKeys() map[string]int {
	counts := map[string]int{}
	for _, f := range r.folds {
		keys := map[string]bool{}
		for key := range f.apart.refused {
			keys[key] = true
		}
		for key := range f.apart.stopped {
			keys[key] = true
		}
		if len(keys) > 0 {
			counts[f.view] = len(keys)
		}
	}
	return counts
}
