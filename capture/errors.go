package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/change"
)

// SetupError says that Postgres is not set up for the pipeline, or no longer
// is, and what to do about it. Trying again without that is of no use.
type SetupError struct {
	Problem string
	Fix     string
	Err     error // what Postgres said, if it said something
}

func (e *SetupError) Error() string {
	s := e.Problem
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Fix != "" {
		s += "\n  fix: " + e.Fix
	}
	return s
}

func (e *SetupError) Unwrap() error { return e.Err }

// Permanent says that trying again is of no use.
func (e *SetupError) Permanent() bool { return true }

// SlotBusyError says that another process streams from the slot: this one is
// a standby until the slot is free.
type SlotBusyError struct {
	Slot string
	Err  error
}

func (e *SlotBusyError) Error() string { return fmt.Sprintf("slot %s is in use: %v", e.Slot, e.Err) }
func (e *SlotBusyError) Unwrap() error { return e.Err }

// Standby says that another instance is at work.
func (e *SlotBusyError) Standby() bool { return true }

// errStandby refuses a connection to a server in recovery.
var errStandby = errors.New("the server is a standby")

// RecoveryError says that source.url leads to no primary but to a standby. It may be promoted, or the
// name may soon lead to the new primary, so it is waited for.
type RecoveryError struct{ Err error }

func (e *RecoveryError) Error() string {
	return "source.url leads to a standby and to no primary; waiting until it is promoted: " + e.Err.Error()
}

func (e *RecoveryError) Unwrap() error { return e.Err }

// InRecovery says that there is a server, but no primary yet.
func (e *RecoveryError) InRecovery() bool { return true }

// SlotLostError says that the streams were fed from a slot that is gone or that Postgres
// has invalidated: what changed since they were left is not in them.
type SlotLostError struct {
	Slot     string
	Gone     bool       // there is no slot of the name; otherwise it cannot be used any more
	Reason   string     // why Postgres has invalidated it, as far as it says
	From     change.LSN // what committed from here on may be missing; 0 when the streams do not say
	Promoted bool       // the server was a standby when the streams were left, and had no copy of the slot
}

func (e *SlotLostError) Error() string {
	since := "it was last streamed from"
	if e.From != 0 {
		since = e.From.String()
	}
	s := fmt.Sprintf("slot %s is lost: Postgres has removed WAL that it needed", e.Slot)
	switch {
	case e.Gone && e.Promoted:
		s = fmt.Sprintf("slot %s is gone: this server was promoted and had no synchronised copy of it", e.Slot)
	case e.Gone:
		s = fmt.Sprintf("slot %s is gone", e.Slot)
	case e.Reason != "" && e.Reason != "wal_removed":
		s = fmt.Sprintf("slot %s is lost: Postgres has invalidated it (%s)", e.Slot, e.Reason)
	}
	s += fmt.Sprintf(": what was changed since %s is not in the streams", since)
	return s + "\n  fix: run `walrill adopt` to go on from now with that gap, in a new epoch; or set source.on_slot_loss to backfill and start again: " +
		"the tables are then emptied in the streams and read again" + e.prevention()
}

// prevention is what keeps it from happening again.
func (e *SlotLostError) prevention() string {
	switch {
	case e.Promoted:
		return "; against the next time: sync_replication_slots on the standbys (Postgres 17), see docs/operations.md"
	case e.Gone:
		return ""
	case e.Reason == "idle_timeout":
		return "; raise idle_replication_slot_timeout against the next time"
	case e.Reason == "" || e.Reason == "wal_removed":
		return "; raise max_slot_wal_keep_size against the next time"
	}
	return ""
}

// Permanent says that trying again is of no use.
func (e *SlotLostError) Permanent() bool { return true }

// SlotLost says that the slot is lost.
func (e *SlotLostError) SlotLost() bool { return true }

// SQLSTATE codes, from Postgres's manual, appendix A.
const (
	codeInsufficientPrivilege = "42501"
	codeObjectInUse           = "55006"
	codeDuplicateObject       = "42710"
	codeUndefinedObject       = "42704"
	codeUndefinedDatabase     = "3D000"
	codeConfigurationLimit    = "53400"
	codeNotInRepertoire       = "22021"
	codeUntranslatable        = "22P05"
	classAuthorization        = "28"
)

func pgCode(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// reachError is pgx's error of a connection on one line. Its own has a line for each attempt, of which one with TLS and one without often say the same.
type reachError struct{ *pgconn.ConnectError }

// reached gives a failed connection's error its one line.
func reached(err error) error {
	var failed *pgconn.ConnectError
	if errors.As(err, &failed) {
		return &reachError{failed}
	}
	return err
}

func (e *reachError) Error() string {
	first, rest, _ := strings.Cut(e.ConnectError.Error(), "\n")
	var said []string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !slices.Contains(said, line) && !strings.HasSuffix(line, "tls error: server refused TLS connection") {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return first
	}
	return first + " " + strings.Join(said, "; ")
}

func (e *reachError) Unwrap() error { return e.ConnectError }

// setupError tells an error that will not go away by itself from one that may.
func setupError(err error, opts *Options) error {
	if errors.Is(err, errStandby) {
		return &RecoveryError{err}
	}
	code := pgCode(err)
	var refused *reachError
	switch {
	case len(code) == 5 && code[:2] == classAuthorization:
		return &SetupError{Problem: "Postgres refuses the login", Err: err,
			Fix: "check user and password in source.url, and that the role has REPLICATION and pg_hba.conf lets it in"}
	case code == codeUndefinedDatabase && errors.As(err, &refused):
		c := refused.Config
		return &SetupError{Problem: "source.url names a database that does not exist", Err: err,
			Fix: fmt.Sprintf("createdb -h %s -p %d %s   # or correct source.url", c.Host, c.Port, c.Database)}
	case code == codeObjectInUse:
		return &SlotBusyError{opts.Slot, err}
	case code == codeInsufficientPrivilege && errors.As(err, &refused): // only a connection for replication needs a right of its own
		return &SetupError{Problem: "the role in source.url may not replicate", Err: err, Fix: fmt.Sprintf("ALTER ROLE %s REPLICATION;", quote(refused.Config.User))}
	case code == codeInsufficientPrivilege:
		return &SetupError{Problem: "the role in source.url lacks a right", Err: err,
			Fix: "ALTER ROLE <role> REPLICATION; and for each table: GRANT SELECT ON <table> TO <role>"}
	}
	return err
}

// undecodable gives an error of the walsender its fix when a value is what stops it: it is in the WAL, and asking again is of no use.
func undecodable(err error, slot string) error {
	switch pgCode(err) {
	case codeNotInRepertoire, codeUntranslatable:
		return &SetupError{Problem: "Postgres cannot send a change: it cannot write a value of it in UTF-8", Err: err,
			Fix: "mend the value in its table and go on behind the change, in a new epoch: " +
				fmt.Sprintf("SELECT pg_replication_slot_advance('%s', pg_current_wal_lsn()); then `walrill adopt`, `walrill run`, ", slot) +
				"and `walrill backfill start TABLE` for each table that was changed meanwhile"}
	}
	return err
}
