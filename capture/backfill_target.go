package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// target is a table to read, as it is in the catalogue.
type target struct {
	namespace, name string
	oid             uint32
	partitioned     bool
	identity        change.Identity
	key             []string // the columns that rows are told apart and ordered by
	whole           bool     // there is no key: rows are told apart by all their columns, and read by TID
	keyTypes        []uint32
	estimate        int64  // rows, as the planner guesses
	generated       bool   // generated columns that are stored are published
	columns         string // attribute numbers that are published, as an array; empty: all
	filter          string // the publication's row filter
}

func (t *target) String() string { return t.namespace + "." + t.name }

// sqlName is the table for a FROM clause. The children of an inheritance are tables of their own;
// a partitioned table is read whole.
func (t *target) sqlName() string {
	name := pgx.Identifier{t.namespace, t.name}.Sanitize()
	if t.partitioned {
		return name
	}
	return "ONLY " + name
}

func (t *target) keyList() string {
	names := make([]string, len(t.key))
	for i, name := range t.key {
		names[i] = quote(name)
	}
	return strings.Join(names, ", ")
}

// readTarget looks a table up. Its error is a *SetupError when the table cannot be backfilled as it is.
func (s *Source) readTarget(ctx context.Context, conn *pgx.Conn, namespace, name string) (*target, error) {
	t, err := s.findTarget(ctx, conn, namespace, name)
	if err != nil {
		return nil, err
	}
	return t, t.readKey(ctx, conn)
}

// findTarget is readTarget without the key. Its error is a *SetupError when the table is not there or not published.
func (s *Source) findTarget(ctx context.Context, conn *pgx.Conn, namespace, name string) (*target, error) {
	t := &target{namespace: namespace, name: name}
	var identity string
	err := conn.QueryRow(ctx, `
		SELECT c.oid, c.relkind = 'p', c.relreplident::text,
		       (SELECT coalesce(sum(greatest(p.reltuples, 0)), 0)::bigint FROM pg_class p
		        WHERE p.oid IN (SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) AND p.relkind = 'r')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`, namespace, name).
		Scan(&t.oid, &t.partitioned, &identity, &t.estimate)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, &SetupError{Problem: fmt.Sprintf("table %s does not exist", t), Fix: "create it, or take it out of the configuration"}
	}
	if err != nil {
		return nil, fmt.Errorf("look up table %s: %w", t, err)
	}
	if err := s.readPublished(ctx, conn, t); err != nil {
		return nil, err
	}
	t.identity = change.Identity(identity[0])
	return t, nil
}

// readPublished reads which rows and columns of the table the publication has.
func (s *Source) readPublished(ctx context.Context, conn *pgx.Conn, t *target) error {
	var err error
	if t.generated, err = publishesGenerated(ctx, conn, s.opts.Publication); err != nil {
		return err
	}
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return err
	}
	// An ordinary table that is in the publication by its own name is found at once: the function lists all
	// tables of the publication, and there may be thousands.
	const named = ` FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
		WHERE p.pubname = $1 AND c.oid = $2 AND c.relkind = 'r' AND NOT c.relispartition AND NOT p.puballtables`
	sql := `SELECT '', ''` + named + ` UNION ALL SELECT '', '' FROM pg_get_publication_tables($1) p WHERE p.relid = $2 LIMIT 1`
	if version >= 150000 {
		// Not pg_get_publication_tables' own list: from 16 on it has all columns when none are chosen, and new ones must show.
		sql = `SELECT coalesce(r.prattrs::int2[]::text, ''), coalesce(pg_get_expr(r.prqual, r.prrelid), '')` + named + `
			  AND NOT EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = c.relnamespace)
			UNION ALL SELECT coalesce(r.prattrs::int2[]::text, ''), coalesce(pg_get_expr(p.qual, p.relid), '')
			FROM pg_get_publication_tables($1) p
			LEFT JOIN pg_publication_rel r ON r.prrelid = p.relid AND r.prpubid = (SELECT oid FROM pg_publication WHERE pubname = $1)
			WHERE p.relid = $2 LIMIT 1`
	}
	err = conn.QueryRow(ctx, sql, s.opts.Publication, t.oid).Scan(&t.columns, &t.filter)
	if errors.Is(err, pgx.ErrNoRows) {
		return &SetupError{Problem: fmt.Sprintf("table %s is not in publication %s: its changes would be missing", t, s.opts.Publication),
			Fix: "start the daemon again, it brings the publication in step with the configuration; or add the table to it"}
	}
	if err != nil {
		return fmt.Errorf("look up table %s in publication %s: %w", t, s.opts.Publication, err)
	}
	return nil
}

// readKey chooses the index whose columns tell rows apart. It must be one whose values
// Postgres sends with every update and delete, that has no NULLs, and that orders as
// ORDER BY does: with the columns' own collation and the type's usual operators.
func (t *target) readKey(ctx context.Context, conn *pgx.Conn) error {
	err := conn.QueryRow(ctx, `
		SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
		             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE k.pos <= i.indnkeyatts ORDER BY k.pos),
		       ARRAY(SELECT a.atttypid FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
		             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE k.pos <= i.indnkeyatts ORDER BY k.pos)
		FROM pg_index i
		WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
		  AND CASE $2::text WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE true END
		  AND NOT EXISTS (
		      SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
		      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
		      JOIN pg_opclass o ON o.oid = i.indclass[k.pos - 1]
		      WHERE k.pos <= i.indnkeyatts
		        AND (NOT a.attnotnull OR a.attgenerated <> '' OR NOT o.opcdefault OR i.indcollation[k.pos - 1] <> a.attcollation))
		ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1`, t.oid, string(t.identity)).Scan(&t.key, &t.keyTypes)
	if errors.Is(err, pgx.ErrNoRows) {
		return t.checkParts(ctx, conn)
	}
	if err != nil {
		return fmt.Errorf("look up the key of table %s: %w", t, err)
	}
	return nil
}

// keyColumns names what positions in the table are made of.
func (t *target) keyColumns() []string {
	if t.whole {
		return []string{"ctid"}
	}
	return t.key
}

// relation describes the rows that a query for the published columns returns.
func (t *target) relation(ctx context.Context, conn *pgx.Conn, catalogue *typeCatalogue) (*change.Relation, error) {
	rel := &change.Relation{OID: t.oid, Namespace: t.namespace, Name: t.name}
	rows, err := conn.Query(ctx, `
		SELECT a.attname::text, a.atttypid, a.atttypmod, c.relreplident::text,
		       c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
		       AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.oid = $1 AND n.nspname = $2 AND c.relname = $3 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated::text = ANY ($5)
		  AND ($4 = '' OR a.attnum = ANY ($4::int2[]))
		ORDER BY a.attnum`, t.oid, t.namespace, t.name, t.columns, publishedKinds(t.generated || t.columns != ""))
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	var column change.Column
	var typ columnType
	var types []columnType
	var identity string
	_, err = pgx.ForEachRow(rows, []any{&column.Name, &typ.oid, &typ.modifier, &identity, &column.Key}, func() error {
		rel.Columns, types = append(rel.Columns, column), append(types, typ)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	if len(types) == 0 {
		return nil, errTableGone
	}
	rel.Identity = change.Identity(identity[0])
	return rel, describe(ctx, conn, catalogue, rel, types)
}

var errTableGone = errors.New("the table was dropped or renamed while it was read")
