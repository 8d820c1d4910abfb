package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// Described is a captured table with what its owners say of it.
type Described struct {
	*change.Relation
	Comment string       // COMMENT ON TABLE
	About   []Annotation // of each column, as Relation.Columns
}

// Annotation is what the database says of a column beside its type.
type Annotation struct {
	Comment string // COMMENT ON COLUMN
	NotNull bool
	Inline  bool     // never stored apart: an update always carries its value
	Enum    []string // the labels of an enum, or of a domain over one; nil for other types
}

// Describe reads the tables that the selection takes, in the order of their names. It changes nothing.
func (s *Source) Describe(ctx context.Context) ([]Described, error) {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	tables, unfit, err := s.wantedTables(ctx, conn)
	if err = errors.Join(err, unfit); err != nil {
		return nil, err
	}
	described := make([]Described, len(tables))
	byOID := map[uint32]*Described{}
	var oids []uint32
	for i, t := range tables {
		described[i] = Described{Relation: t.Relation, About: make([]Annotation, len(t.Columns))}
		byOID[t.OID] = &described[i]
		oids = append(oids, t.OID)
	}
	return described, describeColumns(ctx, conn, oids, byOID)
}

func describeColumns(ctx context.Context, conn *pgx.Conn, oids []uint32, tables map[uint32]*Described) error {
	rows, err := conn.Query(ctx, `
		SELECT a.attrelid, coalesce(obj_description(a.attrelid, 'pg_class'), ''), a.attname::text,
		       coalesce(col_description(a.attrelid, a.attnum), ''), a.attnotnull OR t.typnotnull,
		       a.attstorage = 'p' OR a.atttypid = 'numeric'::regtype AND a.atttypmod > 0 AND (a.atttypmod - 4) >> 16 & 65535 <= 28,
		       ARRAY(SELECT e.enumlabel::text FROM pg_enum e
		             WHERE e.enumtypid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END ORDER BY e.enumsortorder)
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY a.attrelid, a.attnum`, oids)
	if err != nil {
		return fmt.Errorf("describe tables: %w", err)
	}
	var oid uint32
	var comment, name string
	var a Annotation
	_, err = pgx.ForEachRow(rows, []any{&oid, &comment, &name, &a.Comment, &a.NotNull, &a.Inline, &a.Enum}, func() error {
		t := tables[oid]
		t.Comment = comment
		if i := t.Column(name); i >= 0 {
			t.About[i] = a
		}
		a = Annotation{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("describe tables: %w", err)
	}
	return nil
}
