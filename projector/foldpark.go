package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// An event that is refused parks its key: it and all that follow it of that key wait in walrill.parked_events, in their
// order, because a fold needs each. A retry applies them in that order, as far as they go.

// keptEvent is an event that waits, as JSON.
type keptEvent struct {
	Stream    string          `json:"stream"`
	Partition int             `json:"partition"`
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Key       string          `json:"key"`
	Op        string          `json:"op"`
	Table     string          `json:"table,omitempty"`
	Time      time.Time       `json:"time"`
	Tx        uint32          `json:"tx,omitempty"`
	Seq       uint64          `json:"seq"`
	Schema    int             `json:"schema,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Old       json.RawMessage `json:"old,omitempty"`
	Unchanged json.RawMessage `json:"unchanged,omitempty"`
	Headers   json.RawMessage `json:"headers,omitempty"`
}

func encodeKept(e *event.Event) (string, error) {
	text, err := json.Marshal(keptEvent{Stream: e.Stream.Name, Partition: e.Partition, ID: e.Position.ID(), Type: e.Type, Key: string(e.Key), Op: string(e.Op),
		Table: e.Table, Time: e.Time, Tx: e.Tx, Seq: e.Seq, Schema: e.Schema, Data: e.Data, Old: e.Old, Unchanged: e.Unchanged, Headers: e.Headers})
	if err != nil {
		return "", fmt.Errorf("keep the event at %v: %w", e.Position, err)
	}
	return string(text), nil
}

func decodeKept(text string) (event.Event, error) {
	var k keptEvent
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return event.Event{}, fmt.Errorf("read an event that is parked: %w", err)
	}
	pos, err := event.ParseID(k.ID)
	if err != nil || len(k.Op) != 1 {
		return event.Event{}, errors.Join(fmt.Errorf("read an event that is parked: %s", text), err)
	}
	return event.Event{Stream: event.NewStream(k.Stream, k.Partition+1), Partition: k.Partition, Position: pos, Type: k.Type, Key: []byte(k.Key), Op: k.Op[0],
		Table: k.Table, Time: k.Time, Tx: k.Tx, Seq: k.Seq, Schema: k.Schema, Data: k.Data, Old: k.Old, Unchanged: k.Unchanged, Headers: k.Headers}, nil
}

// orderingKey is how an ordering key stands in walrill.parked.
func orderingKey(key []byte) string {
	text, _ := json.Marshal(map[string]string{"key": string(key)}) // of a string: never fails
	return string(text)
}

// loadAside reads which keys are parked.
func (f *folding) loadAside(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT key->>'key' FROM walrill.parked WHERE pipeline = $1 AND view = $2", f.pipeline, f.name)
	if err != nil {
		return fmt.Errorf("read what is parked of view %s: %w", f.view, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read what is parked of view %s: %w", f.view, err)
	}
	f.aside = map[string]bool{}
	for _, k := range keys {
		f.aside[k] = true
	}
	return nil
}

// keepAside puts events of keys that are parked behind those, and returns the others.
func (f *folding) keepAside(ctx context.Context, conn *pgx.Conn, events []event.Event) ([]event.Event, error) {
	if len(f.aside) == 0 {
		return events, nil
	}
	var rest []event.Event
	b := &pgx.Batch{}
	for i := range events {
		if !f.aside[string(events[i].Key)] {
			rest = append(rest, events[i])
		} else if err := f.keep(b, &events[i]); err != nil {
			return nil, err
		}
	}
	if b.Len() == 0 {
		return rest, nil
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("park events of view %s: %w", f.view, err)
	}
	return rest, nil
}

func (f *folding) keep(b *pgx.Batch, e *event.Event) error {
	if f.apart != nil {
		return nil
	}
	text, err := encodeKept(e)
	if err != nil {
		return err
	}
	b.Queue(`INSERT INTO walrill.parked_events (pipeline, view, key, commit, ordinal, event) VALUES ($1, $2, $3, $4::text::numeric, $5::text::numeric, $6)
		ON CONFLICT DO NOTHING`, f.pipeline, f.name, string(e.Key), fmt.Sprint(e.Position.Commit), fmt.Sprint(e.Position.Ordinal), text)
	return nil
}

// park sets the key of an event aside, with the reason.
func (f *folding) park(ctx context.Context, conn *pgx.Conn, e *event.Event, cause error) error {
	if f.apart != nil {
		f.apart.refused[string(e.Key)], f.aside[string(e.Key)] = reason(cause), true
		return nil
	}
	f.log.Warn("an event is refused: its key is set aside, with all that follow it; `walrill parked list` shows it", "view", f.view, "key", string(e.Key), "event", e.Position, "error", cause)
	text, err := encodeKept(e)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	epoch, lsn := event.SplitClock(e.Position.Commit)
	b.Queue(`INSERT INTO walrill.parked (pipeline, view, key, error, row, epoch, lsn) VALUES ($1, $2, $3::jsonb, $4, $5::json, $6, '0/0'::pg_lsn + $7::bigint::numeric)
		ON CONFLICT (pipeline, view, source, key) DO UPDATE SET error = excluded.error, row = excluded.row, retry = false, skip = false, epoch = excluded.epoch, lsn = excluded.lsn`,
		f.pipeline, f.name, orderingKey(e.Key), reason(cause), text, int32(epoch), int64(lsn))
	if err := f.keep(b, e); err != nil {
		return err
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("park a key of view %s: %w", f.view, err)
	}
	f.aside[string(e.Key)] = true
	return nil
}

// retry applies what is parked of a key, as far as it goes, without its first event if that is to be left out.
func (f *folding) retry(ctx context.Context, conn *pgx.Conn, key string, skip bool) error {
	if skip { // a comparison must know
		if _, err := conn.Exec(ctx, `INSERT INTO walrill.left_out SELECT pipeline, view, key, commit, ordinal FROM walrill.parked_events
			WHERE pipeline = $1 AND view = $2 AND key = $3 ORDER BY commit, ordinal LIMIT 1 ON CONFLICT DO NOTHING`, f.pipeline, f.name, key); err != nil {
			return fmt.Errorf("note what is left out of view %s: %w", f.view, err)
		}
	}
	rows, err := conn.Query(ctx, `WITH gone AS (DELETE FROM walrill.parked_events WHERE pipeline = $1 AND view = $2 AND key = $3 RETURNING *)
		SELECT event::text FROM gone ORDER BY commit, ordinal`, f.pipeline, f.name, key)
	if err != nil {
		return fmt.Errorf("read what is parked of view %s: %w", f.view, err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read what is parked of view %s: %w", f.view, err)
	}
	if skip && len(texts) > 0 {
		texts = texts[1:]
	}
	events := make([]event.Event, len(texts))
	for i, text := range texts {
		if events[i], err = decodeKept(text); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "DELETE FROM walrill.parked WHERE pipeline = $1 AND view = $2 AND key = $3::jsonb", f.pipeline, f.name, orderingKey([]byte(key))); err != nil {
		return fmt.Errorf("take a key of view %s off the parking place: %w", f.view, err)
	}
	delete(f.aside, key)
	return f.runCarefully(ctx, conn, events)
}
