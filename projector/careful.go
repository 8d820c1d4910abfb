package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// When the store refuses a batch for what its rows hold, the batch is applied again carefully: each
// statement behind a savepoint, and one that is refused in halves, until the rows are found that are refused alone. Those
// are parked: they keep the state that they had, and everything else goes on. A key is tried again with
// its next change, and leaves the parking place when that works.

// carefully runs f behind a savepoint and takes it back when the rows are at fault.
func (s *session) carefully(ctx context.Context, f func() error) (refused, err error) {
	return carefully(ctx, s.conn, f)
}

func carefully(ctx context.Context, conn *pgx.Conn, f func() error) (refused, err error) {
	if _, err := conn.Exec(ctx, "SAVEPOINT careful"); err != nil {
		return nil, err
	}
	err = f()
	if err != nil && !isDataError(err) {
		return nil, err
	}
	end := "RELEASE careful"
	if err != nil {
		refused, end = err, "ROLLBACK TO careful"
	}
	_, err = conn.Exec(ctx, end)
	return refused, err
}

func (s *session) execCarefully(ctx context.Context, st statement) error {
	refused, err := s.carefully(ctx, func() error {
		tag, err := s.conn.Exec(ctx, st.sql, st.args...)
		if err == nil {
			err = st.check(tag.RowsAffected())
		}
		return err
	})
	if err != nil || refused == nil {
		return err
	}
	switch n := len(st.values); {
	case n == 0:
		return refused
	case n == 1:
		return s.parkRow(ctx, st.mirror, st.values[0], refused)
	default:
		for _, half := range [][][]byte{st.values[:n/2], st.values[n/2:]} {
			part := st
			part.values, part.args = half, []any{string(array(half))}
			if part.rows >= 0 {
				part.rows = int64(len(half))
			}
			if err := s.execCarefully(ctx, part); err != nil {
				return err
			}
		}
		return nil
	}
}

// inHalves tries items together, behind a savepoint, and where that is refused in halves, down to those that are refused alone.
func inHalves[T any](ctx context.Context, conn *pgx.Conn, list []T, try func([]T) error, refuse func(one T, cause error) error) error {
	if len(list) == 0 {
		return nil
	}
	refused, err := carefully(ctx, conn, func() error { return try(list) })
	if err != nil || refused == nil {
		return err
	}
	n := len(list)
	if n == 1 {
		return refuse(list[0], refused)
	}
	if err := inHalves(ctx, conn, list[:n/2], try, refuse); err != nil {
		return err
	}
	return inHalves(ctx, conn, list[n/2:], try, refuse)
}

// jsonArray is an array of JSON texts.
func jsonArray(list []string) string { return "[" + strings.Join(list, ",") + "]" }

// recomputeCarefully recomputes a view's rows, and parks those that its SQL refuses.
func (s *session) recomputeCarefully(ctx context.Context, q *query, touched map[string]bool) error {
	refused, err := s.carefully(ctx, func() error {
		_, err := s.conn.Exec(ctx, q.recomputeSQL(touched))
		return err
	})
	if err != nil || refused == nil {
		return err
	}
	keys, err := s.affectedKeys(ctx, q, touched)
	if err != nil {
		return err
	}
	return s.recomputeKeys(ctx, q, keys)
}

// recomputeKeys recomputes the rows of some keys, JSON objects.
func (s *session) recomputeKeys(ctx context.Context, q *query, keys []string) error {
	return inHalves(ctx, s.conn, keys, func(keys []string) error {
		if _, err := s.conn.Exec(ctx, q.rowsSQL(q.jsonKeys()), jsonArray(keys)); err != nil {
			return err
		}
		return s.unpark(ctx, q.name, jsonArray(keys))
	}, func(key string, cause error) error { return s.park(ctx, parking{view: q.name, key: key}, cause) })
}

// replacement stands in keys that are set aside where there is no character: a source whose encoding is none has such texts.
const replacement = "\uFFFD"

// parking is what is set aside: a key, as JSON.
type parking struct {
	view   string // or the mirror that refuses a row
	source string // the mirror whose row the key is of, when nobody can say which keys of the view that affects; else ""
	key    string
	row    *string // that a mirror refuses
	gone   bool    // nothing has the row any more that was refused
}

