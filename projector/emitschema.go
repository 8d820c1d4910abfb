package projector

import (
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/event"
)

// kindsSQL says which JSON value to_jsonb makes of each type.
const kindsSQL = `
	WITH RECURSIVE t AS (
		SELECT n, o::oid FROM unnest($1::bigint[]) WITH ORDINALITY u(o, n)
		UNION ALL SELECT t.n, p.typbasetype FROM t JOIN pg_type p ON p.oid = t.o WHERE p.typtype = 'd')
	SELECT CASE WHEN t.o = 'bool'::regtype THEN 'boolean'
		WHEN t.o IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'integer'
		WHEN t.o IN ('float4'::regtype, 'float8'::regtype, 'numeric'::regtype) THEN 'number'
		WHEN t.o IN ('json'::regtype, 'jsonb'::regtype) THEN 'any'
		WHEN p.typcategory = 'A' THEN 'array'
		WHEN p.typtype = 'c' OR t.o = 'record'::regtype THEN 'object'
		WHEN EXISTS (SELECT FROM pg_cast c WHERE c.castsource = t.o AND c.casttarget = 'json'::regtype AND c.castmethod = 'f') THEN 'any'
		ELSE 'string' END
	FROM t JOIN pg_type p ON p.oid = t.o WHERE p.typtype <> 'd' ORDER BY t.n`

// jsonKinds says which JSON values members of an event's data are, by their types in SQL.
func jsonKinds(ctx context.Context, tx pgx.Tx, fields []pgconn.FieldDescription) ([]string, error) {
	types := make([]int64, len(fields))
	for i, f := range fields {
		types[i] = int64(f.DataTypeOID)
	}
	rows, err := tx.Query(ctx, kindsSQL, types)
	if err != nil {
		return nil, err
	}
	kinds, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(kinds) != len(types) {
		err = fmt.Errorf("%d types have %d kinds of JSON", len(types), len(kinds))
	}
	return kinds, err
}

// schema describes the data of an event of a view, whose members are of these kinds of JSON value.
func (e *EmitEvent) schema(o *Options, v *View, d *definition, kinds []string) event.Schema {
	s := event.Schema{Stream: v.Emit.Stream, Type: e.Type, Table: o.Schema + "." + v.Name, Key: []string{}, Columns: []event.SchemaColumn{},
		Terms: &event.Terms{Compatibility: v.Emit.Compatibility, Version: e.Version, Built: e.Data != nil, Columns: d.Columns, Where: e.Where}}
	if e.Key == "" {
		s.Key = d.Key
	}
	for i, m := range e.members(d) {
		c := event.SchemaColumn{Name: m.Name, JSON: kinds[i]}
		if e.Data == nil {
			c.Type = d.Types[i]
		}
		s.Columns = append(s.Columns, c)
	}
	// jsonb keeps short names before long ones.
	slices.SortFunc(s.Columns, func(a, b event.SchemaColumn) int {
		return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return s
}

// members are those of the event's data: what the configuration says, or the row's columns.
func (e *EmitEvent) members(d *definition) []EmitMember {
	if e.Data != nil {
		return e.Data
	}
	list := make([]EmitMember, len(d.Columns))
	for i, c := range d.Columns {
		list[i] = EmitMember{Name: c, SQL: "new." + quoteIdent(c)}
	}
	return list
}

// A form is a schema as an event in the outbox refers to it. The version is what the configuration asks for, 0 when the catalogue is to give one.
type form struct{ id, text string }

func formOf(s event.Schema) (form, error) {
	if s.Terms != nil {
		s.Version = s.Terms.Version
	}
	text, err := json.Marshal(s)
	sum := md5.Sum(text)
	return form{hex.EncodeToString(sum[:]), string(text)}, err
}

// forms are those of a view's events, in their order.
func (s *session) forms(v *View) ([]form, error) {
	var list []form
	if v.Emit == nil {
		return nil, nil
	}
	for _, schema := range s.emitted[v.Name] {
		f, err := formOf(schema)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

func formIDs(forms []form) []string {
	ids := []string{}
	for _, f := range forms {
		ids = append(ids, f.id)
	}
	return ids
}

// EmittedSchemas describes the data of what the views emit, as the views are configured; without versions but those that the
// configuration gives. Errors about a view are *SetupError.
func EmittedSchemas(ctx context.Context, o Options) ([]event.Schema, error) {
	conn, err := connect(ctx, o.StoreURL, o.Pipeline)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it changed nothing
	planner, err := newPlanner(ctx, conn, &o)
	if err != nil {
		return nil, err
	}
	var list []event.Schema
	for i := range o.Views {
		if o.Views[i].Emit == nil {
			continue
		}
		if _, err := planner.plan(ctx, &o.Views[i]); err != nil {
			return nil, err
		}
		list = append(list, planner.emitted[o.Views[i].Name]...)
	}
	return list, nil
}

// checkSchemas refuses views whose events would break their consumers.
func (s *session) checkSchemas(ctx context.Context) error {
	if s.opts.Schemas == nil || len(s.emitted) == 0 {
		return nil
	}
	for _, view := range sortedKeys(s.emitted) {
		if err := s.opts.Schemas(ctx, s.emitted[view]); err != nil {
			return err
		}
	}
	return nil
}
