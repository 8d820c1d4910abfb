package main

import (
	"bytes"
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

// viewKind is a view that is measured, each kept by a daemon of its own in a database of its own.
type viewKind struct{ name, yaml string }

var viewKinds = []viewKind{
	{"mirror", "  seen: {mirror: public.orders}\n"},
	{"two joins", `  seen:
    key: id
    query: |
      SELECT o.id, o.status, o.total, c.name AS customer, r.name AS region
      FROM orders o JOIN customers c ON c.id = o.customer_id JOIN regions r ON r.id = c.region_id
`},
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

// applied is what one round took of the store: changes a second of the bare upserts, of each kind of view, and of the first
// kind together with capturing the changes.
type applied struct {
	bare  float64
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

// keeper is a running daemon that keeps one kind of view.
type keeper struct {
	viewKind
	cmd    *exec.Cmd
	store  *pgx.Conn
	output bytes.Buffer
}

func (k *keeper) signal(s os.Signal) error { return k.cmd.Process.Signal(s) }

// measureViews has daemons stand still while changes are written and published, and then lets one after the other catch up.
func measureViews(ctx context.Context, b *bed, o options) (v viewResults, err error) {
	fmt.Fprintf(echo, "views: %d changes in transactions of 10, every second one of a new row\n", o.changes)
	if err := b.rdb.FlushAll(ctx).Err(); err != nil {
		return v, err
	}
	if err := b.exec(ctx, viewTables, `CREATE DATABASE bare`); err != nil {
		return v, err
	}
	capture, err := b.startCapture(o)
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
	defer func() {
		for _, k := range keepers {
			if stopErr := errors.Join(k.signal(syscall.SIGCONT), stopProcess(k.cmd)); stopErr != nil || err != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w\n%s", k.name, stopErr, k.output.String()))
			}
			k.store.Close(ctx) //nolint:errcheck // a measure's
		}
	}()
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
		fmt.Fprintf(echo, "  round %d  bare upserts %5.1fk/s", round+1, a.bare/1000)
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

func (b *bed) viewConfig(name, views string) (string, error) {
	file := filepath.Join(b.dir, name+".yaml")
	text := fmt.Sprintf("pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams:\n  orders: {tables: {public.orders: {}}}\n  known: {tables: {public.customers: {}, public.regions: {}}}\n%s",
		viewPipeline, b.pg.URL(database), b.redis.URL(), views)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

func (b *bed) startCapture(o options) (*exec.Cmd, error) {
	file, err := b.viewConfig("capture", "")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(o.binary, "run", "-c", file, "--http", "", "--log-level", "warn")
	cmd.Stderr = os.Stderr
	return cmd, cmd.Start()
}

// keep starts a daemon for one kind of view, waits until the view is complete, and has it stand still.
func (b *bed) keep(ctx context.Context, o options, i int, kind viewKind) (*keeper, error) {
	k := &keeper{viewKind: kind}
	name := fmt.Sprintf("store_%d", i)
	if err := b.exec(ctx, `CREATE DATABASE `+name); err != nil {
		return nil, err
	}
	file, err := b.viewConfig(name, fmt.Sprintf("views:\n  store: %q\n%s", b.pg.URL(name), kind.yaml))
	if err != nil {
		return nil, err
	}
	k.cmd = exec.Command(o.binary, "run", "-c", file, "--only", "views", "--http", "", "--log-level", "warn")
	k.cmd.Stdout, k.cmd.Stderr = &k.output, &k.output
	if k.store, err = pgx.Connect(ctx, b.pg.URL(name)); err != nil {
		return nil, err
	}
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	return k, errors.Join(k.live(ctx), k.signal(syscall.SIGSTOP))
}

// live waits until the view is complete.
func (k *keeper) live(ctx context.Context) error {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); pause(ctx, 50*time.Millisecond) {
		var live bool
		err := k.store.QueryRow(ctx, `SELECT state = 'live' FROM walrill.views`).Scan(&live)
		if live {
			return nil
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) && !strings.Contains(err.Error(), "42P01") {
			return err
		}
	}
	return fmt.Errorf("%s: the view was not complete within 60 s\n%s", k.name, k.output.String())
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
	if err := b.writeOrders(ctx, o.changes); err != nil {
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
	a.kinds = map[string]viewRun{}
	for _, k := range keepers {
		if a.kinds[k.name], err = b.catchUp(ctx, k, o.changes, end); err != nil {
			return a, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return a, nil
}

// writeOrders writes changes in transactions of ten and waits until they are published.
func (b *bed) writeOrders(ctx context.Context, changes int) error {
	end, err := b.commitOrders(ctx, changes)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); pause(ctx, 20*time.Millisecond) {
		if ok, err := b.published(ctx, viewPipeline, end); ok || err != nil {
			return err
		}
	}
	return errors.New("the changes were not published within 60 s")
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

// catchUp lets a daemon go on until its view has the last change, and has it stand still again.
func (b *bed) catchUp(ctx context.Context, k *keeper, changes int, end event.Position) (r viewRun, err error) {
	var backend int
	err = k.store.QueryRow(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'walrill views%'`).Scan(&backend)
	if err != nil {
		return r, err
	}
	client, server, redis := processCPU(k.cmd.Process.Pid), processCPU(backend), processCPU(b.redis.Pid())
	start := time.Now()
	if err := errors.Join(k.signal(syscall.SIGCONT), k.reaches(ctx, end.Commit+1)); err != nil {
		return r, err
	}
	took := time.Since(start).Seconds()
	perMillion := func(pid int, before time.Duration) float64 {
		return (processCPU(pid) - before).Seconds() / float64(changes) * 1e6
	}
	return viewRun{float64(changes) / took, perMillion(k.cmd.Process.Pid, client), perMillion(backend, server), perMillion(b.redis.Pid(), redis)}, k.signal(syscall.SIGSTOP)
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

// reaches waits until the view's position, as it is written with its rows, has reached a clock.
func (k *keeper) reaches(ctx context.Context, clock uint64) error {
	for deadline := time.Now().Add(120 * time.Second); time.Now().Before(deadline); pause(ctx, 10*time.Millisecond) {
		var position int64
		if err := k.store.QueryRow(ctx, `SELECT (lsn - '0/0')::bigint FROM walrill.pipelines`).Scan(&position); err != nil {
			return err
		}
		if uint64(position) >= clock {
			return nil
		}
	}
	return errors.New("the view did not catch up within two minutes")
}

// viewLatency is how long a commit takes, from the moment that COMMIT is sent, until the view has it.
func (b *bed) viewLatency(ctx context.Context, o options, k *keeper) (l latency, err error) {
	fmt.Fprintf(echo, "latency of %d single commits to %s\n", o.latencies, k.name)
	if err := k.signal(syscall.SIGCONT); err != nil {
		return l, err
	}
	watch, err := pgx.Connect(ctx, k.store.Config().ConnString())
	if err != nil {
		return l, err
	}
	defer watch.Close(ctx) //nolint:errcheck // a measure's
	const seen = `SELECT EXISTS (SELECT FROM seen WHERE id = $1 AND status = $2)`
	var took []time.Duration
	for i := range o.latencies + 1 {
		id, status := int64(i%1000+1), fmt.Sprintf("%s %d", k.name, i)
		tx, err := b.conn.Begin(ctx)
		if err != nil {
			return l, err
		}
		if _, err := tx.Exec(ctx, `UPDATE orders SET status = $2 WHERE id = $1`, id, status); err != nil {
			return l, err
		}
		pause(ctx, 10*time.Millisecond) // idle, as the measure says
		sent := time.Now()
		if err := tx.Commit(ctx); err != nil {
			return l, err
		}
		for found := false; !found; {
			if err := watch.QueryRow(ctx, seen, id, status).Scan(&found); err != nil {
				return l, err
			}
			if time.Since(sent) > 30*time.Second {
				return l, errors.New("the view did not get the change within 30 s")
			}
			if !found {
				pause(ctx, 200*time.Microsecond)
			}
		}
		if i > 0 { // the first one waits for whatever the daemon missed while it stood still
			took = append(took, time.Since(sent))
		}
	}
	return latencyOf(took), k.signal(syscall.SIGSTOP)
}
