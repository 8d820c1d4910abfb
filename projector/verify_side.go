package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// side is the rows of a target on the source or in the store, under the alias t. Both have the same columns in the same order.
type side struct {
	conn     *pgx.Conn
	from     string   // behind FROM
	key      []string // columns of the key, as SQL
	keyTypes []string
	ordered  []string // the key as both sides order it
	values   []string // all columns as texts that are equal when the values are
	where    []string
}

// rangeSum is what is compared of a range: it does not hang on the order of rows.
type rangeSum struct {
	rows int64
	sum  string
}

// hash is 60 bits of a row.
func (s *side) hash() string {
	return fmt.Sprintf("('x' || substr(md5(ROW(%s)::text), 1, 15))::bit(60)::bigint", strings.Join(s.values, ", "))
}

// keyTexts are a row's key as an array of texts.
func (s *side) keyTexts() string {
	texts := make([]string, len(s.key))
	for i, k := range s.key {
		texts[i] = k + "::text"
	}
	return "ARRAY[" + strings.Join(texts, ", ") + "]"
}

// bounds are the conditions of a range, from behind one key up to another; nil is without end.
func (s *side) bounds(after, upto []string) (conditions string, args []any) {
	all := slices.Clone(s.where)
	for _, k := range s.key {
		all = append(all, k+" IS DISTINCT FROM NULL") // a composite of NULLs is a value
	}
	for _, end := range []struct {
		operator string
		key      []string
	}{{">", after}, {"<=", upto}} {
		if end.key == nil {
			continue
		}
		params := make([]string, len(end.key))
		for i, text := range end.key {
			args = append(args, text)
			params[i] = fmt.Sprintf("($%d::text)::%s", len(args), s.keyTypes[i])
		}
		all = append(all, fmt.Sprintf("(%s) %s (%s)", strings.Join(s.ordered, ", "), end.operator, strings.Join(params, ", ")))
	}
	return strings.Join(all, " AND "), args
}

// next reads the range of so many rows behind a key. upto is its last key, nil when it is the last range, which has no end.
func (s *side) next(ctx context.Context, after []string, limit int) (upto []string, sum rangeSum, err error) {
	conditions, args := s.bounds(after, nil)
	sql := fmt.Sprintf(`WITH c AS MATERIALIZED (SELECT k, h, row_number() OVER () AS n FROM (SELECT %s AS k, %s AS h FROM %s WHERE %s ORDER BY %s LIMIT %d) r)
		SELECT count(*), coalesce(sum(h), 0)::text, (SELECT k FROM c ORDER BY n DESC LIMIT 1) FROM c`,
		s.keyTexts(), s.hash(), s.from, conditions, strings.Join(s.ordered, ", "), limit)
	if err = s.conn.QueryRow(ctx, sql, args...).Scan(&sum.rows, &sum.sum, &upto); err != nil {
		return nil, sum, fmt.Errorf("read a range: %w", err)
	}
	if sum.rows < int64(limit) {
		upto = nil
	}
	return upto, sum, nil
}

func (s *side) sum(ctx context.Context, after, upto []string) (sum rangeSum, err error) {
	conditions, args := s.bounds(after, upto)
	sql := fmt.Sprintf("SELECT count(*), coalesce(sum(%s), 0)::text FROM %s WHERE %s", s.hash(), s.from, conditions)
	if err = s.conn.QueryRow(ctx, sql, args...).Scan(&sum.rows, &sum.sum); err != nil {
		err = fmt.Errorf("read a range: %w", err)
	}
	return sum, err
}

