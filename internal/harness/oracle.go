package harness

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Operations of an OracleChange, by the letters that walrill's entries use.
const (
	OpInsert   = "c"
	OpUpdate   = "u"
	OpDelete   = "d"
	OpTruncate = "t"
	OpMessage  = "m"
	OpRead     = "r" // of entries only
)

// OracleTx is a committed transaction as test_decoding tells it.
//
// test_decoding reports the end of the commit record, not its start, which is
// the commit LSN of pgoutput and of walrill's positions; Holds tells whether
// the two fit.
type OracleTx struct {
	XID      uint32
	FloorLSN uint64 // the commit LSN is not below it: the end of the commit before, or the last change
	EndLSN   uint64 // of the byte behind the commit record
	Changes  []OracleChange
}

// Holds reports whether commitLSN can be this transaction's commit LSN. It can
// be that of no other transaction of the same history.
func (tx OracleTx) Holds(commitLSN uint64) bool {
	return commitLSN >= tx.FloorLSN && commitLSN < tx.EndLSN
}

// OracleChange is one change. Values are Postgres's text in the time zone UTC,
// but for booleans, which are true and false; a nil value is NULL.
type OracleChange struct {
	Table string // schema.table, without quotes
	Op    string
	// New is the row after the change. Columns that test_decoding calls an
	// unchanged TOAST datum are not in it but in Unchanged. Of a logical message
	// it has `prefix` and `content`.
	New       map[string]*string
	Unchanged []string
	// Old has what Postgres logged of the row before an update or a delete, but
	// for NULLs, which test_decoding leaves out: nil for an update that keeps
	// the key, the key's columns, or all under REPLICA IDENTITY FULL.
	Old map[string]*string
}

// Oracle reads what happened in a database from a slot of its own, through
// test_decoding: what a pipeline on the same database made of it can be compared
// with this.
type Oracle struct {
	url  string
	slot string
	last uint64 // end LSN of the last commit that was read
}

// NewOracle makes an oracle that knows all that is committed in the database
// from now on. Its slot is named after the database and goes with it; Close
// drops it earlier.
func NewOracle(ctx context.Context, dbURL string) (*Oracle, error) {
	u, err := url.Parse(dbURL)
	if err != nil {
		return nil, fmt.Errorf("make oracle: %w", err)
	}
	o := &Oracle{url: dbURL, slot: strings.TrimPrefix(u.Path, "/") + "_oracle"}
	err = o.do(ctx, func(conn *pgx.Conn) error {
		var version int
		if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
			return err
		}
		sql := "SELECT pg_create_logical_replication_slot($1, 'test_decoding')"
		if version >= 170000 { // so that a standby has it too
			sql = "SELECT pg_create_logical_replication_slot($1, 'test_decoding', failover => true)"
		}
		_, err := conn.Exec(ctx, sql, o.slot)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make oracle: %w", err)
	}
	return o, nil
}

// Slot is the name of the oracle's slot.
func (o *Oracle) Slot() string { return o.slot }

// Close drops the slot.
func (o *Oracle) Close(ctx context.Context) error {
	return o.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", o.slot)
		return err
	})
}

// Read returns the transactions that were committed since the last Read, in
// commit order, without those that changed nothing.
func (o *Oracle) Read(ctx context.Context) ([]OracleTx, error) {
	read := oracleReader{last: o.last}
	err := o.do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
			SELECT lsn::text, xid::text, data FROM pg_logical_slot_get_changes($1, NULL, NULL,
				'include-xids', 'on', 'include-timestamp', 'on', 'skip-empty-xacts', 'off')`, o.slot)
		if err != nil {
			return err
		}
		var lsn, xid, data string
		_, err = pgx.ForEachRow(rows, []any{&lsn, &xid, &data}, func() error { return read.row(lsn, xid, data) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read oracle: %w", err)
	}
	o.last = read.last
	return read.done, nil
}

// do connects with the settings that decide about the text of values.
func (o *Oracle) do(ctx context.Context, f func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(o.url)
	if err != nil {
		return err
	}
	config.RuntimeParams["timezone"] = "UTC"
	config.RuntimeParams["datestyle"] = "ISO, MDY"
	config.RuntimeParams["intervalstyle"] = "postgres"
	config.RuntimeParams["bytea_output"] = "hex"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return f(conn)
}

// oracleReader makes transactions of test_decoding's rows.
type oracleReader struct {
	open *OracleTx
	done []OracleTx
	last uint64 // end LSN of the last commit, also of a transaction without changes
}

func (r *oracleReader) row(lsnText, xid, data string) error {
	lsn, err := ParseLSN(lsnText)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(data, "BEGIN "):
		id, err := strconv.ParseUint(xid, 10, 32)
		if err != nil {
			return fmt.Errorf("read xid: %w", err)
		}
		r.open = &OracleTx{XID: uint32(id), FloorLSN: r.last}
	case r.open == nil:
		if !strings.HasPrefix(data, "message: transactional: 0 ") {
			return fmt.Errorf("row %q is outside a transaction", data)
		}
	case strings.HasPrefix(data, "COMMIT "):
		r.commit(lsn)
	default:
		changes, err := parseTestDecoding(data)
		if err != nil {
			return fmt.Errorf("parse %q: %w", data, err)
		}
		r.open.FloorLSN = max(r.open.FloorLSN, lsn)
		r.open.Changes = append(r.open.Changes, changes...)
	}
	return nil
}

// commit closes the open transaction. It drops one without changes (the option
// skip-empty-xacts would also take the BEGIN from some messages) and one that an
// earlier Read returned: after a crash of Postgres a slot can be behind where it was.
func (r *oracleReader) commit(end uint64) {
	r.open.EndLSN = end
	if len(r.open.Changes) > 0 && end > r.last {
		r.done = append(r.done, *r.open)
	}
	r.open, r.last = nil, max(r.last, end)
}

// ParseLSN reads an LSN as Postgres prints it. It is our own, so that the oracle shares no code with what it judges.
func ParseLSN(s string) (uint64, error) {
	var high, low uint32
	if _, err := fmt.Sscanf(s, "%X/%X", &high, &low); err != nil {
		return 0, fmt.Errorf("read LSN %q: %w", s, err)
	}
	return uint64(high)<<32 | uint64(low), nil
}
