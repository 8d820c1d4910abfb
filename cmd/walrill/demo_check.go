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
	d.out.heading("Was everything published exactly once?", "All events are read again from the beginning and held against the tables in Postgres.")
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
	if failed > 0 {
		return demoFailed{fmt.Errorf("demo: %d of %d checks failed; `walrill demo --keep` leaves everything running to look into it", failed, len(findings))}
	}
	return nil
}

// summarise says how fast it was.
func (d *demo) summarise(ctx context.Context) error {
	var unconfirmed int64
	err := d.db.QueryRow(ctx, `
		SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
		FROM pg_replication_slots WHERE slot_name = 'walrill_demo'`).Scan(&unconfirmed)
	if err != nil {
		return fmt.Errorf("look at the slot: %w", err)
	}
	report, err := askDaemon(ctx, d.servers.http)
	if err != nil {
		return fmt.Errorf("ask walrill: %w", err)
	}
	r := &d.result
	rate := float64(r.shop.changes) / r.took.Seconds()
	d.out.heading("Summary", "Measured here, with Postgres, Redis and the shop on the same machine.")
	d.out.field("events", "%s from %s transactions in %.1f s: %s events/s, as many as the shop made",
		demoCount(r.shop.changes), demoCount(r.shop.transactions), r.took.Seconds(), demoCount(int(rate)))
	d.out.field("latency", "p50 %s, p99 %s from commit to stream, for %d single commits read with XREAD",
		milliseconds(percentile(r.latency, 50)), milliseconds(percentile(r.latency, 99)), len(r.latency))
	d.out.field("restart", "%s after it was killed it streamed again; what Postgres repeated, %s changes, was not published twice",
		milliseconds(r.restart), demoCount(report.Sink.Duplicates))
	d.out.field("lag", "%s when the shop closed: its last event behind its last commit; %s of WAL unconfirmed now",
		milliseconds(r.behind), size(unconfirmed))
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
	complete := demoFinding{holds: fmt.Sprintf("%s row changes committed, %s events; of %s transactions rolled back, none",
		demoCount(d.result.changes), demoCount(audit.events), demoCount(d.result.shop.rolledBack))}
	if entries != d.result.changes || audit.events != entries {
		complete.problems = []string{fmt.Sprintf("%d row changes committed, %d entries in Redis, %d events read", d.result.changes, entries, audit.events)}
	}
	rows, err := d.compareTables(ctx, audit.tables)
	if err != nil {
		return nil, err
	}
	return []demoFinding{
		complete,
		{fmt.Sprintf("seq runs 1, 2, 3 … in each of the %d partitions: no gap, no duplicate", len(audit.seqs)), audit.gaps},
		{"old values in each event are what the one before left: nothing out of order", audit.strange},
		rows,
		{fmt.Sprintf("%s in all accounts together, unchanged after each of %s transactions", demoGroup(opening.money), demoCount(audit.purse.transactions)), audit.purse.problems},
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
		if aboutData(err) {
			audit.strange = append(audit.strange, err.Error())
			continue
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
