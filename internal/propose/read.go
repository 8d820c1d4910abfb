package propose

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// catalogueSQL gives a row a table, as JSON whose members are Table's fields. It reads pg_catalog
// only and takes no lock on any table: sizes are as last analysed.
const catalogueSQL = `
SELECT to_jsonb(t) FROM (
  SELECT n.nspname AS "Schema", c.relname AS "Name", ascii(c.relkind::text) AS "Kind", c.relpersistence = 'u' AS "Unlogged",
    CASE WHEN c.relispartition THEN (SELECT rn.nspname || '.' || r.relname FROM pg_class r JOIN pg_namespace rn ON rn.oid = r.relnamespace
      WHERE r.oid = pg_partition_root(c.oid)) ELSE '' END AS "PartitionOf",
    coalesce((SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass), '') AS "Extension",
    ascii(c.relreplident::text) AS "Identity",
    (SELECT coalesce(jsonb_agg(jsonb_build_object('Name', a.attname, 'Type', format_type(a.atttypid, a.atttypmod), 'NotNull', a.attnotnull,
        'Identity', c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
          AND (c.relreplident = 'd' AND i.indisprimary AND i.indimmediate OR c.relreplident = 'i' AND i.indisreplident)),
        'Default', coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = c.oid AND d.adnum = a.attnum), ''),
        'Values', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = a.atttypid),
        'Checks', (SELECT jsonb_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k
          WHERE k.contype = 'c' AND (k.conrelid = c.oid AND k.conkey = ARRAY[a.attnum] OR k.contypid = a.atttypid AND k.contypid <> 0))
      ) ORDER BY a.attnum), '[]')
      FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS "Columns",
    ARRAY(SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
      WHERE i.indrelid = c.oid AND i.indisprimary AND k.pos <= i.indnkeyatts ORDER BY k.pos) AS "PrimaryKey",
    ARRAY(SELECT ic.relname FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
      WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND NOT 0 = ANY (i.indkey::int2[])
      AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND NOT a.attnotnull)
      ORDER BY ic.relname) AS "Candidates",
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'Columns', ARRAY(SELECT a.attname FROM unnest(f.conkey) WITH ORDINALITY k(num, pos)
          JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.num ORDER BY k.pos),
        'Table', rn.nspname || '.' || r.relname,
        'RefColumns', ARRAY(SELECT a.attname FROM unnest(f.confkey) WITH ORDINALITY k(num, pos)
          JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.num ORDER BY k.pos),
        'Cascade', f.confdeltype = 'c') ORDER BY f.conname), '[]')
      FROM pg_constraint f JOIN pg_class r ON r.oid = f.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
      WHERE f.contype = 'f' AND f.conrelid = c.oid AND NOT r.relispartition) AS "ForeignKeys",
    CASE WHEN c.relkind <> 'p' THEN c.reltuples
      ELSE (SELECT coalesce(sum(greatest(l.reltuples, 0)), 0) FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf) END AS "Rows"
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
  ORDER BY n.nspname, c.relname) t`

// Read reads the catalogue in a read-only transaction.
func Read(ctx context.Context, conn *pgx.Conn) (*Catalogue, error) {
	var c Catalogue
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT current_database(), current_setting('server_version_num')::int, current_setting('wal_level')`).
			Scan(&c.Database, &c.Version, &c.WALLevel)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, catalogueSQL)
		if err != nil {
			return err
		}
		c.Tables, err = pgx.CollectRows(rows, scanTable)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	return &c, nil
}

func scanTable(row pgx.CollectableRow) (t Table, err error) {
	var text []byte
	if err := row.Scan(&text); err != nil {
		return t, err
	}
	return t, json.Unmarshal(text, &t)
}
