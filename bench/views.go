package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// viewKind is a view that is measured, each kept by a daemon of its own in a database of its own, or in the streams' Redis.
type viewKind struct {
	name, yaml string
	dealt      bool // its stream has several partitions
}

const documentKind = "Redis documents"

const (
	joinsYAML = `  seen:
    key: id
    query: |
      SELECT o.id, o.status, o.total, c.name AS customer, r.name AS region
      FROM orders o JOIN customers c ON c.id = o.customer_id JOIN regions r ON r.id = c.region_id
`
	foldYAML = `  seen:
    key: id
    table: {id: bigint, customer_id: int, status: text, total: "numeric(12,2)", placed_at: timestamptz, note: text}
    fold:
      orders.read: INSERT INTO seen VALUES (:key, :data.customer_id, :data.status, :data.total, :data.placed_at, :data.note)
      orders.created: INSERT INTO seen VALUES (:key, :data.customer_id, :data.status, :data.total, :data.placed_at, :data.note)
      orders.updated: UPDATE seen SET customer_id = :data.customer_id, status = :data.status, total = :data.total, placed_at = :data.placed_at, note = :data.note WHERE id = :key
`
)

// emitting is what a view says of one change in ten, in a stream of its own.
func emitting(stream string) string {
	return fmt.Sprintf("    emit: {stream: %s, events: {order.tenth: {when: new.id %% 10 = 0}}}\n", stream)
}

var viewKinds = []viewKind{
	{name: "mirror", yaml: "  seen:\n    mirror: public.orders\n"},
	{name: "mirror that emits", yaml: "  seen:\n    mirror: public.orders\n" + emitting("of_mirror")},
	{name: "two joins", yaml: joinsYAML},
	{name: "two joins, emits", yaml: joinsYAML + emitting("of_joins")},
	{name: "fold", yaml: foldYAML},
	{name: "fold that emits", yaml: foldYAML + emitting("of_fold")},
	{name: documentKind, yaml: "  docs: {document: \"order:{id}\", mirror: public.orders}\n"},
}

// viewBatch is how many changes the projector puts into one transaction of the store at most.
const viewBatch = 5000

const viewTables = `
CREATE TABLE regions (id int PRIMARY KEY, name text);
CREATE TABLE customers (id int PRIMARY KEY, region_id int, name text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int, status text, total numeric(12,2), placed_at timestamptz, note text);
INSERT INTO regions SELECT i, 'region ' || i FROM generate_series(1, 10) i;
INSERT INTO customers SELECT i, 1 + i % 10, 'customer number ' || i FROM generate_series(1, 1000) i;
INSERT INTO orders SELECT i, 1 + i % 1000, 'new', i * 1.25, now(), repeat('note ', 18) FROM generate_series(1, 20000) i`

// orderColumns are the columns that the bare upserts write.
var orderColumns = []string{"id", "customer_id", "status", "total", "placed_at", "note"}

// ceiling is what a kind of view is compared with.
func (a applied) ceiling(kind string) float64 {
	if kind == documentKind {
		return a.sets
	}
	return a.bare
}

// applied is what one round took of the store: changes a second of the bare upserts, of each kind of view, and of the first
// kind together with capturing the changes.
type applied struct {
	bare  float64
	sets  float64 // bare SETs in Redis
	kinds map[string]viewRun
	both  float64
}

type viewRun struct {
	rate                   float64
	client, backend, redis float64 // CPU seconds per million changes
}

// viewResults are the rounds, and the latency of each kind of view.
type viewResults struct {
	rounds  []applied
	latency map[string]latency
}

