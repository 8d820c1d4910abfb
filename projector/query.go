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
	rest := slices.DeleteFunc(slices.Clone(q.def.Columns), func(c string) bool { return slices.Contains(key, c) })
	do := "DO NOTHING"
	if len(rest) > 0 {
		do = fmt.Sprintf("DO UPDATE SET %s WHERE %s", assign("excluded", rest), differs("v", "excluded", rest))
	}
	return fmt.Sprintf("INSERT INTO %s AS v (%s) SELECT %s FROM %s f ON CONFLICT (%s) %s",
		q.table, list("%s", q.def.Columns), list("f.%s", q.def.Columns), from, list("%s", key), do)
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

// reshape makes the table of a view, or gives the one that is there the columns and the key of a new definition.
func reshape(ctx context.Context, tx pgx.Tx, o *Options, name, table string, def, old *definition) error {
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&exists); err != nil {
		return err
	}
	if exists && old == nil {
		return free(ctx, tx, name, table)
	}
	if !exists {
		if err := tryExec(ctx, tx, "CREATE SCHEMA IF NOT EXISTS "+quoteIdent(o.Schema)); err != nil {
			return err
		}
		return tryExec(ctx, tx, createTable(table, def))
	}
	return alter(ctx, tx, table, def, old)
}

// columnSQL is the type of a view's column: a mirror's has its collation, too.
func (d *definition) columnSQL(i int) string {
	if d.Kind == "mirror" {
		return d.Mirrors[0].Columns[i].sql()
	}
	return d.Types[i]
}

func createTable(table string, def *definition) string {
	return fmt.Sprintf("CREATE TABLE %s (%s, PRIMARY KEY (%s))", table, columnList(def), list("%s", def.Key))
}

// free makes sure that a view's name is not taken.
func free(ctx context.Context, conn Tx, view, table string) error {
	var exists bool
	err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&exists)
	if err == nil && exists {
		err = &SetupError{View: view, Problem: fmt.Sprintf("the view store has a table %s already, which walrill did not make", table),
			Fix: "rename the view, choose another `views.schema`, or drop the table"}
	}
	return err
}

func tryExec(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Exec(ctx, sql)
	return err
}

// alter changes a table's columns where they differ. A column of another type is made anew: its
// values come with the rows.
func alter(ctx context.Context, tx pgx.Tx, table string, def, old *definition) error {
	typeOf := func(d *definition, c string) string {
		if i := slices.Index(d.Columns, c); i >= 0 {
			return d.columnSQL(i)
		}
		return ""
	}
	var actions []string
	keyChanged := !slices.Equal(def.Key, old.Key)
	for _, c := range old.Columns {
		if typeOf(def, c) != typeOf(old, c) {
			actions = append(actions, "DROP COLUMN "+quoteIdent(c))
			keyChanged = keyChanged || slices.Contains(def.Key, c)
		}
	}
	for i, c := range def.Columns {
		if typeOf(old, c) != def.columnSQL(i) {
			actions = append(actions, "ADD COLUMN "+quoteIdent(c)+" "+def.columnSQL(i))
		}
	}
	if len(actions) == 0 && !keyChanged {
		return nil
	}
	if keyChanged {
		// Rows of another key are all others.
		if err := tryExec(ctx, tx, "DELETE FROM "+table); err != nil {
			return err
		}
		var constraint string
		if err := tx.QueryRow(ctx, "SELECT coalesce((SELECT conname::text FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'p'), '')", table).Scan(&constraint); err != nil {
			return err
		}
		if constraint != "" {
			actions = append([]string{"DROP CONSTRAINT " + quoteIdent(constraint)}, actions...)
		}
		for _, c := range old.Key {
			if typeOf(def, c) == typeOf(old, c) {
				actions = append(actions, "ALTER COLUMN "+quoteIdent(c)+" DROP NOT NULL")
			}
		}
		if err := tryExec(ctx, tx, "ALTER TABLE "+table+" "+strings.Join(actions, ", ")); err != nil {
			return err
		}
		return tryExec(ctx, tx, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", table, list("%s", def.Key)))
	}
	return tryExec(ctx, tx, "ALTER TABLE "+table+" "+strings.Join(actions, ", "))
}
