package projector

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A view of which a few rows are refused, by its SQL or by what somebody has asked of its table, is built all the same: those keys are
// parked, and keep what the table has of them.

// someRows is how many rows are tried together.
const someRows = 1000

// buildCarefully is query.build, some keys at a time.
func (s *session) buildCarefully(ctx context.Context, tx pgx.Tx, q *query, old *definition) (rows int64, err error) {
	if err := q.makeSource(ctx, tx); err != nil {
		return 0, err
	}
	if err := reshape(ctx, tx, s.opts, q.name, q.table, q.def, old); err != nil {
		return 0, err
	}
	keys, before := quoteIdent("keys~"+q.name), quoteIdent("before~"+q.name)
	notNull := strings.ReplaceAll(list("f.%s IS NOT NULL", q.def.Key), ", ", " AND ")
	for _, sql := range []string{
		fmt.Sprintf("CREATE TEMP TABLE %s ON COMMIT DROP AS SELECT DISTINCT %s FROM %s f WHERE %s", keys, list("f.%s", q.def.Key), q.source, notNull),
		fmt.Sprintf("CREATE TEMP TABLE %s ON COMMIT DROP AS TABLE %s", before, q.table),
		"ANALYZE " + keys,
	} {
		if err := tryExec(ctx, tx, sql); err != nil {
			return 0, err
		}
	}
	gone, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s v WHERE NOT EXISTS (SELECT FROM %s f WHERE %s)", q.table, keys, equal("f", "v", q.def.Key)))
	if err != nil {
		return 0, err
	}
	if err := eachSome(ctx, tx, "SELECT to_json(k.*)::text FROM "+keys+" k", func(list []string) error { return s.recomputeKeys(ctx, q, list) }); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM (SELECT v::text FROM %s v EXCEPT ALL SELECT b::text FROM %s b) d", q.table, before)).Scan(&rows)
	return gone.RowsAffected() + rows, err
}

// bringCarefully brings the rows of a filled mirror into the table of a view, some at a time. It returns how many are not in it as they are.
func (s *session) bringCarefully(ctx context.Context, tx pgx.Tx, from, to *mirror) (rows int64, err error) {
	key := to.keyAs()
	same := strings.Replace(differs("v", "f", to.columnNames()), "*<>", "*=", 1)
	err = tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s f WHERE NOT EXISTS (SELECT FROM %s v WHERE %s AND %s)", from.table, to.table, equal("v", "f", key), same)).Scan(&rows)
	if err != nil {
		return 0, err
	}
	return rows, eachSome(ctx, tx, "SELECT to_json(f.*)::text FROM "+from.table+" f", func(list []string) error {
		values := make([][]byte, len(list))
		for i, v := range list {
			values[i] = []byte(v)
		}
		return s.execCarefully(ctx, statement{sql: to.upsertSQL(""), args: []any{string(array(values))}, rows: -1, mirror: to, values: values})
	})
}

// eachSome hands out the rows of a query, which are texts, in portions.
func eachSome(ctx context.Context, tx pgx.Tx, sql string, f func(list []string) error) error {
	if err := tryExec(ctx, tx, "DECLARE portions NO SCROLL CURSOR FOR "+sql); err != nil {
		return err
	}
	for {
		rows, err := tx.Query(ctx, fmt.Sprintf("FETCH %d FROM portions", someRows))
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return tryExec(ctx, tx, "CLOSE portions")
		}
		if err := f(list); err != nil {
			return err
		}
	}
}
