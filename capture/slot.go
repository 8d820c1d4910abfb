package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// SlotState is what Postgres says of the slot.
type SlotState struct {
	Plugin    string
	Database  string
	ActivePID int32      // 0 when nobody streams from it
	Confirmed change.LSN // confirmed_flush_lsn
	Restart   change.LSN // restart_lsn: WAL from here on is kept
	WALStatus string     // reserved, extended, unreserved, lost
	Reason    string     // why Postgres has invalidated it, since 16: wal_removed, rows_removed, idle_timeout …
	SafeBytes int64      // safe_wal_size: WAL that may still be written before the slot is in danger; -1 without a limit
	Current   change.LSN // pg_current_wal_lsn()
}

// RetainedBytes is how much WAL the slot makes Postgres keep.
func (s SlotState) RetainedBytes() int64 {
	if s.Restart == 0 || s.Current < s.Restart {
		return 0
	}
	return int64(s.Current - s.Restart)
}

// LagBytes is how much WAL lies behind the confirmed position.
func (s SlotState) LagBytes() int64 {
	if s.Current < s.Confirmed {
		return 0
	}
	return int64(s.Current - s.Confirmed)
}

// ErrNoSlot says that there is no slot of the name.
var ErrNoSlot = errors.New("the slot does not exist")

// readSlot returns ErrNoSlot when there is none of that name.
func readSlot(ctx context.Context, conn *pgx.Conn, slot string) (SlotState, error) {
	var s SlotState
	var confirmed, restart, current string
	err := conn.QueryRow(ctx, `
		SELECT coalesce(plugin, ''), coalesce(database, ''), coalesce(active_pid, 0),
		       coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text,
		       coalesce(wal_status, ''), coalesce(to_jsonb(s) ->> 'invalidation_reason', to_jsonb(s) ->> 'conflict_reason', ''), coalesce(safe_wal_size, -1),
		       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text
		FROM pg_replication_slots s WHERE slot_name = $1`, slot).
		Scan(&s.Plugin, &s.Database, &s.ActivePID, &confirmed, &restart, &s.WALStatus, &s.Reason, &s.SafeBytes, &current)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, ErrNoSlot
	}
	if err != nil {
		return s, fmt.Errorf("read slot %s: %w", slot, err)
	}
	var errs [3]error
	s.Confirmed, errs[0] = change.ParseLSN(confirmed)
	s.Restart, errs[1] = change.ParseLSN(restart)
	s.Current, errs[2] = change.ParseLSN(current)
	if err := errors.Join(errs[:]...); err != nil {
		return s, fmt.Errorf("read slot %s: %w", slot, err)
	}
	return s, nil
}

// Slot reads the slot's state over a connection of its own.
func (s *Source) Slot(ctx context.Context) (SlotState, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return SlotState{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	return readSlot(ctx, conn, s.opts.Slot)
}

// WatchSlot calls see with the slot's state now and after every interval,
// until ctx ends; sooner while there is no slot yet, which Prepare is about to
// make. It keeps one connection and opens another when that breaks.
func (s *Source) WatchSlot(ctx context.Context, interval time.Duration, see func(SlotState, error)) {
	var conn *pgx.Conn
	for {
		state, err := s.watchOnce(ctx, &conn)
		if ctx.Err() == nil {
			see(state, err)
		}
		wait := interval
		if errors.Is(err, ErrNoSlot) {
			wait = interval / 20
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(ctx)) // it only read
			}
			return
		}
	}
}

func (s *Source) watchOnce(ctx context.Context, conn **pgx.Conn) (SlotState, error) {
	if *conn == nil || (*conn).IsClosed() {
		c, err := s.connect(ctx)
		if err != nil {
			*conn = nil
			return SlotState{}, err
		}
		*conn = c
	}
	state, err := readSlot(ctx, *conn, s.opts.Slot)
	if err == nil {
		s.endangered.Store(state.WALStatus == "unreserved" || state.WALStatus == "lost")
	}
	return state, err
}

