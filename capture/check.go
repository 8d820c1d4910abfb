package capture

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// How bad a finding is.
const (
	LevelOK      = "ok"
	LevelWarning = "warning" // it works, and here is what to know or what can go wrong
	LevelError   = "error"   // walrill would not start, or would leave something out
)

// Finding is what Check found out about one subject. Fix is what mends it, ready to be pasted:
// SQL, or a command line.
type Finding struct{ Level, Subject, Finding, Fix string }

// Diagnosis is what Check found.
type Diagnosis struct {
	Findings []Finding
	Info     Info               // as far as it could be read; SystemID is empty when nothing could
	Slot     *SlotState         // nil when there is none, or it could not be read
	Asked    bool               // Postgres was reached, so that a slot that is not there does not exist
	Existing []*change.Relation // every table of the database
	Missing  []string           // tables that the configuration names and that are not among Existing
}

// Check looks at everything that Prepare and Open need, and changes nothing. It never fails: what
// cannot be found out is a finding.
func (s *Source) Check(ctx context.Context) *Diagnosis {
	c := &checker{Source: s}
	conn, err := s.connect(ctx)
	if err != nil {
		c.unreachable("Postgres", err)
		return &c.out
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	c.conn = conn
	// Read-only in earnest, and not waiting for somebody's lock.
	if _, err := conn.PgConn().Exec(ctx, "SET default_transaction_read_only = on; SET lock_timeout = '5s'").ReadAll(); err != nil {
		c.found("Postgres", err)
		return &c.out
	}
	if !c.server(ctx) {
		return &c.out
	}
	c.settings(ctx)
	c.identity(ctx)
	tables := c.tables(ctx)
	pub := c.publication(ctx, tables)
	c.slot(ctx, pub)
	c.waits(ctx)
	return &c.out
}

type checker struct {
	*Source
	out       Diagnosis
	conn      *pgx.Conn
	version   int
	role      string
	streaming bool
}

func (c *checker) ok(subject, format string, args ...any) {
	c.out.Findings = append(c.out.Findings, Finding{LevelOK, subject, fmt.Sprintf(format, args...), ""})
}

func (c *checker) warn(subject, fix, format string, args ...any) {
	c.out.Findings = append(c.out.Findings, Finding{LevelWarning, subject, fmt.Sprintf(format, args...), fix})
}

func (c *checker) fail(subject, fix, format string, args ...any) {
	c.out.Findings = append(c.out.Findings, Finding{LevelError, subject, fmt.Sprintf(format, args...), fix})
}

// found is for an error, which may bring its fix along.
func (c *checker) found(subject string, err error) {
	var setup *SetupError
	text, fix := err.Error(), ""
	if errors.As(err, &setup) {
		text, fix = setup.Problem, setup.Fix
		if setup.Err != nil {
			text += ": " + setup.Err.Error()
		}
	}
	for _, before := range []string{"\n  fix: ", "; fix: "} { // the second is how the mapping writes it
		if fix == "" {
			text, fix, _ = strings.Cut(text, before)
		}
	}
	// What can be pasted comes first, and a table that is the subject need not be named again.
	if strings.HasPrefix(subject, "table ") {
		text = strings.Replace(text, subject+": ", "", 1)
	}
	c.fail(subject, strings.Replace(fix, "; or ", ";\n-- or ", 1), "%s", text)
}

var refusedHost = regexp.MustCompile(`no pg_hba.conf entry for (?:replication connection from )?host "([^"]+)"`)

// unreachable is for a connection that failed.
func (c *checker) unreachable(subject string, err error) {
	if m := refusedHost.FindStringSubmatch(err.Error()); m != nil {
		bits := "32"
		if strings.Contains(m[1], ":") {
			bits = "128"
		}
		c.fail(subject, fmt.Sprintf("echo 'host %s %s %s/%s scram-sha-256' >> pg_hba.conf   # on the server, where SHOW hba_file says; then SELECT pg_reload_conf();",
			c.config.Database, c.config.User, m[1], bits), "%v", err)
		return
	}
	var setup *SetupError
	if errors.As(err, &setup) {
		c.found(subject, err)
		return
	}
	if errors.Is(err, errStandby) {
		c.fail(subject, "SELECT pg_promote(); -- there, if it is to be the primary; otherwise add the primary to the hosts in source.url", "%v", err)
		return
	}
	fix := fmt.Sprintf("pg_isready -h %s -p %d   # start it there, or correct source.url", c.config.Host, c.config.Port)
	if pgCode(err) == "53300" {
		fix = "ALTER SYSTEM SET max_connections = 200; -- then restart Postgres, or close connections"
	}
	c.fail(subject, fix, "%v", err)
}

// server looks at what walrill cannot do without. It reports whether the rest can be looked at.
func (c *checker) server(ctx context.Context) bool {
	v, err := readServer(ctx, c.conn)
	if err != nil {
		c.found("Postgres", err)
		return false
	}
	c.version, c.role, c.out.Asked = v.version, v.role, true
	var name, database, encoding string
	if err := c.conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_database(), current_setting('server_encoding')`).Scan(&name, &database, &encoding); err != nil {
		c.found("Postgres", err)
		return false
	}
	if encoding == "SQL_ASCII" {
		c.warn("encoding", fmt.Sprintf("createdb -E UTF8 -T template0 %s_utf8   # and move the data there, each value in UTF-8", database),
			"database %s is SQL_ASCII, so Postgres does not know what its bytes mean: the first value that is not UTF-8 stops walrill", database)
	}
	problems := v.problems()
	if len(problems) == 0 {
		c.ok("Postgres", "%s at %s:%d, database %s, role %s; wal_level is logical", name, c.config.Host, c.config.Port, database, v.role)
	}
	for _, problem := range problems {
		c.found("Postgres", problem)
	}
	return v.version >= oldestVersion
}

// settings looks at the limits that Postgres runs with.
func (c *checker) settings(ctx context.Context) {
	var slots, maxSlots, senders, maxSenders int
	var keep, senderTimeout, idle string
	err := c.conn.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1), current_setting('max_replication_slots')::int,
		       (SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
		       current_setting('max_slot_wal_keep_size'), current_setting('wal_sender_timeout'),
		       coalesce(current_setting('idle_replication_slot_timeout', true), '0'),
		       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)`, c.opts.Slot).
		Scan(&slots, &maxSlots, &senders, &maxSenders, &keep, &senderTimeout, &idle, &c.streaming)
	if err != nil {
		c.found("settings", err)
		return
	}
	if slots >= maxSlots {
		c.fail("max_replication_slots", fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; -- then restart Postgres; or drop a slot that nobody uses", maxSlots+5),
			"all %d slots are others'", maxSlots)
	} else {
		c.ok("max_replication_slots", "%d, others use %d", maxSlots, slots)
	}
	if senders >= maxSenders && !c.streaming {
		c.fail("max_wal_senders", fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; -- then restart Postgres", maxSenders+5),
			"all %d are in use", maxSenders)
	} else {
		c.ok("max_wal_senders", "%d, in use %d", maxSenders, senders)
	}
	if keep == "-1" {
		c.warn("max_slot_wal_keep_size", "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
			"no limit: WAL that walrill has not read is kept until the disk is full and Postgres stops; with a limit the slot is lost instead, and with it the changes")
	} else {
		c.ok("max_slot_wal_keep_size", "%s", keep)
	}
	if senderTimeout == "0" {
		c.warn("wal_sender_timeout", "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();",
			"off: a daemon whose machine is gone keeps the slot, and no other can take over")
	}
	if idle != "0" {
		c.warn("idle_replication_slot_timeout", "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
			"%s: the slot is lost when walrill is stopped for longer", idle)
	}
}

