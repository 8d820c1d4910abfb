package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// A row that moves to another key may move to another partition, and Postgres may not send all of it: large values that the
// update left alone are to be taken from the row of the old key. Its own worker may have deleted that by then, since nothing tells such a deletion from
// any other. So workers keep rows that they delete, until all have passed the place.

// grave is a deletion.
type grave struct {
	at  event.Position
	key []byte
	row row // what the batch had made of the row before; nil when it had not touched it
}

// absent gives the row that one of another key was before, by the event that makes the new one; nil when it is not known.
type absent func(e *event.Event) (row, error)

// leave prepares a mirror for a worker.
func (m *mirror) leave(lacking absent) {
	m.fold.lacking, m.fold.buries = lacking, m.large()
}

// large reports whether rows of the mirror may have values that Postgres does not send when they do not change.
func (m *mirrorDef) large() bool {
	small := []string{"boolean", "smallint", "integer", "bigint", "real", "double precision", "date", "uuid", "oid", "money", "interval", "timestamp", "time"}
	return slices.ContainsFunc(m.Columns, func(c Column) bool {
		return !slices.Contains(m.Key, c.Name) && !slices.ContainsFunc(small, func(s string) bool {
			rest, is := strings.CutPrefix(c.Type, s)
			return is && !strings.HasSuffix(c.Type, "]") && (rest == "" || rest[0] == '(' || rest[0] == ' ')
		})
	})
}

// bury is the statement that keeps the rows which are about to be deleted.
func (m *mirror) bury(pipeline string) statement {
	list := make([][]byte, len(m.fold.graves))
	for i, g := range m.fold.graves {
		list[i] = fmt.Appendf(nil, `{"commit":"%d","ordinal":"%d","key":%s,"change":%s}`, g.at.Commit, g.at.Ordinal, g.key, m.fold.object(g.row))
	}
	return statement{rows: -1, args: []any{string(array(list)), pipeline, m.id()}, sql: fmt.Sprintf(`
		INSERT INTO walrill.gone (pipeline, view, commit, ordinal, stored, change)
		SELECT $2, $3, (g->>'commit')::numeric, (g->>'ordinal')::numeric, CASE WHEN m.%s IS NOT NULL THEN to_json(m.*) END, g->'change'
		FROM json_array_elements($1::json) g CROSS JOIN LATERAL json_populate_record(NULL::%s, g->'key') i LEFT JOIN %[2]s m ON %[3]s
		ON CONFLICT DO NOTHING`, quoteIdent(m.keyAs()[0]), m.table, equal("m", "i", m.keyAs()))}
}

// exhume finds the row of a deletion right before an event, which a worker has done already.
func (m *mirror) exhume(ctx context.Context, conn *pgx.Conn, pipeline string) absent {
	return func(e *event.Event) (row, error) {
		if e.Position.Ordinal == 0 {
			return nil, nil
		}
		var stored, change *string
		err := conn.QueryRow(ctx, "SELECT stored::text, change::text FROM walrill.gone WHERE pipeline = $1 AND view = $2 AND commit = $3::text::numeric AND ordinal = $4::text::numeric",
			pipeline, m.id(), strconv.FormatUint(e.Position.Commit, 10), strconv.FormatUint(e.Position.Ordinal-1, 10)).Scan(&stored, &change)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read a row of mirror %s that moved: %w", m.Name, err)
		}
		values, err := m.rowOf([]byte(*change))
		if err != nil || stored == nil {
			return values, err
		}
		before, err := m.rowOf(json.RawMessage(*stored))
		if err == nil {
			values.fill(before)
		}
		return values, err
	}
}