// ensureSlot makes the slot when it is missing and says whether it did. One
// that was streamed from is not made anew, unless the gap is adopted; then a lost one is dropped first.
func (s *Source) ensureSlot(ctx context.Context, conn *pgx.Conn, info *Info, known Known) (SlotState, bool, error) {
	state, err := readSlot(ctx, conn, s.opts.Slot)
	if err == nil && state.WALStatus == "lost" {
		if !s.opts.Adopt {
			return state, false, s.slotLost(state, known)
		}
		if err := s.dropSlot(ctx, conn); err != nil {
			return state, false, err
		}
		err = ErrNoSlot
	}
	created := false
	if errors.Is(err, ErrNoSlot) {
		if (info.SlotUsed || known.Complete != 0) && !s.opts.Adopt {
			return state, false, &SlotLostError{Slot: s.opts.Slot, Gone: true, From: known.Complete,
				Promoted: known.Timeline != 0 && known.Timeline != info.Timeline}
		}
		if created, err = s.createSlot(ctx, conn); err != nil {
			return state, false, err
		}
		state, err = readSlot(ctx, conn, s.opts.Slot)
	}
	if err != nil {
		return state, created, err
	}
	return state, created, s.checkSlot(ctx, conn, state)
}

// checkSlot refuses a slot that is somebody else's.
func (s *Source) checkSlot(ctx context.Context, conn *pgx.Conn, state SlotState) error {
	var database string
	if err := conn.QueryRow(ctx, `SELECT current_database()`).Scan(&database); err != nil {
		return fmt.Errorf("read the database's name: %w", err)
	}
	if state.Plugin != "pgoutput" || state.Database != database {
		return &SetupError{
			Problem: fmt.Sprintf("slot %s belongs to something else: plugin %q, database %q", s.opts.Slot, state.Plugin, state.Database),
			Fix:     "set source.slot to another name"}
	}
	return nil
}

// createSlot waits for the transactions that are running to end: a slot can
// only start where none is open.
func (s *Source) createSlot(ctx context.Context, conn *pgx.Conn) (bool, error) {
	s.opts.Log.Info("creating the slot; this waits for transactions that are open now", "slot", s.opts.Slot)
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return false, err
	}
	sql := `SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false)`
	if version >= 170000 {
		sql = `SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)` // failover
	}
	_, err = conn.Exec(ctx, sql, s.opts.Slot)
	switch pgCode(err) {
	case codeDuplicateObject: // another instance was quicker
		return false, nil
	case codeInsufficientPrivilege:
		return false, &SetupError{Problem: "cannot create slot " + s.opts.Slot, Err: err, Fix: fmt.Sprintf("ALTER ROLE %s REPLICATION;", quote(s.config.User))}
	case codeConfigurationLimit:
		return false, &SetupError{Problem: "cannot create slot " + s.opts.Slot, Err: err,
			Fix: "raise max_replication_slots in postgresql.conf and restart Postgres, or drop slots that nobody uses"}
	}
	if err != nil {
		return false, fmt.Errorf("create slot %s: %w", s.opts.Slot, err)
	}
	return true, nil
}

// Advance moves the slot on, nobody streaming from it, and returns where it is then.
func (s *Source) Advance(ctx context.Context, to change.LSN) (change.LSN, error) {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is done
	if _, err := conn.Exec(ctx, `SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)`, s.opts.Slot, to.String()); err != nil {
		return 0, fmt.Errorf("move slot %s to %s: %w", s.opts.Slot, to, err)
	}
	state, err := readSlot(ctx, conn, s.opts.Slot)
	return state.Confirmed, err
}

// dropSlot drops a slot that cannot be used any more.
func (s *Source) dropSlot(ctx context.Context, conn *pgx.Conn) error {
	s.opts.Log.Info("dropping the lost slot", "slot", s.opts.Slot)
	_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, s.opts.Slot)
	if err != nil && pgCode(err) != codeUndefinedObject {
		return fmt.Errorf("drop slot %s: %w", s.opts.Slot, err)
	}
	return nil
}

// slotLost describes a slot whose changes are gone.
func (s *Source) slotLost(state SlotState, known Known) *SlotLostError {
	return &SlotLostError{Slot: s.opts.Slot, Reason: state.Reason, From: cmp.Or(known.Complete, state.Confirmed)}
}
