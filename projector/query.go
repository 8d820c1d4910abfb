package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// query is a query view that is kept.
type query struct {
	name   string
	def    *definition
	schema string // of the pipeline
	table  string // quoted
	source string // the SQL view that computes it, quoted

	stepped bool // it is brought from one source transaction to the next
}

func newQuery(o *Options, name string, def *definition) *query {
	schema := mirrorSchema(o.Pipeline)
	return &query{name: name, def: def, schema: schema, table: qualified(o.Schema, name), source: qualified(schema, "query~"+name)}
}

func changedTable(mirror string) string { return qualified("pg_temp", "changed~"+mirror) }

// recomputeSQL recomputes the rows that changes of these mirrors affect.
func (q *query) recomputeSQL(touched map[string]bool) string { return q.rowsSQL(q.keysSQL(touched)) }

// keysSQL gives the keys that changes of these mirrors affect, under the names of the key's columns.
func (q *query) keysSQL(touched map[string]bool) string {
	var parts []string
	for i, m := range q.def.Mirrors {
		if touched[m.Name] {
			parts = append(parts, q.affects(i, ""))
		}
	}
	return q.keysOf(parts...)
}

// affects gives the raw keys that the changed rows of a mirror affect, or those that a condition takes of them.
func (q *query) affects(mirror int, where string) string {
	return fmt.Sprintf("(WITH changed AS (SELECT * FROM %s%s) SELECT * FROM (%s) a)", changedTable(q.def.Mirrors[mirror].Name), where, q.def.Affects[mirror].SQL)
}

// keysOf gives raw keys under the names and with the types of the key's columns.
func (q *query) keysOf(parts ...string) string {
	raw, casts := make([]string, len(q.def.Key)), make([]string, len(q.def.Key))
	for i, k := range q.def.Key {
		raw[i] = fmt.Sprintf("k%d", i)
		casts[i] = fmt.Sprintf("k%d::%s AS %s", i, q.keyType(k), quoteIdent(k))
	}
	return fmt.Sprintf("SELECT DISTINCT %s FROM (%s) r(%s) WHERE %s IS NOT NULL", strings.Join(casts, ", "), strings.Join(parts, " UNION ALL "),
		strings.Join(raw, ", "), strings.Join(raw, " IS NOT NULL AND "))
}

func (q *query) keyType(column string) string {
	return q.def.Types[slices.Index(q.def.Columns, column)]
}

// jsonKeys reads the keys from a JSON array.
func (q *query) jsonKeys() string {
	return "SELECT * FROM json_to_recordset($1::json) r(" + q.keyColumns() + ")"
}

// keyColumns are the columns of the key with their types.
func (q *query) keyColumns() string {
	parts := make([]string, len(q.def.Key))
	for i, k := range q.def.Key {
		parts[i] = quoteIdent(k) + " " + q.keyType(k)
	}
	return strings.Join(parts, ", ")
}

// rowsSQL recomputes the rows of the keys that a query gives. The LATERAL subquery makes
// Postgres compute one key at a time, by its indexes, instead of the whole query.
func (q *query) rowsSQL(keys string) string {
	key := q.def.Key
	return fmt.Sprintf(`WITH keys AS MATERIALIZED (%s),
fresh AS MATERIALIZED (SELECT f.* FROM keys k, LATERAL (SELECT q.* FROM %s q WHERE %s OFFSET 0) f),
gone AS (DELETE FROM %s v USING keys k WHERE %s AND (%s) NOT IN (SELECT %s FROM fresh f)),
come AS (%s)
SELECT`, keys, q.source, equal("q", "k", key), q.table, equal("v", "k", key), list("k.%s", key), list("f.%s", key), q.upsertFrom("fresh"))
}

// upsertFrom brings rows of the same columns into the view's table where they differ.
func (q *query) upsertFrom(from string) string {
	key := q.def.Key
	rest := slices.DeleteFunc(slices.Clone(q.def.Columns), func(c string) bool { return slices.Contains(key, c) && exact(q.def.typeOf(c)) })
	do := "DO NOTHING"
	if len(rest) > 0 {
		do = fmt.Sprintf("DO UPDATE SET %s WHERE %s", assign("excluded", rest), differs("v", "excluded", rest))
	}
	return fmt.Sprintf("INSERT INTO %s AS v (%s) SELECT %s FROM %s f ON CONFLICT (%s) %s",
		q.table, list("%s", q.def.Columns), list("f.%s", q.def.Columns), from, list("%s", key), do)
}

// exact reports whether equal values of a type are the same: 1.0 and 1.00, or two spellings of a citext, are equal and are not.
func exact(typ string) bool {
	switch typ {
	case "smallint", "integer", "bigint", "text", "uuid", "boolean", "bytea", "date", "timestamp without time zone", "timestamp with time zone":
		return true
	}
	return strings.HasPrefix(typ, "character varying") && !strings.Contains(typ, "COLLATE")
}

// makeSource makes the SQL view that computes the query, over the mirrors in use.
func (q *query) makeSource(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "DROP VIEW IF EXISTS "+q.source); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "CREATE VIEW "+q.source+" AS "+q.def.Query)
	return err
}

// make makes the view's table, with all rows, and returns how many they are.
func (q *query) make(ctx context.Context, tx pgx.Tx, o *Options) (int64, error) {
	if err := reshape(ctx, tx, o, q.name, q.table, q.def, nil); err != nil {
		return 0, err
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s SELECT f.* FROM (\n%s\n) f WHERE %s", q.table, q.def.Query, q.notNull()))
	return tag.RowsAffected(), err
}

// notNull is true for rows f that have a key.
func (q *query) notNull() string {
	return strings.ReplaceAll(list("f.%s IS NOT NULL", q.def.Key), ", ", " AND ")
}

func tryExec(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Exec(ctx, sql)
	return err
}
