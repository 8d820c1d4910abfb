package capture

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// barrier waits until every transaction that had begun to write when it was made has ended.
// The stream of this session may never deliver those: it was delivered by an earlier session, or wrote before the table
// joined the publication. As long as such a one is invisible, a chunk would show the rows
// as they were before it, and nothing would correct that.
type barrier struct{ xid uint64 }

// newBarrier takes a transaction id: all that were given out before are below it.
// The snapshot's xmax would not do, there can be running ones above it.
func newBarrier(ctx context.Context, conn *pgx.Conn) (barrier, error) {
	var text string
	if err := conn.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&text); err != nil {
		return barrier{}, fmt.Errorf("take a transaction id: %w", err)
	}
	xid, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return barrier{}, fmt.Errorf("take a transaction id: %w", err)
	}
	return barrier{xid}, nil
}

// blocker is a transaction that a barrier waits for.
type blocker struct {
	xid  uint64
	pid  int32 // 0: a prepared transaction, or a session that our role may not see
	who  string
	age  time.Duration
	what string
}

// blockers are the transactions of this database that are still to end.
func (b barrier) blockers(ctx context.Context, conn *pgx.Conn) (s snapshot, list []blocker, err error) {
	if s, err = currentSnapshot(ctx, conn); err != nil || s.xmin >= b.xid {
		return s, nil, err
	}
	rows, err := conn.Query(ctx, `
		SELECT x.xid::text, coalesce(a.pid, 0), coalesce(nullif(a.application_name, ''), 'prepared transaction ' || p.gid, ''),
		       coalesce(extract(epoch FROM now() - coalesce(a.xact_start, p.prepared)), 0)::float8,
		       coalesce(a.wait_event, a.state, '')
		FROM pg_snapshot_xip(pg_current_snapshot()) x(xid)
		LEFT JOIN pg_stat_activity a ON a.backend_xid = x.xid::xid
		LEFT JOIN pg_prepared_xacts p ON p.transaction = x.xid::xid
		WHERE x.xid < $1::text::xid8 AND coalesce(a.datname, p.database, current_database()) = current_database()`, strconv.FormatUint(b.xid, 10))
	if err != nil {
		return s, nil, fmt.Errorf("look for running transactions: %w", err)
	}
	list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (blocker, error) {
		var k blocker
		var xid string
		var seconds float64
		err := row.Scan(&xid, &k.pid, &k.who, &seconds, &k.what)
		k.age = time.Duration(seconds * float64(time.Second))
		if err == nil {
			k.xid, err = strconv.ParseUint(xid, 10, 64)
		}
		return k, err
	})
	if err != nil {
		return s, nil, fmt.Errorf("look for running transactions: %w", err)
	}
	return s, list, nil
}

// waitsFor says whom, in one line.
func waitsFor(list []blocker) string {
	text := fmt.Sprintf("transaction %d", list[0].xid)
	if list[0].who != "" {
		text += " of " + list[0].who
	}
	if list[0].pid != 0 {
		text += fmt.Sprintf(" (pid %d)", list[0].pid)
	}
	if n := len(list) - 1; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text + " to end"
}

const (
	barrierPoll = 100 * time.Millisecond
	barrierSay  = 30 * time.Second
)

// wait returns when none is left, and says whom it waits for: soon, and then every now and then.
// Each snapshot that it takes on the way is shown to seen, with whom it still waits for.
func (b barrier) wait(ctx context.Context, conn *pgx.Conn, table string, log *slog.Logger, seen func(snapshot, []blocker) error) error {
	started := time.Now()
	next := started.Add(time.Second)
	for {
		s, list, err := b.blockers(ctx, conn)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := seen(s, list); err != nil {
			return err
		}
		if now := time.Now(); now.After(next) {
			for _, k := range list {
				log.Info("the backfill waits for a transaction that was open when it began", "table", table,
					"xid", k.xid, "pid", k.pid, "application", k.who, "age", k.age, "state", k.what)
			}
			next = now.Add(barrierSay)
		}
		if !pause(ctx, barrierPoll) {
			return ctx.Err()
		}
	}
}

// pause waits and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
