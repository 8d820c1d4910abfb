package projector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// A WaitError says that a view has not reached an LSN in time, and how far it is; or that there is no such view.
type WaitError struct {
	View    string
	Problem string
	Known   bool // there is such a view
}

func (e *WaitError) Error() string { return e.Problem }

// Querier is what WaitFor asks: a pgx connection, pool or transaction in READ COMMITTED.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// WaitFor returns when every commit below lsn, such as a writer's
// pg_current_wal_lsn() after its commit, is in the view: what the same session reads from
// then on has them. Past the timeout it is a *WaitError. It returns the position of the view.
func WaitFor(ctx context.Context, store Querier, view string, lsn uint64, timeout time.Duration) (uint64, error) {
	var reached int64
	err := store.QueryRow(ctx, "SELECT (walrill.wait($1, '0/0'::pg_lsn + $2::bigint::numeric, $3::bigint * interval '1 microsecond') - '0/0')::bigint",
		view, int64(lsn), timeout.Microseconds()).Scan(&reached)
	if e := pgError(err); e != nil {
		switch e.Code {
		case "WR001":
			return 0, &WaitError{View: view, Problem: e.Message, Known: true}
		case "42P01":
			return 0, &WaitError{View: view, Problem: e.Message + "; " + e.Hint}
		case "42883", "3F000": // nothing of walrill
			return 0, &WaitError{View: view, Problem: "no views have been kept in this store yet: start `walrill run` first"}
		}
	}
	if err != nil {
		return 0, fmt.Errorf("wait for view %s: %w", view, err)
	}
	return uint64(reached), nil
}

// Connect opens a session of a view store, for WaitFor and the commands.
func Connect(ctx context.Context, url string) (*pgx.Conn, error) { return connect(ctx, url, "command") }

// Wait is WaitFor for who has the projector itself. A projector on standby asks the store.
func (p *Projector) Wait(ctx context.Context, view string, lsn uint64, timeout time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		p.mu.Lock()
		st, moved := p.status, p.moved
		p.mu.Unlock()
		if st.State != StateRunning {
			return p.waitStore(ctx, view, lsn)
		}
		reached, problem, known := st.reached(view)
		if known && problem == "" && reached >= lsn {
			epoch, err := inForce(ctx, p.opts.Epoch)
			if err != nil {
				return 0, fmt.Errorf("wait for view %s: %w", view, err)
			}
			if problem = behind(st.Clock, epoch); problem == "" {
				return reached, nil
			}
		}
		if !known && st.Views != nil {
			return 0, &WaitError{View: view, Problem: "walrill keeps no view " + view}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if problem == "" {
				problem = "at " + clock(reached)
			}
			if !known {
				return 0, &WaitError{View: view, Problem: "walrill keeps no view " + view}
			}
			return 0, &WaitError{View: view, Known: true,
				Problem: fmt.Sprintf("view %s has not reached %s within %v: it is %s", view, clock(lsn), timeout, problem)}
		}
	}
}

// reached is the LSN of a view's position, or why it has none.
func (st *Status) reached(view string) (lsn uint64, problem string, known bool) {
	for _, v := range st.Views {
		if v.Name != view {
			continue
		}
		_, lsn = event.SplitClock(st.Clock)
		switch {
		case st.Gap != "":
			return lsn, "being filled anew: " + st.Gap, true
		case v.State != stateLive:
			return lsn, v.State, true
		}
		return lsn, "", true
	}
	return 0, "", false
}

func (p *Projector) waitStore(ctx context.Context, view string, lsn uint64) (uint64, error) {
	conn, err := Connect(ctx, p.opts.StoreURL)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	deadline, _ := ctx.Deadline()
	reached, err := WaitFor(ctx, conn, view, lsn, time.Until(deadline)-10*time.Millisecond)
	if errors.Is(err, context.DeadlineExceeded) {
		err = &WaitError{View: view, Problem: fmt.Sprintf("view %s has not reached %s", view, clock(lsn)), Known: true}
	}
	return reached, err
}