// park sets a key aside with the reason. A row is kept if it is text.
func (s *session) park(ctx context.Context, p parking, cause error) error {
	s.opts.Log.Warn("a row is refused: its key is set aside and stands still; `walrill parked list` shows it", "view", p.view, "key", p.key, "error", cause)
	if p.row != nil && !utf8.ValidString(*p.row) {
		p.row = nil
	}
	args := s.positionArgs(s.pos)
	_, err := s.conn.Exec(ctx, `INSERT INTO walrill.parked AS p (pipeline, view, source, key, error, row, retry, epoch, lsn) VALUES ($1, $2, $3, $4::jsonb, $5, $6::json, $7, $8, '0/0'::pg_lsn + $9::bigint::numeric)
		ON CONFLICT (pipeline, view, source, key) DO UPDATE SET error = excluded.error, row = excluded.row, retry = excluded.retry AND (p.retry OR p.parked_at < now()),
			epoch = excluded.epoch, lsn = excluded.lsn, parked_at = now()`,
		s.opts.Pipeline, p.view, p.source, strings.ToValidUTF8(p.key, replacement), reason(cause), p.row, p.gone, args[4], args[5])
	if err != nil {
		return fmt.Errorf("park a key of view %s: %w", p.view, err)
	}
	s.parked[p.view]++
	return nil
}

// unpark forgets keys that work again.
func (s *session) unpark(ctx context.Context, view, keys string) error {
	if s.parked[view] == 0 {
		return nil
	}
	_, err := s.conn.Exec(ctx, "DELETE FROM walrill.parked WHERE pipeline = $1 AND view = $2 AND source = '' AND key IN (SELECT jsonb_array_elements($3::jsonb))", s.opts.Pipeline, view, keys)
	if err != nil {
		return fmt.Errorf("take keys of view %s off the parking place: %w", view, err)
	}
	return nil
}

func (s *session) countParked(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT view, count(*)::int FROM walrill.parked WHERE pipeline = $1 GROUP BY view", s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("read what is parked: %w", err)
	}
	s.parked = map[string]int{}
	var view string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&view, &n}, func() error { s.parked[view] = n; return nil }); err != nil {
		return fmt.Errorf("read what is parked: %w", err)
	}
	return nil
}

// parkRow sets a row aside that the mirror's types refuse.
func (s *session) parkRow(ctx context.Context, m *mirror, value []byte, cause error) error {
	key, err := m.keyOfRow(value)
	if err != nil {
		return err
	}
	row := string(value)
	return s.park(ctx, parking{view: m.parkedAs(), key: key, row: &row}, cause)
}

// keyOfRow is the key's part of a JSON row.
func (m *mirrorDef) keyOfRow(value []byte) (string, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(value, &fields); err != nil {
		return "", err
	}
	key := map[string]json.RawMessage{}
	for _, k := range m.keyAs() {
		key[k] = fields[k]
	}
	text, err := json.Marshal(key)
	return string(text), err
}

// retryParked tries again what somebody asks for. A row that a mirror has refused goes through the mirror, and with it through
// its views.
func (s *session) retryParked(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT view, key::text, coalesce(row::text, ''), skip, coalesce(key->>'key', '') FROM walrill.parked WHERE pipeline = $1 AND retry AND source = ''", s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("look for what is to be tried again: %w", err)
	}
	type parked struct {
		View, Key, Row string
		Skip           bool
		Ordering       string // the ordering key, of a fold
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[parked])
	if err != nil || len(list) == 0 {
		return err
	}
	s.careful = true
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.setPlace(ctx); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, "UPDATE walrill.parked SET retry = false WHERE pipeline = $1 AND retry AND source = ''", s.opts.Pipeline); err != nil {
		return err
	}
	for _, p := range list {
		for _, f := range s.folds {
			if f.name == p.View {
				f.floor = s.pos.read
				if err := f.retry(ctx, s.conn, p.Ordering, p.Skip); err != nil {
					return err
				}
				if err := s.setPlace(ctx); err != nil { // which emitting folds have left
					return err
				}
			}
		}
		for _, q := range s.queries {
			if q.name == p.View && p.Row == "" {
				if err := s.recomputeKeys(ctx, q, []string{p.Key}); err != nil {
					return err
				}
			}
		}
		for _, m := range s.mirrors {
			if m.parkedAs() != p.View || p.Row == "" || m.filling {
				continue
			}
			if err := m.again([]byte(p.Row)); err != nil {
				return err
			}
		}
	}
	return s.commit(ctx, s.pos.read)
}
