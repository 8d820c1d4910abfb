package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
)

// StandbyOptions says how a standby differs from its primary.
type StandbyOptions struct {
	Settings map[string]string // over the primary's and those that make it a standby
	// KeepSlots leaves the primary's slots in the copy, as a copy of its files does that is not
	// made by pg_basebackup. They are as old as the copy.
	KeepSlots bool
	NoSync    bool // synchronise no slots
}

// StandbySlot is the physical slot on the primary that its standby streams from.
const StandbySlot = "standby"

// Standby makes a streaming standby from a cold copy of the cluster, which is down for a moment,
// and starts it. Its walreceiver holds a physical slot, StandbySlot, and reports back, and from
// Postgres 17 on logical slots that were made with `failover` are synchronised.
func (p *Postgres) Standby(ctx context.Context, o StandbyOptions) (*Postgres, error) {
	s, err := p.standby(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("make a standby: %w", err)
	}
	return s, nil
}

func (p *Postgres) standby(ctx context.Context, o StandbyOptions) (*Postgres, error) {
	err := withConn(ctx, p.SocketURL("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true)
			WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, StandbySlot)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &Postgres{bin: p.bin, user: p.user, version: p.version}
	if err := s.makeDirs(); err != nil {
		s.Stop()
		return nil, err
	}
	err = p.copyTo(ctx, s)
	if err == nil {
		err = s.beStandby(p, o)
	}
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// copyTo copies the files of the cluster while it is down.
func (p *Postgres) copyTo(ctx context.Context, s *Postgres) error {
	if err := p.Shutdown(); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", p.data()+"/.", s.data()).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("copy the cluster: %w: %s", err, out)
	}
	return errors.Join(err, p.Start(ctx))
}

// beStandby turns the copy of a primary into its standby.
func (s *Postgres) beStandby(p *Postgres, o StandbyOptions) (err error) {
	if s.port, err = freePort(); err != nil {
		return err
	}
	if !o.KeepSlots {
		slots, err := filepath.Glob(filepath.Join(s.data(), "pg_replslot", "*"))
		if err != nil {
			return err
		}
		for _, slot := range slots {
			if err := os.RemoveAll(slot); err != nil {
				return err
			}
		}
	}
	signal := filepath.Join(s.data(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		return err
	}
	if err := s.user.own(signal); err != nil {
		return err
	}
	settings := maps.Clone(p.settings)
	settings["primary_conninfo"] = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres", p.port)
	settings["primary_slot_name"] = StandbySlot
	settings["hot_standby_feedback"] = "on"
	if s.version >= 17 && !o.NoSync && !o.KeepSlots {
		settings["sync_replication_slots"] = "on"
	}
	maps.Copy(settings, o.Settings)
	return s.configure(settings)
}

// Promote ends recovery and returns when the server takes writes.
func (p *Postgres) Promote(ctx context.Context) error {
	return withConn(ctx, p.SocketURL("postgres"), func(conn *pgx.Conn) error {
		var done bool
		if err := conn.QueryRow(ctx, `SELECT pg_promote(true, 60)`).Scan(&done); err != nil || !done {
			return fmt.Errorf("promote the standby: done %t, %w", done, err)
		}
		return nil
	})
}

// NewStandby is Standby for a test; it is stopped at cleanup.
func NewStandby(t testing.TB, p *Postgres, o StandbyOptions) *Postgres {
	t.Helper()
	s, err := p.Standby(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}