// measureViews has daemons stand still while changes are written and published, and then lets one after the other catch up.
func measureViews(ctx context.Context, b *bed, o options) (v viewResults, err error) {
	fmt.Fprintf(echo, "views: %d changes in transactions of 10, every second one of a new row\n", o.changes)
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return v, err
	}
	if err := b.exec(ctx, viewTables, `CREATE DATABASE bare`); err != nil {
		return v, err
	}
	capture, err := b.startCapture(o, false)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, stopProcess(capture)) }()
	bare, err := b.bareStore(ctx)
	if err != nil {
		return v, err
	}
	defer bare.Close(ctx) //nolint:errcheck // a measure's
	var keepers []*keeper
	defer func() { err = stopKeepers(ctx, keepers, err) }()
	for i, kind := range viewKinds {
		k, err := b.keep(ctx, o, i, kind)
		if err != nil {
			return v, err
		}
		keepers = append(keepers, k)
	}
	v.latency = map[string]latency{}
	for round := range o.rounds {
		a, err := b.applyRound(ctx, o, keepers, bare)
		if err != nil {
			return v, err
		}
		fmt.Fprintf(echo, "  round %d  bare upserts %5.1fk/s  bare SETs %5.1fk/s", round+1, a.bare/1000, a.sets/1000)
		for _, k := range keepers {
			r := a.kinds[k.name]
			fmt.Fprintf(echo, "  %s %5.1fk/s (CPU s per 1M: walrill %.1f, Postgres %.1f, Redis %.1f)", k.name, r.rate/1000, r.client, r.backend, r.redis)
		}
		if a.both, err = b.captureAndKeep(ctx, capture, keepers[0], o.changes); err != nil {
			return v, fmt.Errorf("capture and %s: %w", keepers[0].name, err)
		}
		fmt.Fprintf(echo, "  with capture %5.1fk/s\n", a.both/1000)
		end, err := b.lastCommit(ctx)
		if err != nil {
			return v, err
		}
		for _, k := range keepers[1:] { // the next round finds all of them at the same place
			if _, err := b.catchUp(ctx, k, o.changes, end); err != nil {
				return v, fmt.Errorf("%s: %w", k.name, err)
			}
		}
		v.rounds = append(v.rounds, a)
	}
	for _, k := range keepers {
		if v.latency[k.name], err = b.viewLatency(ctx, o, k); err != nil {
			return v, fmt.Errorf("latency of %s: %w", k.name, err)
		}
	}
	return v, nil
}

const viewPipeline = "benchviews"

func (b *bed) viewConfig(name, views string, dealt bool) (string, error) {
	file := filepath.Join(b.dir, name+".yaml")
	pipeline, streams := viewPipeline, "  orders: {tables: {public.orders: {}}}\n  known: {tables: {public.customers: {}, public.regions: {}}}\n"
	if dealt {
		pipeline, streams = keyPipeline, fmt.Sprintf("  dealt: {partitions: %d, tables: {public.orders: {}}}\n", keyPartitions)
	}
	text := fmt.Sprintf("pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams:\n%s%s", pipeline, b.pg.URL(database), b.redis.URL(), streams, views)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

func (b *bed) startCapture(o options, dealt bool) (*exec.Cmd, error) {
	file, err := b.viewConfig("capture", "", dealt)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(o.binary, "run", "-c", file, "--http", "", "--log-level", "warn")
	cmd.Stderr = os.Stderr
	return cmd, cmd.Start()
}

// bareStore is a table like the mirror's, in a database of its own.
func (b *bed) bareStore(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, b.pg.URL("bare"))
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, `CREATE TABLE seen (id bigint PRIMARY KEY, customer_id int, status text, total numeric(12,2), placed_at timestamptz, note text)`)
	if err == nil {
		_, err = conn.Exec(ctx, `INSERT INTO seen SELECT i, 1 + i % 1000, 'new', i * 1.25, now(), repeat('note ', 18) FROM generate_series(1, 20000) i`)
	}
	return conn, err
}

