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
	_, err = pgx.ForEachRow(rows, []any{&table, &key, &c.Name, &c.Type, &c.Fallback, &c.Collation, &c.Generated}, func() error {
		if n := len(tables); n == 0 || tables[n-1].Name != table {
			tables = append(tables, Table{Name: table, Stream: streams[table], Key: key})
			key = nil
		}
		t := &tables[len(tables)-1]
		t.Columns = append(t.Columns, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tables of the source: %w", err)
	}
	return tables, nil
}

// columnsSQL gives a table's columns in order. The key is the replica identity, or the primary key under FULL. The
// fallback is for a store that lacks a type: a domain is what it is made of, a composite its JSON, anything else its text.
const columnsSQL = `
	SELECT n.nspname || '.' || c.relname,
	       ARRAY(SELECT k.attname::text FROM pg_catalog.pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY u(num, pos)
	             JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum = u.num
	             WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END ORDER BY u.pos),
	       a.attname::text, format_type(a.atttypid, a.atttypmod),
	       CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)
	            WHEN e.typtype = 'd' THEN format_type(e.typbasetype, e.typtypmod) || '[]'
	            WHEN t.typtype = 'c' THEN 'jsonb' WHEN e.typtype = 'c' THEN 'jsonb[]'
	            WHEN e.oid IS NOT NULL THEN 'text[]' ELSE 'text' END,
	       CASE WHEN a.attcollation <> t.typcollation THEN (SELECT quote_ident(s.nspname) || '.' || quote_ident(l.collname)
	             FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace s ON s.oid = l.collnamespace WHERE l.oid = a.attcollation) ELSE '' END,
	       a.attgenerated <> ''
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
	LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
	WHERE n.nspname || '.' || c.relname = ANY ($1) AND c.relkind IN ('r', 'p')
	ORDER BY 1, a.attnum`
