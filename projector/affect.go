package projector

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// bringQuery queues what brings a view to what its mirrors have become.
func (s *session) bringQuery(ctx context.Context, q *query) error {
	touched := s.touched(q)
	switch {
	case touched == nil:
		return nil
	case s.careful:
		return s.recomputeCarefully(ctx, q, touched)
	}
	list := []statement{{sql: q.recomputeSQL(touched), rows: -1}}
	if s.parked[q.name] > 0 {
		list = append(list, statement{rows: -1, args: []any{s.opts.Pipeline, q.name},
			sql: "DELETE FROM walrill.parked WHERE pipeline = $1 AND view = $2 AND source = '' AND key IN (SELECT to_jsonb(k.*) FROM (" + q.keysSQL(touched) + ") k)"})
		list = append(list, s.changedAgain(q, touched)...)
	}
	return s.enqueue(ctx, list...)
}

// noteKeys queues the note of what changes for a builder.
func (s *session) noteKeys(ctx context.Context, b *builder) error {
	touched := s.touched(b.noted)
	if touched == nil {
		return nil
	}
	const note = "INSERT INTO walrill.touched (pipeline, view, key) SELECT $1, $2, k.k FROM "
	if !s.careful {
		return s.enqueue(ctx, statement{rows: -1, args: []any{s.opts.Pipeline, b.view}, sql: note + "(SELECT to_jsonb(k.*) AS k FROM (" + b.noted.keysSQL(touched) + ") k) k"})
	}
	keys, err := s.affectedKeys(ctx, b.noted, touched)
	if err == nil {
		_, err = s.conn.Exec(ctx, note+"jsonb_array_elements($3::jsonb) k(k)", s.opts.Pipeline, b.view, jsonArray(keys))
	}
	if err != nil {
		return fmt.Errorf("note what changes of view %s: %w", b.view, err)
	}
	return nil
}

// touched are the mirrors of a view that the batch changed; nil for none.
func (s *session) touched(q *query) map[string]bool {
	var touched map[string]bool
	for _, m := range q.def.Mirrors {
		if s.batch.part[changedTable(m.Name)] {
			if touched == nil {
				touched = map[string]bool{}
			}
			touched[m.Name] = true
		}
	}
	return touched
}

// When nobody can say which keys of a view a changed row affects, because that SQL refuses the row, the changed row is parked under
// its own key. What it has affected can then be found in one way only: the view is built anew as a whole. That
// is done when somebody wants it tried again, and when the row changes to something that is not refused, or goes.

// changedAgain has views built anew of which rows that have changed again are parked.
func (s *session) changedAgain(q *query, touched map[string]bool) (list []statement) {
	for _, name := range sortedKeys(touched) {
		m := q.mirror(name)
		list = append(list, statement{rows: -1, args: []any{s.opts.Pipeline, q.name, name}, sql: fmt.Sprintf(`UPDATE walrill.parked p SET retry = true
			FROM %s c WHERE p.pipeline = $1 AND p.view = $2 AND p.source = $3 AND p.key = %s AND p.parked_at < now()`, changedTable(name), m.jsonKey("to_jsonb(c.*)"))})
	}
	return list
}

func (q *query) mirror(name string) *mirrorDef {
	for i := range q.def.Mirrors {
		if q.def.Mirrors[i].Name == name {
			return &q.def.Mirrors[i]
		}
	}
	return nil
}

// affectedKeys are the keys, JSON objects, that the batch's changes of some mirrors affect. Changed rows for which the SQL fails are parked.
func (s *session) affectedKeys(ctx context.Context, q *query, touched map[string]bool) (keys []string, err error) {
	if s.parked[q.name] > 0 {
		for _, st := range s.changedAgain(q, touched) {
			if _, err := s.conn.Exec(ctx, st.sql, st.args...); err != nil {
				return nil, err
			}
		}
	}
	for i := range q.def.Mirrors {
		m := &q.def.Mirrors[i]
		if !touched[m.Name] {
			continue
		}
		var found []string
		refused, err := s.carefully(ctx, func() (err error) {
			found, err = s.texts(ctx, toJSON(q.keysOf(q.affects(i, ""))))
			return err
		})
		if err == nil && refused != nil {
			found, err = s.affectedOneByOne(ctx, q, i)
		}
		if err != nil {
			return nil, fmt.Errorf("find the keys of view %s: %w", q.name, err)
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

func toJSON(query string) string { return "SELECT to_json(k.*)::text FROM (" + query + ") k" }

func (s *session) texts(ctx context.Context, sql string, args ...any) ([]string, error) {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// affectedOneByOne is affectedKeys of one mirror, without the rows that are refused.
func (s *session) affectedOneByOne(ctx context.Context, q *query, mirror int) (keys []string, err error) {
	places, err := s.texts(ctx, "SELECT ctid::text FROM "+changedTable(q.def.Mirrors[mirror].Name))
	if err != nil {
		return nil, err
	}
	some := toJSON(q.keysOf(q.affects(mirror, " WHERE ctid = ANY ($1::text[]::tid[])")))
	err = inHalves(ctx, s.conn, places, func(places []string) error {
		found, err := s.texts(ctx, some, places)
		if err == nil {
			keys = append(keys, found...)
		}
		return err
	}, func(place string, cause error) error { return s.parkChanged(ctx, q, mirror, place, cause) })
	return keys, err
}

// parkChanged sets a changed row aside for a view.
func (s *session) parkChanged(ctx context.Context, q *query, mirror int, place string, cause error) error {
	m := &q.def.Mirrors[mirror]
	p := parking{view: q.name, source: m.Name}
	err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT %s::text, NOT EXISTS (SELECT FROM %s m WHERE %s AND ROW(m.*)::record *= ROW(c.*)::record) FROM %s c WHERE ctid = $1::text::tid",
		m.jsonKey("to_jsonb(c.*)"), tableOf(s.opts, m, false), equal("m", "c", m.keyAs()), changedTable(m.Name)), place).Scan(&p.key, &p.gone)
	if err != nil {
		return fmt.Errorf("park a changed row of %s: %w", m.Name, err)
	}
	why := strings.TrimPrefix(m.Name, "public.")
	return s.park(ctx, p, fmt.Errorf("which keys this row of %s affects cannot be computed: %s", why, reason(cause)))
}
