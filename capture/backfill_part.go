package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// part is what one scan of a backfill goes through: a table, or one partition of it. A partition that is
// attached while the table is read is a part that has not been read yet.
type part struct {
	oid    uint32
	name   string // as SQL writes it
	file   uint32 // of its rows: another one when they were rewritten, and so have other TIDs
	blocks int64
	safe   bool // each update and delete carries the whole old row, or Postgres refuses them
}

// id tells whether a position in the part still means what it did.
func (p *part) id(t *target) string {
	if t.whole {
		return fmt.Sprintf("%d/%d", p.oid, p.file)
	}
	return strconv.FormatUint(uint64(p.oid), 10)
}

// partsSQL lists the tables that hold a table's rows. A replica identity's index makes a part unsafe
// to be read by TID: an update sends the index's columns and not what is in TOAST.
const partsSQL = `
	SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), coalesce(pg_relation_filenode(c.oid), 0),
	       coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int,
	       c.relreplident = 'f' OR NOT EXISTS (
	           SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
	           AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))
	FROM (SELECT relid FROM pg_partition_tree($1::oid) UNION SELECT $1::oid) tree
	JOIN pg_class c ON c.oid = tree.relid JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'r' OR c.oid = $1::oid ORDER BY c.oid`

// parts are the tables that hold the rows of the target.
func (t *target) parts(ctx context.Context, conn *pgx.Conn) ([]part, error) {
	rows, err := conn.Query(ctx, partsSQL, t.oid)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	parts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (part, error) {
		var p part
		err := row.Scan(&p.oid, &p.name, &p.file, &p.blocks, &p.safe)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	root := slices.IndexFunc(parts, func(p part) bool { return p.oid == t.oid })
	if root < 0 {
		return nil, errTableGone
	}
	if t.partitioned {
		parts = slices.Delete(parts, root, root+1)
	}
	return parts, nil
}

// checkParts refuses a table without a key that TIDs are not safe for.
func (t *target) checkParts(ctx context.Context, conn *pgx.Conn) error {
	parts, err := t.parts(ctx, conn)
	if err != nil {
		return err
	}
	for i := range parts {
		if parts[i].safe {
			continue
		}
		return &SetupError{Problem: fmt.Sprintf("table %s cannot be backfilled: it has no key that is sent with every change and that Postgres orders rows by, "+
			"and without one its rows can be told apart only when changes carry the whole row; its changes are published all the same", parts[i].name),
			Fix: fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL;", parts[i].name)}
	}
	t.whole = true
	return nil
}

var errPartGone = errors.New("the partition that is read was detached or dropped")

// choose returns the part to go on with, nil when all are read, and sets the position to it. A part that was rewritten
// is read from its beginning, one that is not there any more is left.
func (t *target) choose(ctx context.Context, conn *pgx.Conn, at *position) (*part, error) {
	parts, err := t.parts(ctx, conn)
	if err != nil {
		return nil, err
	}
	i := -1
	if at.part != "" {
		i = slices.IndexFunc(parts, func(p part) bool { return p.id(t) == at.part })
	}
	if i < 0 {
		at.part, at.after = "", nil
		if i = slices.IndexFunc(parts, func(p part) bool { return !slices.Contains(at.read, p.oid) }); i < 0 {
			return nil, nil
		}
		at.part = parts[i].id(t)
	}
	return &parts[i], nil
}

// check makes sure that the part is still what it was, under the lock that keeps it so.
func (t *target) check(ctx context.Context, conn *pgx.Conn, p *part) error {
	if !t.whole {
		return nil
	}
	parts, err := t.parts(ctx, conn)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(parts, func(now part) bool { return now.oid == p.oid })
	switch {
	case i < 0:
		return errPartGone
	case !parts[i].safe:
		return errKeyAltered
	case parts[i].file != p.file:
		return fmt.Errorf("%s was rewritten, and is read again from its beginning", p.name)
	}
	p.blocks = parts[i].blocks // also those that the snapshot sees rows of
	return nil
}
