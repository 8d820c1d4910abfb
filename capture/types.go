package capture

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// typeCatalogue knows the types of columns: how each turns into JSON, by the
// rules of json_categorize_type in Postgres's src/backend/utils/adt/json.c.
// Domains are what they are made of. It is not safe for concurrent use.
type typeCatalogue struct {
	types map[uint32]*change.Type
	// settled are the types that cannot change while they exist: all but the composite
	// ones and those made of them, whose attributes come and go.
	settled map[uint32]bool
}

func newTypeCatalogue() *typeCatalogue {
	return &typeCatalogue{types: map[uint32]*change.Type{}, settled: map[uint32]bool{}}
}

// lookup returns a type that was resolved. One that Postgres does not know,
// since it was dropped after the row was written, is text.
func (c *typeCatalogue) lookup(oid uint32) *change.Type {
	if t := c.types[oid]; t != nil {
		return t
	}
	return &change.Type{OID: oid, Name: fmt.Sprintf("type %d", oid), Shape: change.ShapeText}
}

// columnType is a column's type as a Relation message has it.
type columnType struct {
	oid      uint32
	modifier int32 // such as a length; -1 for none
}

// namesSQL writes types as columns are declared with them, the same under every search_path.
const namesSQL = `
SELECT coalesce(CASE WHEN pg_catalog.pg_type_is_visible(base.oid) AND base.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
	THEN pg_catalog.quote_ident(n.nspname) || '.' ELSE '' END || pg_catalog.format_type(t.oid, c.modifier), 'type ' || c.oid)
FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY c (oid, modifier, place)
LEFT JOIN pg_catalog.pg_type t ON t.oid = c.oid
LEFT JOIN pg_catalog.pg_type base ON base.oid = CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc
	THEN t.typelem ELSE t.oid END
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = base.typnamespace
ORDER BY c.place`

func typeNames(ctx context.Context, conn *pgx.Conn, oids []uint32, modifiers []int32) ([]string, error) {
	rows, err := conn.Query(ctx, namesSQL, pgx.QueryExecModeExec, oids, modifiers)
	if err != nil {
		return nil, fmt.Errorf("read names of types: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read names of types: %w", err)
	}
	return names, nil
}

// typeRow is a row of pg_type as far as it matters here.
type typeRow struct {
	OID        uint32
	Name       string
	Kind       string // typtype
	Elem       uint32 // 0 unless it is a true array
	Base       uint32 // of a domain
	Delim      string // between elements, when an array has this type as its element
	FieldNames []string
	FieldTypes []uint32
}

// closureSQL reads types with all that they are made of. A true array is one whose
// subscripting is the array's: point and name have a typelem too.
const closureSQL = `
WITH RECURSIVE closure (oid) AS (
	SELECT unnest($1::oid[])
	UNION
	SELECT part.oid
	FROM closure
	JOIN pg_catalog.pg_type t ON t.oid = closure.oid
	CROSS JOIN LATERAL (
		SELECT t.typelem WHERE t.typelem <> 0
		UNION ALL
		SELECT t.typbasetype WHERE t.typtype = 'd'
		UNION ALL
		SELECT a.atttypid FROM pg_catalog.pg_attribute a
		WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
	) part (oid)
)
SELECT t.oid, pg_catalog.format_type(t.oid, NULL), t.typtype::text,
	CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc THEN t.typelem ELSE 0 END,
	t.typbasetype, t.typdelim::text,
	coalesce(fields.names, '{}'), coalesce(fields.types, '{}')
FROM closure
JOIN pg_catalog.pg_type t USING (oid)
LEFT JOIN LATERAL (
	SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names, array_agg(a.atttypid ORDER BY a.attnum) AS types
	FROM pg_catalog.pg_attribute a
	WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
) fields ON true`

// resolve learns the types with these OIDs in one query, or in none when all
// are known and settled.
func (c *typeCatalogue) resolve(ctx context.Context, conn *pgx.Conn, oids []uint32) error {
	var wanted []uint32
	for _, oid := range oids {
		if !c.settled[oid] {
			wanted = append(wanted, oid)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	// One round trip: nothing is prepared and described first.
	rows, err := conn.Query(ctx, closureSQL, pgx.QueryExecModeExec, wanted)
	if err != nil {
		return fmt.Errorf("read types: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[typeRow])
	if err != nil {
		return fmt.Errorf("read types: %w", err)
	}
	r := typeResolver{catalogue: c, rows: make(map[uint32]*typeRow, len(list)), made: map[uint32]*change.Type{}}
	for i := range list {
		r.rows[list[i].OID] = &list[i]
	}
	for _, oid := range wanted {
		r.resolve(oid)
	}
	return nil
}

// typeResolver makes types of one answer of Postgres.
type typeResolver struct {
	catalogue *typeCatalogue
	rows      map[uint32]*typeRow
	made      map[uint32]*change.Type
}

// resolve makes a type after those that it is made of. There are no cycles:
// Postgres refuses a composite that has itself inside.
func (r *typeResolver) resolve(oid uint32) *change.Type {
	if t := r.made[oid]; t != nil {
		return t
	}
	row := r.rows[oid]
	var t *change.Type
	settled := true
	switch {
	case row == nil:
		t = r.catalogue.lookup(oid)
	case row.Kind == "d":
		t = r.resolve(row.Base)
		settled = r.catalogue.settled[row.Base]
	default:
		t, settled = r.build(row)
	}
	r.made[oid] = t
	r.catalogue.types[oid] = t
	r.catalogue.settled[oid] = settled
	return t
}

// build makes a type that is not a domain and says whether it is settled.
func (r *typeResolver) build(row *typeRow) (*change.Type, bool) {
	t := &change.Type{OID: row.OID, Name: row.Name, Shape: baseShape(row.OID)}
	settled := true
	switch {
	case t.Shape == change.ShapeVector:
		t.Elem = r.resolve(row.Elem)
	case row.Elem != 0:
		t.Shape = change.ShapeArray
		t.Elem = r.resolve(row.Elem)
		t.Delim = ','
		if elem := r.rows[row.Elem]; elem != nil {
			t.Delim = elem.Delim[0]
		}
		settled = r.catalogue.settled[row.Elem]
	case row.Kind == "c":
		t.Shape = change.ShapeComposite
		for i, name := range row.FieldNames {
			t.Fields = append(t.Fields, change.Field{Name: name, Type: r.resolve(row.FieldTypes[i])})
		}
		settled = false
	}
	return t, settled
}

// baseShape is the shape of the built-in types that have one of their own,
// by OID (src/include/catalog/pg_type.dat).
func baseShape(oid uint32) change.Shape {
	switch oid {
	case 16: // bool
		return change.ShapeBool
	case 20, 21, 23, 700, 701, 1700: // int8, int2, int4, float4, float8, numeric
		return change.ShapeNumber
	case 1114:
		return change.ShapeTimestamp
	case 1184:
		return change.ShapeTimestampTZ
	case 114, 3802: // json, jsonb
		return change.ShapeJSON
	case 22, 30: // int2vector, oidvector
		return change.ShapeVector
	}
	return change.ShapeText
}
