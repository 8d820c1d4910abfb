package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Parked is a key of a view, or of a mirror, that is set aside because its row was refused.
type Parked struct {
	View string `json:"view"` // or the table whose mirror refused the row
	// Mirror is the table whose row the key is of, in a query's eyes, when nobody can say which keys of the view that row affects. Else "".
	Mirror string          `json:"mirror,omitempty"`
	Key    json.RawMessage `json:"key"`
	Error  string          `json:"error"`
	Row    json.RawMessage `json:"row,omitempty"` // that a mirror refused
	LSN    string          `json:"lsn"`           // of the view when that happened
	At     time.Time       `json:"at"`
}

// Name is the key for people: behind the table that it is of, when that is not the view.
func (p *Parked) Name() string {
	if p.Mirror != "" {
		return p.Mirror + " " + string(p.Key)
	}
	return string(p.Key)
}

// ListParked lists what a pipeline has set aside: of one view, or of all when view is empty.
func ListParked(ctx context.Context, store *pgx.Conn, pipeline, view string) ([]Parked, error) {
	list := []Parked{}
	rows, err := store.Query(ctx, `SELECT view, source, key::text, error, coalesce(row::text, ''), lsn::text, parked_at FROM walrill.parked
		WHERE pipeline = ANY ($1) AND $2 IN ('', view) AND view NOT LIKE '%~fill' ORDER BY parked_at, view, source, key`, Groups(pipeline), view)
	if noViewsYet(err) {
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list what is parked: %w", err)
	}
	var p Parked
	var key, row string
	if _, err := pgx.ForEachRow(rows, []any{&p.View, &p.Mirror, &key, &p.Error, &row, &p.LSN, &p.At}, func() error {
		p.Key, p.Row = json.RawMessage(key), nil
		if row != "" {
			p.Row = json.RawMessage(row)
		}
		list = append(list, p)
		return nil
	}); err != nil && !noViewsYet(err) {
		return nil, fmt.Errorf("list what is parked: %w", err)
	}
	return list, nil
}

// RetryParked asks the projector to try keys again: one, or all of the view when key is empty. DropParked forgets them:
// the view keeps the rows that it has for them until they change again. To a fold that is the event that was refused: it is left out, and
// those that wait behind it are applied. Both say how many keys were meant.
func RetryParked(ctx context.Context, store *pgx.Conn, pipeline, view, key string) (int64, error) {
	return changeParked(ctx, store, "UPDATE walrill.parked SET retry = true", pipeline, view, key, "true")
}

// ofFold is true for the key of a fold, behind which its events wait.
const ofFold = "EXISTS (SELECT FROM walrill.parked_events e WHERE e.pipeline = parked.pipeline AND e.view = parked.view AND e.key = parked.key->>'key')"

// DropParked forgets keys that are set aside; see RetryParked.
func DropParked(ctx context.Context, store *pgx.Conn, pipeline, view, key string) (int64, error) {
	skipped, err := changeParked(ctx, store, "UPDATE walrill.parked SET retry = true, skip = true", pipeline, view, key, ofFold)
	if err != nil {
		return 0, err
	}
	gone, err := changeParked(ctx, store, "DELETE FROM walrill.parked", pipeline, view, key, "NOT "+ofFold)
	return skipped + gone, err
}

func changeParked(ctx context.Context, store *pgx.Conn, verb, pipeline, view, key, which string) (int64, error) {
	tag, err := store.Exec(ctx, verb+" WHERE pipeline = ANY ($1) AND view = $2 AND ($3 = '' OR key = nullif($3, '')::jsonb) AND "+which, Groups(pipeline), view, key)
	if err != nil && !noViewsYet(err) {
		return 0, fmt.Errorf("change what is parked of %s: %w", view, err)
	}
	return tag.RowsAffected(), nil
}
