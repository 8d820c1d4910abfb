package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

// demoTableNames are the tables that the events must add up to.
var demoTableNames = []string{"public.accounts", "public.customers", "public.orders", "public.order_items"}

// demoFinding is one thing checked; no problems means that it holds.
type demoFinding struct {
	holds    string // what is so
	problems []string
}

// check sums up and holds the streams against the tables.
func (d *demo) check(ctx context.Context) error {
	if _, err := d.caughtUp(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if d.tamper != nil {
		if err := d.tamper(ctx, d.client); err != nil {
			return err
		}
	}
	if err := d.summarise(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.out.heading("Exactly once?", "every event is read again and held against the tables in Postgres")
	findings, err := d.findings(ctx)
	if err != nil {
		return fmt.Errorf("demo: check: %w", err)
	}
	failed := 0
	for _, f := range findings {
		d.out.finding(f)
		if len(f.problems) > 0 {
			failed++
		}
	}
	d.out.line("")
	if failed > 0 {
		return demoFailed{fmt.Errorf("demo: %d of %d checks failed; `walrill demo --keep` leaves everything running to look into it", failed, len(findings))}
	}
	return nil
}

// summarise says how fast it was.
func (d *demo) summarise(ctx context.Context) error {
	var retained int64
	err := d.db.QueryRow(ctx, `
		SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
		FROM pg_replication_slots WHERE slot_name = 'walrill_demo'`).Scan(&retained)
	if err != nil {
		return fmt.Errorf("look at the slot: %w", err)
	}
	r := &d.result
	rate := float64(r.shop.changes) / r.took.Seconds()
	d.out.heading("Summary", "on this machine, with Postgres, Redis, the shop and all else beside it")
	d.out.field("events", "%s of %s transactions in %.1f s: %s events/s, as fast as %d connections wrote, a restart included",
		demoCount(r.shop.changes), demoCount(r.shop.transactions), r.took.Seconds(), demoCount(int(rate)), demoConnections)
	d.out.field("latency", "p50 %s, p99 %s from commit to stream (%d single commits, until XREAD has the event)",
		milliseconds(percentile(r.latency, 50)), milliseconds(percentile(r.latency, 99)), len(r.latency))
	d.out.field("lag", "%s now; the shop's last event was in Redis %s after its last commit", size(retained), milliseconds(r.behind))
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// findings reads all streams and judges them.
func (d *demo) findings(ctx context.Context) ([]demoFinding, error) {
	opening := d.result.opening
	audit := newDemoAudit(event.Clock(0, uint64(opening.lsn)), opening.money)
	entries, err := d.readAll(ctx, audit)
	if err != nil {
		return nil, err
	}
	complete := demoFinding{holds: fmt.Sprintf("%s rows changed by committed transactions, %s events; of %s transactions rolled back, none",
		demoCount(d.result.changes), demoCount(audit.events), demoCount(d.result.shop.rolledBack))}
	if entries != d.result.changes || audit.events != entries {
		complete.problems = []string{fmt.Sprintf("%d rows changed, %d entries in Redis, %d events read", d.result.changes, entries, audit.events)}
	}
	rows, err := d.compareTables(ctx, audit.tables)
	if err != nil {
		return nil, err
	}
	return []demoFinding{
		complete,
		{fmt.Sprintf("seq runs 1, 2, 3 … in each of the %d partitions: no gap, no duplicate", len(audit.seqs)), audit.gaps},
		{"each event's old values are what the event before it left: nothing out of order", audit.strange},
		rows,
		{fmt.Sprintf("%s in all accounts, after each of %s transactions: none is ever seen half", opening.money, demoCount(audit.purse.transactions)), audit.purse.problems},
	}, nil
}

// readAll gives every event to the audit, in commit order, and returns how many
// entries Redis says there are.
func (d *demo) readAll(ctx context.Context, audit *demoAudit) (entries int, err error) {
	reader, err := consumer.Open(ctx, consumer.Options{Client: d.client, Pipeline: "demo", Streams: demoStreams, NoFollow: true})
	if err != nil {
		return 0, err
	}
	for {
		e, err := reader.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if _, ok := errors.AsType[*consumer.GapError](err); ok {
			continue // the audit counts for itself
		}
		if err != nil {
			return 0, err
		}
		audit.take(&e)
	}
	audit.purse.close()
	for key := range audit.seqs {
		n, err := d.client.XLen(ctx, key).Result()
		if err != nil {
			return 0, err
		}
		entries += int(n)
	}
	return entries, nil
}

// compareTables holds what the events add up to against the tables.
func (d *demo) compareTables(ctx context.Context, got demoTables) (demoFinding, error) {
	var f demoFinding
	var counts []string
	for _, table := range demoTableNames {
		want, err := d.readTable(ctx, table)
		if err != nil {
			return f, fmt.Errorf("read %s: %w", table, err)
		}
		counts = append(counts, fmt.Sprintf("%s %s", demoCount(len(want)), strings.TrimPrefix(table, "public.")))
		f.problems = append(f.problems, got.diff(table, want)...)
	}
	f.holds = "the events add up to the tables, row by row: " + strings.Join(counts, ", ")
	return f, nil
}

func (d *demo) readTable(ctx context.Context, table string) (map[string]demoRow, error) {
	rows, err := d.db.Query(ctx, "SELECT id::text, to_jsonb(t)::text FROM "+table+" t")
	if err != nil {
		return nil, err
	}
	all := map[string]demoRow{}
	var id, text string
	_, err = pgx.ForEachRow(rows, []any{&id, &text}, func() error {
		row, err := parseDemoRow([]byte(text))
		all[id] = row
		return err
	})
	return all, err
}

// demoProblemsShown is how many problems of one kind are worth reading.
const demoProblemsShown = 5

// finding writes what holds, or what does not.
func (o *demoOutput) finding(f demoFinding) {
	if len(f.problems) == 0 {
		o.line("   %s  %s", o.paint(green, "ok  "), f.holds)
		return
	}
	o.line("   %s  %s", o.paint(red, "FAIL"), f.holds)
	for i, p := range f.problems {
		if i == demoProblemsShown {
			o.line("         and %d more", len(f.problems)-i)
			break
		}
		o.line("         %s", p)
	}
}
