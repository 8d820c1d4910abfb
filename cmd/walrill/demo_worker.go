package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// demoStats counts what connections did.
type demoStats struct {
	transactions int // committed
	changes      int // rows changed by them
	rolledBack   int
}

func (s *demoStats) add(o demoStats) {
	s.transactions += o.transactions
	s.changes += o.changes
	s.rolledBack += o.rolledBack
}

// demoOrder is an order that is still going on.
type demoOrder struct {
	id, customer int64
	total        int // cents
	items        []demoItem
	paid         bool
}

type demoItem struct {
	id         int64
	product    string
	qty, price int // the price of one, in cents
}

// demoWorker is one connection of the shop. Orders are its own, accounts everybody's.
type demoWorker struct {
	conn   *pgx.Conn
	rand   *rand.Rand
	orders []*demoOrder
	stats  demoStats
}

// demoTx is a transaction that counts the rows it changes.
type demoTx struct {
	tx      pgx.Tx
	changes int
}

func (t *demoTx) exec(ctx context.Context, sql string, args ...any) error {
	tag, err := t.tx.Exec(ctx, sql, args...)
	t.changes += int(tag.RowsAffected())
	return err
}

// insert inserts one row and returns its id.
func (t *demoTx) insert(ctx context.Context, sql string, args ...any) (id int64, err error) {
	t.changes++
	err = t.tx.QueryRow(ctx, sql+" RETURNING id", args...).Scan(&id)
	return id, err
}

// run makes transactions until a time has come. A transaction that has begun
// is finished, so that its outcome is known.
func (w *demoWorker) run(ctx context.Context, until time.Time) error {
	for time.Now().Before(until) && ctx.Err() == nil {
		if err := w.step(ctx); err != nil {
			return fmt.Errorf("run the shop: %w", err)
		}
	}
	return ctx.Err()
}

// errChangedMind rolls a transaction back.
var errChangedMind = errors.New("changed my mind")

// transact runs a transaction and counts it. It is rolled back when the data
// forbid it, and now and then for no reason; done says whether it was committed.
func (w *demoWorker) transact(ctx context.Context, do func(*demoTx) error) (done bool, err error) {
	tx, err := w.conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	t := &demoTx{tx: tx}
	if err = do(t); err == nil && w.rand.IntN(100) < 3 {
		err = errChangedMind
	}
	if err != nil {
		w.stats.rolledBack++
		return false, errors.Join(tx.Rollback(ctx), unexpected(err))
	}
	if err := tx.Commit(ctx); err != nil {
		return false, err
	}
	w.stats.transactions++
	w.stats.changes += t.changes
	return true, nil
}

// unexpected is nil for errors that are part of a shop's life: an account that
// lacks the money, two connections that wait for each other.
func unexpected(err error) error {
	const checkViolation, deadlock = "23514", "40P01"
	if errors.Is(err, errChangedMind) {
		return nil
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == checkViolation || e.Code == deadlock) {
		return nil
	}
	return err
}