// applyRound writes changes and measures how fast the bare upserts and then each daemon take them.
func (b *bed) applyRound(ctx context.Context, o options, keepers []*keeper, bare *pgx.Conn) (a applied, err error) {
	from, err := b.lastCommit(ctx)
	if err != nil {
		return a, err
	}
	if _, err := b.writeOrders(ctx, viewPipeline, o.changes); err != nil {
		return a, err
	}
	end, err := b.lastCommit(ctx)
	if err != nil {
		return a, err
	}
	rows, err := b.orderRows(ctx, from)
	if err != nil {
		return a, err
	}
	if len(rows) != o.changes {
		return a, fmt.Errorf("%d entries came of %d changes", len(rows), o.changes)
	}
	if a.bare, err = bareUpserts(ctx, bare, rows); err != nil {
		return a, err
	}
	if a.sets, err = b.bareSets(ctx, rows); err != nil {
		return a, err
	}
	a.kinds = map[string]viewRun{}
	for _, k := range keepers {
		if a.kinds[k.name], err = b.catchUp(ctx, k, o.changes, end); err != nil {
			return a, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return a, nil
}

// writeOrders writes changes in transactions of ten and waits until they are published.
func (b *bed) writeOrders(ctx context.Context, pipeline string, changes int) (end uint64, err error) {
	if end, err = b.commitOrders(ctx, changes); err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); pause(ctx, 20*time.Millisecond) {
		if ok, err := b.published(ctx, pipeline, end); ok || err != nil {
			return end, err
		}
	}
	return 0, errors.New("the changes were not published within 60 s")
}

// commitOrders writes changes in transactions of ten, half of them of new rows, and returns the LSN behind them.
func (b *bed) commitOrders(ctx context.Context, changes int) (end uint64, err error) {
	err = b.exec(ctx, `SET synchronous_commit = off`, fmt.Sprintf(`DO $$
		DECLARE top bigint := (SELECT max(id) FROM orders);
		BEGIN FOR t IN 1..%d LOOP
			INSERT INTO orders SELECT top + i, 1 + (top + i) %% 1000, 'new', i * 1.25, clock_timestamp(), repeat('note ', 18) FROM generate_series(1, 5) i;
			UPDATE orders SET status = 'paid', total = total + 1, placed_at = clock_timestamp() WHERE id IN (SELECT 1 + (t * 7919 + i * 1009) %% top FROM generate_series(1, 5) i);
			top := top + 5; COMMIT;
		END LOOP; END $$`, changes/10), `RESET synchronous_commit`)
	if err != nil {
		return 0, err
	}
	lsn, err := b.lsn(ctx)
	if err != nil {
		return 0, err
	}
	position, err := change.ParseLSN(lsn)
	return uint64(position), err
}

// lastCommit is the last entry's position in the stream of orders.
func (b *bed) lastCommit(ctx context.Context) (event.Position, error) {
	top, err := b.rdb.XRevRangeN(ctx, "orders", "+", "-", 1).Result()
	if err != nil {
		return event.Position{}, err
	}
	return event.ParseID(top[0].ID)
}

// orderRows are the rows of the entries behind a position, as the arguments of an upsert.
func (b *bed) orderRows(ctx context.Context, after event.Position) (rows [][]any, err error) {
	for start := after.ID(); ; {
		entries, err := b.rdb.XRangeN(ctx, "orders", "("+start, "+", 5000).Result()
		if err != nil || len(entries) == 0 {
			return rows, err
		}
		for _, e := range entries {
			values := map[string]json.RawMessage{}
			if err := json.Unmarshal([]byte(e.Values["data"].(string)), &values); err != nil {
				return nil, err
			}
			row := make([]any, len(orderColumns))
			for i, c := range orderColumns {
				row[i] = strings.Trim(string(values[c]), `"`)
			}
			rows = append(rows, row)
		}
		start = entries[len(entries)-1].ID
	}
}

// bareUpserts is the ceiling: batches of the projector's size, one statement a row, all of a batch in one round trip and one transaction.
func bareUpserts(ctx context.Context, conn *pgx.Conn, rows [][]any) (rate float64, err error) {
	const upsert = `INSERT INTO seen VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET
		customer_id = excluded.customer_id, status = excluded.status, total = excluded.total, placed_at = excluded.placed_at, note = excluded.note`
	if _, err := conn.Prepare(ctx, "upsert", upsert); err != nil {
		return 0, err
	}
	start := time.Now()
	for from := 0; from < len(rows); from += viewBatch {
		batch := &pgx.Batch{}
		for _, row := range rows[from:min(from+viewBatch, len(rows))] {
			batch.Queue("upsert", row...)
		}
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return tx.SendBatch(ctx, batch).Close() })
		if err != nil {
			return 0, err
		}
	}
	return float64(len(rows)) / time.Since(start).Seconds(), nil
}

// bareSets is the ceiling of documents: one SET a row, as many in a round trip as in the other batches.
func (b *bed) bareSets(ctx context.Context, rows [][]any) (rate float64, err error) {
	keys, values := make([]string, len(rows)), make([][]byte, len(rows))
	for i, row := range rows {
		keys[i] = fmt.Sprintf("bare:%v", row[0])
		if values[i], err = json.Marshal(row); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for from := 0; from < len(rows); from += viewBatch {
		pipe := b.rdb.Pipeline()
		for i := from; i < min(from+viewBatch, len(rows)); i++ {
			pipe.Set(ctx, keys[i], values[i], 0)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return 0, err
		}
	}
	return float64(len(rows)) / time.Since(start).Seconds(), nil
}

// captureAndKeep has nothing captured while changes are written, and then lets the daemon that captures and the one that keeps a
// view go on together.
func (b *bed) captureAndKeep(ctx context.Context, capture *exec.Cmd, k *keeper, changes int) (rate float64, err error) {
	if err := capture.Process.Signal(syscall.SIGSTOP); err != nil {
		return 0, err
	}
	end, err := b.commitOrders(ctx, changes)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := errors.Join(capture.Process.Signal(syscall.SIGCONT), k.signal(syscall.SIGCONT)); err != nil {
		return 0, err
	}
	// The last commit's own LSN is a little below the end of the WAL, which only the stream knows.
	for ; ; pause(ctx, 10*time.Millisecond) {
		if ok, err := b.published(ctx, viewPipeline, end); err != nil || time.Since(start) > 60*time.Second {
			return 0, errors.Join(err, errors.New("the changes were not published"))
		} else if !ok {
			continue
		}
		last, err := b.lastCommit(ctx)
		if err == nil {
			err = k.reaches(ctx, last.Commit+1)
		}
		return float64(changes) / time.Since(start).Seconds(), errors.Join(err, k.signal(syscall.SIGSTOP))
	}
}
