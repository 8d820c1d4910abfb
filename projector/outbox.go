package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// Outbox is what views have emitted, in a store: read from it in order, published, and removed some time later, so that what Redis
// loses can be published again. Reading and publishing twice does no harm: an entry's ID never changes.
type Outbox struct {
	conn     *pgx.Conn
	pipeline string
}

// Emitted is an event of a view. Its Stream is the caller's to set, by the name.
type Emitted struct {
	Stream string
	Form   string // of the data, for Outbox.Schema
	event.Event
}

// OpenOutbox opens a session of the store.
func OpenOutbox(ctx context.Context, url, pipeline string) (*Outbox, error) {
	conn, err := connect(ctx, url, pipeline+" outbox")
	if err != nil {
		return nil, err
	}
	return &Outbox{conn, pipeline}, nil
}

// Close ends the session.
func (o *Outbox) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	o.conn.Close(ctx) //nolint:errcheck // what it did is committed
}

// After returns at most n events behind one, of commit after commit, stream after stream, in the order of IDs; behind the zero one, the first. They are the caller's.
func (o *Outbox) After(ctx context.Context, last Emitted, n int) ([]Emitted, error) {
	rows, err := o.conn.Query(ctx, `SELECT stream, commit::text, n, source, type, form, coalesce(key, ''), op, time, tx, data::text FROM walrill.outbox
		WHERE pipeline = $1 AND (commit, stream, n) > ($2::text::numeric, $3, $4) ORDER BY commit, stream, n LIMIT $5`,
		o.pipeline, strconv.FormatUint(last.Position.Commit, 10), last.Stream, int64(last.Position.Ordinal), n)
	if err != nil {
		return nil, fmt.Errorf("read what views emit: %w", err)
	}
	var list []Emitted
	var e Emitted
	var commit, key, op, data string
	var ordinal, tx int64
	_, err = pgx.ForEachRow(rows, []any{&e.Stream, &commit, &ordinal, &e.Table, &e.Type, &e.Form, &key, &op, &e.Time, &tx, &data}, func() error {
		out := e
		var err error
		out.Position.Commit, err = strconv.ParseUint(commit, 10, 64)
		out.Position.Ordinal, out.Key, out.Op, out.Tx, out.Data = uint64(ordinal), []byte(key), op[0], uint32(tx), []byte(data)
		list = append(list, out)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what views emit: %w", err)
	}
	return list, nil
}

// Schema is that of the data of events of a form. Its Version is what the configuration asked for, or 0.
func (o *Outbox) Schema(ctx context.Context, form string) (*event.Schema, error) {
	var text string
	s := &event.Schema{}
	err := o.conn.QueryRow(ctx, "SELECT schema::text FROM walrill.forms WHERE pipeline = $1 AND id = $2", o.pipeline, form).Scan(&text)
	if err == nil {
		err = json.Unmarshal([]byte(text), s)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the data of emitted events is: %w", err)
	}
	return s, nil
}

// Removed is the position of the last event of a stream that is not in the outbox any more.
func (o *Outbox) Removed(ctx context.Context, stream string) (event.Position, error) {
	var commit string
	var n int64
	err := o.conn.QueryRow(ctx, "SELECT commit::text, n FROM walrill.emitted WHERE pipeline = $1 AND stream = $2", o.pipeline, stream).Scan(&commit, &n)
	if errors.Is(err, pgx.ErrNoRows) {
		return event.Position{}, nil
	}
	if err != nil {
		return event.Position{}, fmt.Errorf("read what views have emitted: %w", err)
	}
	c, err := strconv.ParseUint(commit, 10, 64)
	return event.Position{Commit: c, Ordinal: uint64(n)}, err
}

// Remove removes what is published for good, of commits below one, and is older than keep.
func (o *Outbox) Remove(ctx context.Context, below uint64, keep time.Duration) error {
	_, err := o.conn.Exec(ctx, `WITH gone AS (DELETE FROM walrill.outbox WHERE pipeline = $1 AND commit < $2::text::numeric AND emitted_at < now() - $3::bigint * interval '1 microsecond' RETURNING stream, commit, n)
		INSERT INTO walrill.emitted (pipeline, stream, commit, n) SELECT DISTINCT ON (stream) $1, stream, commit, n FROM gone ORDER BY stream, commit DESC, n DESC
		ON CONFLICT (pipeline, stream) DO UPDATE SET commit = excluded.commit, n = excluded.n`, o.pipeline, strconv.FormatUint(below, 10), keep.Microseconds())
	if err != nil {
		return fmt.Errorf("remove what views have emitted: %w", err)
	}
	return nil
}
