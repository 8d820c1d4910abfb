package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// bed is the servers that are measured on.
type bed struct {
	pg    *harness.Postgres
	redis *harness.Redis
	conn  *pgx.Conn
	rdb   *redis.Client
	runs  int
	dir   string
}

const (
	database    = "postgres"
	publication = "bench"
	baseSlot    = "bench_base" // where a shape's WAL starts; each run streams from a copy
	tableSQL    = `CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance numeric(18,2), status text, updated_at timestamptz, note text)`
)

func newBed(ctx context.Context) (b *bed, err error) {
	b = &bed{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "walrill-bench"); err != nil {
		return nil, err
	}
	b.pg, err = harness.StartPostgres(ctx, harness.PostgresOptions{Settings: map[string]string{
		"wal_level": "logical", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "shared_buffers": "256MB", "fsync": "off", "autovacuum": "off",
	}})
	if err != nil {
		return nil, err
	}
	if b.redis, err = harness.StartRedis(ctx, harness.RedisOptions{}); err != nil {
		return nil, err
	}
	options, err := redis.ParseURL(b.redis.URL())
	if err != nil {
		return nil, err
	}
	b.rdb = redis.NewClient(options)
	if b.conn, err = pgx.Connect(ctx, b.pg.URL(database)); err != nil {
		return nil, err
	}
	return b, b.exec(ctx, tableSQL, `CREATE PUBLICATION `+publication+` FOR TABLE accounts`)
}

func (b *bed) close() error {
	var errs []error
	if b.conn != nil {
		errs = append(errs, b.conn.Close(context.Background()))
	}
	if b.rdb != nil {
		errs = append(errs, b.rdb.Close())
	}
	if b.redis != nil {
		errs = append(errs, b.redis.Stop())
	}
	if b.pg != nil {
		errs = append(errs, b.pg.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

func (b *bed) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := b.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func (b *bed) lsn(ctx context.Context) (lsn string, err error) {
	err = b.conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&lsn)
	return lsn, err
}

// shape is a load: what is written, and how many units (rows or transactions) that makes.
type shape struct {
	name, what, unit string
	units            int
	sql              []string
}

const row = `id, 'owner number ' || id, id * 1.25, 'open', now(), repeat('note ', 18)`

func shapeA(transactions int) shape {
	return shape{"A", fmt.Sprintf("%d transactions of 1,000 inserted rows", transactions), "changes/s", transactions * 1000,
		[]string{fmt.Sprintf(`DO $$ BEGIN FOR t IN 1..%d LOOP
			INSERT INTO accounts SELECT %s FROM generate_series(t * 1000, t * 1000 + 999) id; COMMIT; END LOOP; END $$`, transactions, row)}}
}

func shapeB(transactions int) shape {
	return shape{"B", fmt.Sprintf("%d transactions of one updated row", transactions), "tx/s", transactions,
		[]string{fmt.Sprintf(`DO $$ BEGIN FOR t IN 1..%d LOOP
			UPDATE accounts SET balance = balance + 1, updated_at = clock_timestamp() WHERE id = 1 + t %% 1000; COMMIT; END LOOP; END $$`, transactions)}}
}

// write makes the base slot and then the shape's WAL, and returns where it ends.
func (b *bed) write(ctx context.Context, s shape) (end string, err error) {
	err = b.exec(ctx, `SET synchronous_commit = off`, `TRUNCATE accounts`, `INSERT INTO accounts SELECT `+row+` FROM generate_series(1, 1000) id`, `VACUUM accounts`,
		`SELECT pg_create_logical_replication_slot('`+baseSlot+`', 'pgoutput')`)
	if err != nil {
		return "", err
	}
	if s.name == "A" {
		if err := b.exec(ctx, `DELETE FROM accounts`, `SELECT pg_replication_slot_advance('`+baseSlot+`', pg_current_wal_insert_lsn())`); err != nil {
			return "", err
		}
	}
	if err := b.exec(ctx, append(s.sql, `RESET synchronous_commit`)...); err != nil {
		return "", err
	}
	if end, err = b.lsn(ctx); err != nil {
		return "", err
	}
	// All of it is written out, so that no run waits for that.
	return end, b.exec(ctx, `CHECKPOINT`)
}

func (b *bed) forget(ctx context.Context) error {
	return b.exec(ctx, `SELECT pg_drop_replication_slot('`+baseSlot+`')`)
}
