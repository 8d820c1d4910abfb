package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

// demoStory is a bank account's life so far.
var demoStory = []struct{ sql, what string }{
	{"INSERT INTO accounts VALUES (1, 'Ada', 0)", "open an account"},
	{"UPDATE accounts SET balance = balance + 100 WHERE id = 1", "deposit 100"},
	{"UPDATE accounts SET balance = balance - 20 WHERE id = 1", "withdraw 20"},
}

// tellBank runs the story statement by statement and shows what comes of each.
func (d *demo) tellBank(ctx context.Context) error {
	d.out.heading("A bank account", "Each row change, once committed, becomes one event. Other programs read it from Redis within milliseconds.")
	reader, err := consumer.Open(ctx, consumer.Options{Client: d.client, Pipeline: "demo", Streams: []string{"bank"}})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	var last event.Event
	for _, s := range demoStory {
		d.out.line("   SQL    %s;  %s", d.out.paint(bold, s.sql), d.out.paint(dim, "-- "+s.what))
		if last, err = d.tell(ctx, reader, s.sql); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		d.out.event("event  ", &last)
		if err := d.pause(ctx); err != nil {
			return err
		}
	}
	return d.compareBalance(ctx, &last)
}

// tell runs a statement and returns its event.
func (d *demo) tell(ctx context.Context, reader *consumer.Reader, sql string) (event.Event, error) {
	tag, err := d.db.Exec(ctx, sql)
	if err != nil {
		return event.Event{}, fmt.Errorf("run %s: %w", sql, err)
	}
	d.result.changes += int(tag.RowsAffected())
	ctx, cancel := context.WithTimeoutCause(ctx, demoTimeout, errors.New("its event does not arrive"))
	defer cancel()
	e, err := reader.Next(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return e, err
}

// pause lets a person read.
func (d *demo) pause(ctx context.Context) error {
	if !d.out.terminal {
		return nil
	}
	select {
	case <-time.After(700 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// compareBalance shows that the last event has what the table has.
func (d *demo) compareBalance(ctx context.Context, last *event.Event) error {
	var table string
	if err := d.db.QueryRow(ctx, "SELECT balance FROM accounts WHERE id = 1").Scan(&table); err != nil {
		return fmt.Errorf("demo: read balance: %w", err)
	}
	var row struct{ Balance json.Number }
	if err := json.Unmarshal(last.Data, &row); err != nil {
		return fmt.Errorf("demo: read event: %w", err)
	}
	d.out.line("   The balance is %s in Postgres and %s in the last event.", table, row.Balance)
	if table != row.Balance.String() {
		return demoFailed{fmt.Errorf("demo: the bank's event says %s, its table %s", row.Balance, table)}
	}
	d.out.line("   %s is where Postgres committed it. As a number, %s, it is the entry's ID in Redis:",
		d.out.paint(bold, last.Position.String()), last.Position.ID())
	d.out.line("   Redis refuses an ID that it has passed, so whatever is sent twice is stored once.")
	return nil
}