// hashes are those of each row of a range, by joinKey.
func (s *side) hashes(ctx context.Context, after, upto []string) (map[string]int64, error) {
	conditions, args := s.bounds(after, upto)
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT %s, %s FROM %s WHERE %s", s.keyTexts(), s.hash(), s.from, conditions), args...)
	if err != nil {
		return nil, fmt.Errorf("read a range: %w", err)
	}
	all := map[string]int64{}
	var key []string
	var hash int64
	if _, err := pgx.ForEachRow(rows, []any{&key, &hash}, func() error {
		all[joinKey(key)] = hash
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read a range: %w", err)
	}
	return all, nil
}

// found is a row as it was read.
type found struct {
	values  []*string
	version string // changes with every write of the row, in a table
}

// rows reads the rows of some keys, by joinKey. version is SQL, or ”.
func (s *side) rows(ctx context.Context, keys [][]string, version string) (map[string]found, error) {
	args := make([]any, len(s.key))
	columns := make([]string, len(s.key))
	conditions := slices.Clone(s.where)
	for i, k := range s.key {
		texts := make([]string, len(keys))
		for j := range keys {
			texts[j] = keys[j][i]
		}
		args[i], columns[i] = texts, fmt.Sprintf("$%d::text[]", i+1)
		conditions = append(conditions, fmt.Sprintf("%s = (u.k%d)::%s", k, i, s.keyTypes[i]))
	}
	names := make([]string, len(s.key))
	for i := range names {
		names[i] = fmt.Sprintf("k%d", i)
	}
	// OFFSET 0 has Postgres go key by key, by its indexes.
	sql := fmt.Sprintf("SELECT r.* FROM unnest(%s) u(%s), LATERAL (SELECT %s, %s, ARRAY[%s]::text[] FROM %s WHERE %s OFFSET 0) r",
		strings.Join(columns, ", "), strings.Join(names, ", "), s.keyTexts(), version, strings.Join(s.values, ", "), s.from, strings.Join(conditions, " AND "))
	result, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read rows again: %w", err)
	}
	all := map[string]found{}
	var key []string
	var f found
	if _, err := pgx.ForEachRow(result, []any{&key, &f.version, &f.values}, func() error {
		all[joinKey(key)] = f
		f.values = nil
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read rows again: %w", err)
	}
	return all, nil
}

// keyed is a row with its key.
type keyed struct {
	key []string
	found
}

// page reads so many rows behind a key.
func (s *side) page(ctx context.Context, after []string, limit int) (list []keyed, err error) {
	conditions, args := s.bounds(after, nil)
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT %s, ARRAY[%s]::text[] FROM %s WHERE %s ORDER BY %s LIMIT %d",
		s.keyTexts(), strings.Join(s.values, ", "), s.from, conditions, strings.Join(s.ordered, ", "), limit), args...)
	if err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	var k keyed
	if _, err := pgx.ForEachRow(rows, []any{&k.key, &k.values}, func() error {
		list = append(list, k)
		k = keyed{}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	return list, nil
}

func (f found) same(o found) bool {
	return slices.EqualFunc(f.values, o.values, func(a, b *string) bool {
		return a == b || a != nil && b != nil && *a == *b
	})
}

// canonical are a column's values as texts: equal values have equal texts, whichever version of Postgres prints them. JSON is
// compared as JSON, a composite, which another store keeps as JSON, too. What the streams' JSON does not carry does not
// count: the bounds of an array, a zero's minus, and whether a NULL is Postgres's or JSON's.
func canonical(column string, stored string, source SourceColumn) (onSource, onStore string) {
	onSource, onStore = "t."+quoteIdent(source.Name), "t."+quoteIdent(column)
	made := source.made()
	if stored != source.Type && (made == "text" || made == "text[]") && stored == made {
		onSource += "::" + stored
	}
	kind := stored
	if made != "" && made != "text" {
		kind = made // what a domain is made of
	}
	if kind == "json" || kind == "json[]" {
		onSource, onStore = readable(onSource, kind), readable(onStore, kind)
	}
	if isJSON(stored) || isJSON(kind) || strings.HasSuffix(kind, "[]") || kind == "double precision" || kind == "real" {
		return "nullif(to_jsonb(" + onSource + ")::text, 'null')", "nullif(to_jsonb(" + onStore + ")::text, 'null')"
	}
	return onSource + "::text", onStore + "::text"
}

// readable are values of type json that jsonb can take: it refuses the escapes of a NUL and of half a character, which json keeps as they are.
func readable(column, typ string) string {
	const refused = `'\\u(0000|[dD][89a-fA-F]..)'`
	return fmt.Sprintf(`CASE WHEN %[1]s::text ~ %[2]s THEN regexp_replace(%[1]s::text, %[2]s, '\\uFFFE\1', 'g')::%[3]s ELSE (%[1]s)::%[3]s END`, column, refused, typ)
}

func isJSON(typ string) bool {
	typ = strings.TrimSuffix(typ, "[]")
	return typ == "json" || typ == "jsonb"
}
