package capture

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
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

// SQLSTATE codes, from Postgres's manual, appendix A.
const (
	codeInsufficientPrivilege = "42501"
	codeObjectInUse           = "55006"
	codeDuplicateObject       = "42710"
	codeUndefinedObject       = "42704"
	codeObjectNotInState      = "55000"
	codeUndefinedDatabase     = "3D000"
	codeConfigurationLimit    = "53400"
	classAuthorization        = "28"
)

func pgCode(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// setupError tells an error that will not go away by itself from one that may.
func setupError(err error, opts *Options) error {
	code := pgCode(err)
	switch {
	case len(code) == 5 && code[:2] == classAuthorization:
		return &SetupError{Problem: "Postgres refuses the login", Err: err,
			Fix: "check user and password in source.url, and that the role has REPLICATION and pg_hba.conf lets it in"}
	case code == codeUndefinedDatabase:
		return &SetupError{Problem: "source.url names a database that does not exist", Err: err, Fix: "create it or correct source.url"}
	case code == codeObjectInUse:
		return &SlotBusyError{opts.Slot, err}
	case code == codeInsufficientPrivilege:
		return &SetupError{Problem: "the role in source.url lacks a right", Err: err,
			Fix: "ALTER ROLE <role> REPLICATION; and for each table: GRANT SELECT ON <table> TO <role>"}
	}
	return err
}
