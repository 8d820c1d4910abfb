package main

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/consumer"
)

//go:embed demo/shop.sql
var demoShop string

// demoConnections is how many write at the same time.
const demoConnections = 4

// demoOpening is how things stood when the shop opened.
type demoOpening struct {
	lsn   change.LSN // whatever is committed later is the shop's
	money string     // in all accounts, as Postgres writes it
}

// runShop keeps the shop busy, kills walrill in the middle and waits until
// the last event is in Redis.
func (d *demo) runShop(ctx context.Context) error {
	d.out.heading(fmt.Sprintf("A shop, busy for %d s", d.seconds),
		fmt.Sprintf("%d connections place, change, pay, ship and cancel orders and move money, while walrill is killed once.", demoConnections))
	if err := d.open(ctx); err != nil {
		return fmt.Errorf("demo: open the shop: %w", err)
	}
	follower, err := followDemo(ctx, d.client)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer follower.stop()
	d.out.line("   A few transactions as they arrive; the events of one share its position, numbered behind the colon:")
	begin := time.Now()
	if err := d.trade(ctx, follower); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	closed := time.Now()
	if _, err := d.caughtUp(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.result.took, d.result.behind = time.Since(begin), time.Since(closed)
	return nil
}

// open makes accounts and customers, and takes stock.
func (d *demo) open(ctx context.Context) error {
	results, err := d.db.PgConn().Exec(ctx, demoShop).ReadAll()
	if err != nil {
		return err
	}
	for _, r := range results {
		d.result.changes += int(r.CommandTag.RowsAffected())
	}
	if d.result.opening.lsn, err = d.caughtUp(ctx); err != nil {
		return err
	}
	return d.db.QueryRow(ctx, "SELECT sum(balance)::text FROM accounts").Scan(&d.result.opening.money)
}

// caughtUp waits until all that is committed is in Redis, and returns up to where that is.
func (d *demo) caughtUp(ctx context.Context) (change.LSN, error) {
	var text string
	if err := d.db.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&text); err != nil {
		return 0, err
	}
	lsn, err := change.ParseLSN(text)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	return lsn, consumer.WaitFor(ctx, d.client, "demo", uint64(lsn))
}

// trade lets the connections work until time is up, and shows what happens meanwhile.
func (d *demo) trade(ctx context.Context, follower *demoFollower) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	length := time.Duration(d.seconds) * time.Second
	until := time.Now().Add(length)
	stats := make(chan demoStats, demoConnections)
	for i := range demoConnections {
		go func() {
			s, err := work(ctx, d.servers.pgURL(), uint64(i), until)
			if err != nil {
				cancel(err) // the first error counts, the others follow from it
			}
			stats <- s
		}()
	}
	if err := d.watch(ctx, follower, until.Add(-length/2), until); err != nil {
		cancel(err)
	}
	for range demoConnections {
		d.result.shop.add(<-stats)
	}
	d.result.changes += d.result.shop.changes
	return context.Cause(ctx)
}

// work is one connection's day.
func work(ctx context.Context, url string, seed uint64, until time.Time) (demoStats, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return demoStats{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // its work is done
	w := demoWorker{conn: conn, rand: rand.New(rand.NewPCG(seed, 0))}
	err = w.run(ctx, until)
	return w.stats, err
}

// watch shows samples and progress until a time has come, and kills walrill
// and starts it again at another time before.
func (d *demo) watch(ctx context.Context, follower *demoFollower, kill, until time.Time) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	killing, closing := time.After(time.Until(kill)), time.After(time.Until(until))
	for {
		select {
		case tx := <-follower.samples:
			for i := range tx {
				d.out.event("  ", &tx[i])
			}
		case <-killing:
			if err := d.crash(ctx); err != nil {
				return err
			}
		case <-closing:
			d.out.progress("")
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		d.out.progress(follower.progress(time.Until(until)))
	}
}

// crash kills walrill the hard way and starts it again.
func (d *demo) crash(ctx context.Context) error {
	d.out.command(fmt.Sprintf("kill -9 %d", d.servers.pid), "walrill dies in the middle of it; the shop goes on")
	if err := d.servers.daemon.Kill(); err != nil {
		return err
	}
	began := time.Now()
	if err := d.servers.startDaemon(ctx, d.client); err != nil {
		return fmt.Errorf("start walrill again: %w", err)
	}
	d.result.restart = time.Since(began)
	d.out.command("walrill run …", "started again, it goes on where Redis stands: Postgres has kept what it missed")
	return nil
}
