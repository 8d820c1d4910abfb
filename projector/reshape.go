package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

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
	return alter(ctx, tx, o, name, table, def, old)
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

// columnSQL is the type of a view's column: a mirror's has its collation, too.
func (d *definition) columnSQL(i int) string {
	if d.Kind == "mirror" {
		return d.Mirrors[0].Columns[i].sql()
	}
	return d.Types[i]
}

// typeOf is the type of a view's column; "" when it has none of that name.
func (d *definition) typeOf(column string) string {
	if i := slices.Index(d.Columns, column); i >= 0 {
		return d.columnSQL(i)
	}
	return ""
}

// alter gives a table the columns and the key of a new definition. A column of another type keeps its place, its indexes and who may read
// it when its values can be cast; else it is made anew. What belongs into it comes with the rows.
func alter(ctx context.Context, tx pgx.Tx, o *Options, name, table string, def, old *definition) error {
	var drop, add, again []string
	for _, c := range old.Columns {
		is := def.typeOf(c)
		if is == old.typeOf(c) {
			continue
		}
		if is != "" {
			if cast, err := retype(ctx, tx, table, c, is); err != nil {
				return err
			} else if cast {
				continue
			}
			again = append(again, c)
		}
		drop = append(drop, c)
	}
	for _, c := range def.Columns {
		if old.typeOf(c) == "" || slices.Contains(again, c) {
			add = append(add, c)
		}
	}
	if def.Fold != nil {
		misplaced, err := misplacedColumns(ctx, tx, name, table, def, drop, add)
		if err != nil {
			return err
		}
		for _, c := range misplaced {
			if !slices.Contains(add, c) {
				drop, again = append(drop, c), append(again, c)
			}
		}
		add = slices.DeleteFunc(slices.Clone(def.Columns), func(c string) bool { return !slices.Contains(add, c) && !slices.Contains(misplaced, c) })
	}
	if err := remake(ctx, tx, table, def, old, drop, add); err != nil {
		return err
	}
	if len(again) > 0 {
		o.Log.Warn("columns of a view are made anew, and indexes, rights and constraints on them go", "view", name, "columns", strings.Join(again, ", "))
	}
	return nil
}

// remake drops columns, adds others, and makes the key.
func remake(ctx context.Context, tx pgx.Tx, table string, def, old *definition, drop, add []string) error {
	var actions []string
	for _, c := range drop {
		actions = append(actions, "DROP COLUMN IF EXISTS "+quoteIdent(c))
	}
	for _, c := range add {
		actions = append(actions, "ADD COLUMN "+quoteIdent(c)+" "+def.typeOf(c))
	}
	if slices.Equal(def.Key, old.Key) && !slices.ContainsFunc(def.Key, func(k string) bool { return slices.Contains(add, k) }) {
		if len(actions) == 0 {
			return nil
		}
		return tryExec(ctx, tx, "ALTER TABLE "+table+" "+strings.Join(actions, ", "))
	}
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
		if !slices.Contains(drop, c) {
			actions = append(actions, "ALTER COLUMN "+quoteIdent(c)+" DROP NOT NULL")
		}
	}
	if len(actions) > 0 {
		if err := tryExec(ctx, tx, "ALTER TABLE "+table+" "+strings.Join(actions, ", ")); err != nil {
			return err
		}
	}
	return tryExec(ctx, tx, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", table, list("%s", def.Key)))
}

// retype gives a column another type, and reports false when its values, or what is on it, do not let it.
func retype(ctx context.Context, tx pgx.Tx, table, column, typ string) (bool, error) {
	plain, _, _ := strings.Cut(typ, " COLLATE ")
	name := quoteIdent(column)
	err := pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error {
		return tryExec(ctx, sub, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s USING %s::%s", table, name, typ, name, plain))
	})
	if isDataError(err) || isDefinitionError(err) {
		return false, nil
	}
	return err == nil, err
}

// misplacedColumns are those of a fold from the first on that would not stand in the place that the definition gives it, once some are dropped and others
// added. What a fold runs may go by the order: INSERT INTO balance VALUES (:key, 0).
func misplacedColumns(ctx context.Context, tx pgx.Tx, view, table string, def *definition, drop, add []string) ([]string, error) {
	rows, err := tx.Query(ctx, "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum", table)
	if err != nil {
		return nil, err
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	there = slices.DeleteFunc(there, func(c string) bool { return slices.Contains(drop, c) })
	foreign := slices.DeleteFunc(slices.Clone(there), func(c string) bool { return slices.Contains(def.Columns, c) })
	there = append(there, add...)
	for i, c := range def.Columns {
		if i < len(there) && there[i] == c {
			continue
		}
		if len(foreign) > 0 {
			return nil, &SetupError{View: view, Problem: fmt.Sprintf("its table has columns of somebody else, %s, which would stand before the column %s", strings.Join(foreign, ", "), c),
				Fix: fmt.Sprintf("drop them, and add them again when the view is complete: ALTER TABLE %s %s", table, list("DROP COLUMN %s", foreign))}
		}
		return def.Columns[i:], nil
	}
	return nil, nil
}
