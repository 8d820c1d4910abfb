package capture

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// withoutViews leaves out the tables of views that walrill keeps in this very
// database: to capture what was made of the streams would never end.
func withoutViews(ctx context.Context, conn *pgx.Conn, tables []table) ([]table, error) {
	var kept bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('walrill.views') IS NOT NULL").Scan(&kept); err != nil || !kept {
		return tables, err
	}
	rows, err := conn.Query(ctx, "SELECT schema || '.' || name FROM walrill.views")
	if err != nil {
		return nil, fmt.Errorf("list the views in this database: %w", err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the views in this database: %w", err)
	}
	return slices.DeleteFunc(tables, func(t table) bool { return slices.Contains(views, t.String()) }), nil
}

// Tables lists the tables of a database that may be captured, as the catalogue shows them now, sorted by name, with the columns that a publication of walrill's making has. It changes nothing.
func Tables(ctx context.Context, url string) ([]*change.Relation, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", reached(err))
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	tables, err := readTables(ctx, conn, "")
	if err != nil {
		return nil, err
	}
	return relations(tables), nil
}
