package projector

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// droppedTables are the live views of pipeline $1 whose tables somebody has dropped.
const droppedTables = "pipeline = $1 AND state = 'live' AND to_regclass(format('%I.%I', schema, name)) IS NULL"

// anyDropped reports whether there are such views, which a session that starts over makes anew.
func (s *session) anyDropped(ctx context.Context) (there bool, err error) {
	if err = s.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM walrill.views WHERE "+droppedTables+")", s.opts.Pipeline).Scan(&there); err != nil {
		err = fmt.Errorf("look for the tables of the views: %w", err)
	}
	return there, err
}

// forgetDropped has views made anew whose tables somebody has dropped: else none could go on.
func (s *session) forgetDropped(ctx context.Context) error {
	if there, err := s.anyDropped(ctx); err != nil || !there {
		return err
	}
	return s.in(ctx, s.pos, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "UPDATE walrill.views SET state = 'filling', definition = NULL WHERE "+droppedTables+" RETURNING name", s.opts.Pipeline)
		if err != nil {
			return fmt.Errorf("look for the tables of the views: %w", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for the tables of the views: %w", err)
		}
		for _, name := range names {
			s.opts.Log.Warn("the table of a view is gone: it is made anew", "view", name)
			if _, err := tx.Exec(ctx, "DELETE FROM walrill.mirrors WHERE pipeline = $1 AND name = $2 AND NOT filling", s.opts.Pipeline, "view:"+name); err != nil {
				return fmt.Errorf("forget the mirror %s: %w", name, err)
			}
		}
		return nil
	})
}
