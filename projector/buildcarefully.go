package projector

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A view of which a few rows are refused, by its SQL or by what somebody has asked of its table, is built all the same: those keys are
// parked, and keep what the table has of them. The builder parks them at its end: nobody may have to wait for a row of
// walrill.parked meanwhile.

// someRows is how many rows are tried together.
const someRows = 1000

// computeCarefully is computeAll, some keys at a time.
func (b *builder) computeCarefully(ctx context.Context) error {
	all := `pg_temp."walrill all"`
	for _, sql := range []string{
		fmt.Sprintf("CREATE TEMP TABLE %s AS SELECT DISTINCT %s FROM %s f WHERE %s", all, list("f.%s", b.def.Key), b.noted.source, b.keyed()),
		"ANALYZE " + all,
	} {
		if err := tryExec(ctx, b.tx, sql); err != nil {
			return err
		}
	}
	insert := fmt.Sprintf("INSERT INTO %s SELECT f.* FROM (%s) k, LATERAL (SELECT q.* FROM %s q WHERE %s OFFSET 0) f", freshTable, b.noted.jsonKeys(), b.noted.source, equal("q", "k", b.def.Key))
	if err := b.eachSome(ctx, all, insert, b.refuse); err != nil {
		return err
	}
	return tryExec(ctx, b.tx, "ANALYZE "+freshTable)
}

// recomputeCarefully is computeAgain, some keys at a time.
func (b *builder) recomputeCarefully(ctx context.Context) error {
	return b.eachSome(ctx, againTable, b.noted.rowsSQL(b.noted.jsonKeys()), b.refuse)
}

// bringCarefully is bring, some rows at a time; those of a query are computed again for it. It returns how many the view has otherwise, refused ones with them.
func (b *builder) bringCarefully(ctx context.Context, from string) (rows int64, err error) {
	err = b.tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s f LEFT JOIN %s v ON %s WHERE v.%s IS NOT DISTINCT FROM NULL OR %s",
		from, b.noted.table, equal("v", "f", b.def.Key), quoteIdent(b.def.Key[0]), differs("v", "f", b.def.Columns))).Scan(&rows)
	if err != nil {
		return 0, err
	}
	if b.mirror == nil {
		return rows, b.eachSome(ctx, fmt.Sprintf("(SELECT %s FROM %s f)", list("f.%s", b.def.Key), from), b.noted.rowsSQL(b.noted.jsonKeys()), b.refuse)
	}
	return rows, b.eachSome(ctx, from, newMirror(b.s.opts, b.mirror.mirrorDef, false).upsertSQL(""), b.refuseRow)
}

// eachSome runs a statement for the rows of a table, as a JSON array, some at a time and in ever smaller parts where it is refused.
func (b *builder) eachSome(ctx context.Context, from, sql string, refuse func(ctx context.Context, one string, cause error) error) error {
	return eachSome(ctx, b.tx, "SELECT to_json(t.*)::text FROM "+from+" t", func(list []string) error {
		return inHalves(ctx, b.s.conn, list, func(list []string) error {
			_, err := b.tx.Exec(ctx, sql, jsonArray(list))
			return err
		}, func(one string, cause error) error { return refuse(ctx, one, cause) })
	})
}

// refuse notes a key that is to be parked.
func (b *builder) refuse(ctx context.Context, key string, cause error) error {
	why := reason(cause)
	if e := pgError(cause); e != nil && e.Code == "23505" && strings.HasPrefix(e.TableName, "walrill ") {
		why = "the query gives several rows for it"
	}
	_, err := b.tx.Exec(ctx, "INSERT INTO "+refusedTable+" VALUES ($1::jsonb, $2) ON CONFLICT (key) DO UPDATE SET error = excluded.error", key, why)
	return err
}

// refuseRow notes a row of a mirror.
func (b *builder) refuseRow(ctx context.Context, row string, cause error) error {
	key, err := b.mirror.keyOfRow([]byte(row))
	if err == nil {
		_, err = b.tx.Exec(ctx, "INSERT INTO "+refusedTable+" VALUES ($1::jsonb, $2, $3::json) ON CONFLICT (key) DO UPDATE SET error = excluded.error, row = excluded.row", key, reason(cause), row)
	}
	return err
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
