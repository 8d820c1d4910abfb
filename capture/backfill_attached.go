package capture

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// attachedSQL lists the partitions of partitioned tables that were attached after they were made, they or what they are
// partitions of. A catalogue row's xmin is the transaction that wrote it: those of system columns are as old as the table.
const attachedSQL = `
	SELECT t.root, p.relid::oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
	FROM unnest($1::oid[]) t(root) JOIN pg_class r ON r.oid = t.root AND r.relkind = 'p', pg_partition_tree(t.root) p
	JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_attribute a ON a.attrelid = p.relid AND a.attname = 'tableoid'
	WHERE p.isleaf AND EXISTS (
		SELECT FROM pg_partition_ancestors(p.relid) up JOIN pg_inherits i ON i.inhrelid = up.relid
		WHERE age(i.xmin) < age(a.xmin) AND up.relid <> t.root AND NOT up.relid IN (SELECT relid FROM pg_partition_ancestors(t.root)))`

// warnAttached says of partitions that were attached after their table's backfill was done that nobody has read their rows.
func (s *Source) warnAttached(ctx context.Context, conn *pgx.Conn) error {
	done := map[uint32]BackfillProgress{}
	states := map[string]BackfillProgress{}
	for _, p := range s.Backfills() {
		states[p.Table] = p
	}
	var roots []uint32
	for _, rel := range s.prepared() {
		if p, ok := states[rel.String()]; ok && p.State == BackfillDone && len(p.Read) > 0 {
			done[rel.OID], roots = p, append(roots, rel.OID)
		}
	}
	if len(roots) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, attachedSQL, roots)
	if err != nil {
		return fmt.Errorf("look for attached partitions: %w", err)
	}
	var root, oid uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&root, &oid, &name}, func() error {
		p := done[root]
		if key := [2]uint32{root, oid}; !s.attached[key] && !slices.Contains(p.Read, oid) {
			s.attached[key] = true
			s.opts.Log.Warn("a partition was attached after the table's backfill: rows that it had by then are not published",
				"table", p.Table, "partition", name, "fix", "walrill backfill start "+p.Table)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for attached partitions: %w", err)
	}
	return nil
}
