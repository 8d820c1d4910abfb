package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// slot looks at the slot, and whether it is there when it has to be.
func (c *checker) slot(ctx context.Context, pub publication) {
	subject := "slot " + c.opts.Slot
	state, err := readSlot(ctx, c.conn, c.opts.Slot)
	if errors.Is(err, ErrNoSlot) {
		c.out.Info.SlotUsed = pub.comment == c.usedMark()
		if c.out.Info.SlotUsed {
			c.lost(subject, &SlotLostError{Slot: c.opts.Slot, Gone: true})
			return
		}
		c.ok(subject, "walrill makes it when it starts")
		return
	}
	if err == nil {
		c.out.Info.Confirmed, c.out.Slot = state.Confirmed, &state
		err = c.checkSlot(ctx, c.conn, state)
	}
	if err == nil && state.WALStatus == "lost" {
		c.lost(subject, c.slotLost(state, Known{}))
		return
	}
	if err != nil {
		c.found(subject, err)
		return
	}
	c.out.Info.SlotUsed = pub.comment == c.usedMark()
	kept := float64(state.RetainedBytes()) / (1 << 20)
	switch state.WALStatus {
	case "unreserved":
		c.fail(subject, "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf(); -- and start walrill",
			"Postgres may remove WAL that it needs at the next checkpoint (%.0f MiB are kept, more than max_slot_wal_keep_size)", kept)
	case "extended":
		c.warn(subject, "walrill run   # or see `walrill status` for what it waits for", "Postgres keeps %.0f MiB of WAL for it, more than max_wal_size", kept)
	default:
		c.ok(subject, "%s, Postgres keeps %.1f MiB of WAL for it; %s", state.WALStatus, kept, c.holder(ctx, state.ActivePID))
	}
	c.failover(ctx, subject)
}

// RepairFix is what to do about a lost slot when source.on_slot_loss is backfill.
const RepairFix = "walrill run   # repairs it, as source.on_slot_loss says: the tables are emptied in the streams and read again"

// lost is for a slot that is, which the next start repairs when it is told to.
func (c *checker) lost(subject string, err *SlotLostError) {
	if !c.opts.Repairs {
		c.found(subject, err)
		return
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	c.warn(subject, RepairFix, "%s", strings.TrimPrefix(text, subject+": "))
}

// holder is who streams from the slot.
func (c *checker) holder(ctx context.Context, pid int32) string {
	if pid == 0 {
		return "nobody streams from it now"
	}
	return "in use by " + holder(ctx, c.conn, pid)
}

// holder describes a process of Postgres that streams from a slot.
func holder(ctx context.Context, conn *pgx.Conn, pid int32) string {
	var who string
	err := conn.QueryRow(ctx, `SELECT format('%s%s', coalesce(nullif(application_name, ''), usename::text), ' at ' || host(client_addr)) FROM pg_stat_activity WHERE pid = $1`, pid).Scan(&who)
	if err != nil {
		return fmt.Sprintf("process %d of Postgres", pid)
	}
	return fmt.Sprintf("process %d of Postgres, %s", pid, who)
}

// failover says what becomes of the slot when a standby takes over.
func (c *checker) failover(ctx context.Context, subject string) {
	var standbys int
	var failover bool
	var synchronized string
	err := c.conn.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical'), coalesce((to_jsonb(s) ->> 'failover')::bool, false),
		       coalesce(current_setting('synchronized_standby_slots', true), '')
		FROM pg_replication_slots s WHERE slot_name = $1`, c.opts.Slot).Scan(&standbys, &failover, &synchronized)
	switch {
	case err != nil:
		c.found(subject, fmt.Errorf("look at the slot's failover: %w", err))
	case standbys == 0:
	case c.version < 170000:
		c.warn(subject, "SELECT slot_name FROM pg_replication_slots; -- on the standby, after it was promoted", "a standby that is promoted does not have the slot: Postgres 17 and later keep it there")
	case !failover:
		c.warn(subject, fmt.Sprintf(`psql "dbname=%s replication=database" -c 'ALTER_REPLICATION_SLOT %s (FAILOVER true)'   # while walrill is stopped`, c.config.Database, c.opts.Slot),
			"it is not kept on standbys: after a failover it is gone, and with it the changes")
	case synchronized == "":
		c.warn(subject, "ALTER SYSTEM SET synchronized_standby_slots = '<the standbys'' slots>'; SELECT pg_reload_conf();",
			"walrill may read changes that no standby has yet; on the standby, sync_replication_slots and hot_standby_feedback must be on, and a database be named in primary_conninfo")
	}
}