// identity opens a replication connection: only that shows that Postgres lets one in.
func (c *checker) identity(ctx context.Context) {
	if err := c.identify(ctx, &c.out.Info); err != nil {
		if pgCode(err) == "53300" && c.streaming {
			c.warn("replication", "ALTER SYSTEM SET max_wal_senders = 10; -- then restart Postgres", "the daemon has the last connection for replication, a standby instance could not wait beside it")
			return
		}
		c.unreachable("replication", err)
		return
	}
	c.ok("replication", "connections are let in; system %s, timeline %d", c.out.Info.SystemID, c.out.Info.Timeline)
}

// waits looks for transactions that hold logical decoding back, and the first start.
func (c *checker) waits(ctx context.Context) {
	rows, err := c.conn.Query(ctx, `
		SELECT format('the prepared transaction %s of %s', quote_literal(gid), date_trunc('second', prepared)), format('ROLLBACK PREPARED %s; -- or COMMIT PREPARED', quote_literal(gid))
		FROM pg_prepared_xacts WHERE database = current_database()
		UNION ALL
		SELECT format('a transaction of %s, open since %s', coalesce(nullif(application_name, ''), usename::text), date_trunc('second', xact_start)), format('SELECT pg_terminate_backend(%s);', pid)
		FROM pg_stat_activity WHERE backend_type = 'client backend' AND xact_start < now() - interval '10 minutes' AND pid <> pg_backend_pid()`)
	if err != nil {
		c.found("open transactions", fmt.Errorf("look for open transactions: %w", err))
		return
	}
	var who, fix string
	_, err = pgx.ForEachRow(rows, []any{&who, &fix}, func() error {
		c.warn("open transactions", fix, "%s makes Postgres keep WAL, and a first start or a backfill waits for it", who)
		return nil
	})
	if err != nil {
		c.found("open transactions", fmt.Errorf("look for open transactions: %w", err))
	}
}
