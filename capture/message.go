package capture

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// EmitMessage writes a transactional logical message into the WAL of the database at url, and returns a
// position behind its commit.
func EmitMessage(ctx context.Context, url, prefix, content string) (lsn change.LSN, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("connect to Postgres: %w", reached(err))
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it wrote is committed
	if _, err := conn.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, $2::text)`, prefix, content); err != nil {
		return 0, fmt.Errorf("write a logical message: %w", err)
	}
	var text string
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&text); err != nil {
		return 0, fmt.Errorf("read the position of a logical message: %w", err)
	}
	return change.ParseLSN(text)
}
