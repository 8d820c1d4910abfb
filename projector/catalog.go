package projector

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ReadTables reads the columns and keys of tables from their database. streams says which stream carries
// the rows of each, by names such as public.orders; a table that is not there is left out.
func ReadTables(ctx context.Context, url string, streams map[string]string) ([]Table, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["search_path"] = "" // types with their schemas
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("read the tables of the source: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	rows, err := conn.Query(ctx, columnsSQL, sortedKeys(streams))
	if err != nil {
		return nil, fmt.Errorf("read the tables of the source: %w", err)
	}
	var tables []Table
	var table string
	var key []string
	var c SourceColumn
	_, err = pgx.ForEachRow(rows, []any{&table, &key, &c.Name, &c.Type, &c.Fallbacks, &c.Collation, &c.Generated}, func() error {
		if n := len(tables); n == 0 || tables[n-1].Name != table {
			tables = append(tables, Table{Name: table, Stream: streams[table], Key: key})
			key = nil
		}
		t := &tables[len(tables)-1]
		t.Columns = append(t.Columns, c)
		c.Fallbacks = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tables of the source: %w", err)
	}
	return tables, nil
}

// made is the type that every store knows: of a domain, what it is made of in the end; "" when nobody has said it.
func (c *SourceColumn) made() string {
	if len(c.Fallbacks) == 0 {
		return ""
	}
	return c.Fallbacks[len(c.Fallbacks)-1]
}

// columnsSQL gives a table's columns in order. The key is the replica identity, or the primary key under FULL. The
// fallbacks are for a store that lacks a type: a domain is what it is made of, which may be a domain again, a composite its
// JSON, anything else its text.
const columnsSQL = `
	SELECT n.nspname || '.' || c.relname,
	       ARRAY(SELECT k.attname::text FROM pg_catalog.pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY u(num, pos)
	             JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.num
	             WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END ORDER BY u.pos),
	       a.attname::text, format_type(a.atttypid, a.atttypmod),
	       (WITH RECURSIVE made(type, modifier, depth) AS (
	            SELECT a.atttypid, a.atttypmod, 0
	            UNION ALL
	            SELECT CASE WHEN e.oid IS NULL THEN m.typbasetype WHEN b.typarray = 0 THEN b.oid ELSE b.typarray END, coalesce(e.typtypmod, m.typtypmod), depth + 1
	            FROM made JOIN pg_catalog.pg_type m ON m.oid = made.type
	            LEFT JOIN pg_catalog.pg_type e ON e.oid = m.typelem AND m.typtype = 'b' AND m.typcategory = 'A' AND e.typtype = 'd'
	            LEFT JOIN pg_catalog.pg_type b ON b.oid = e.typbasetype
	            WHERE m.typtype = 'd' OR e.oid IS NOT NULL)
	        SELECT array_remove(array_agg(CASE WHEN depth > 0 THEN format_type(type, modifier) END ORDER BY depth)
	            || (array_agg(CASE WHEN depth > 0 AND t.typnamespace = 'pg_catalog'::regnamespace THEN NULL WHEN t.typtype = 'c' THEN 'jsonb' WHEN e.typtype = 'c' THEN 'jsonb[]'
	                WHEN e.oid IS NOT NULL THEN 'text[]' ELSE 'text' END ORDER BY depth DESC))[1], NULL)
	        FROM made JOIN pg_catalog.pg_type t ON t.oid = made.type LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'),
	       CASE WHEN a.attcollation <> t.typcollation THEN (SELECT quote_ident(s.nspname) || '.' || quote_ident(l.collname)
	             FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace s ON s.oid = l.collnamespace WHERE l.oid = a.attcollation) ELSE '' END,
	       a.attgenerated <> ''
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
	WHERE n.nspname || '.' || c.relname = ANY ($1) AND c.relkind IN ('r', 'p')
	ORDER BY 1, a.attnum`
