package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// prepare makes the two sides of a target.
func (v *verifier) prepare(ctx context.Context, t *target) error {
	if t.doc != nil {
		return t.doc.prepare(ctx)
	}
	var err error
	name := t.name
	if t.mirror != nil {
		name = t.mirror.parkedAs()
	}
	if t.parked, err = ListParked(ctx, v.store, v.Pipeline, name); err != nil {
		return err
	}
	t.onSource.conn, t.onStore.conn = v.source, v.store
	t.onStore.from = t.table() + " t"
	switch {
	case t.folds():
		v.prepareFold(t)
	case t.query != nil:
		err = v.prepareQuery(ctx, t)
	default:
		err = v.prepareMirror(ctx, t)
	}
	if err != nil {
		return err
	}
	return v.order(ctx, t)
}

func (v *verifier) prepareMirror(ctx context.Context, t *target) error {
	i := slices.IndexFunc(v.tables, func(x Table) bool { return x.Name == t.mirror.Source })
	if i < 0 {
		return fmt.Errorf("no stream carries the rows of table %s any more", t.mirror.Source)
	}
	table, only := v.tables[i], "ONLY "
	schema, name, _ := strings.Cut(table.Name, ".")
	var partitioned bool
	if err := v.source.QueryRow(ctx, "SELECT relkind = 'p' FROM pg_class WHERE oid = $1::regclass", qualified(schema, name)).Scan(&partitioned); err != nil {
		return fmt.Errorf("look up table %s: %w", table.Name, err)
	}
	if partitioned {
		only = ""
	}
	t.onSource.from = only + qualified(schema, name) + " t"
	filter, err := v.rowFilter(ctx, schema, name)
	if err != nil {
		return err
	}
	if filter != "" {
		t.onSource.where = append(t.onSource.where, "("+filter+")")
	}
	types := map[string]string{}
	for _, c := range t.mirror.Columns {
		j := slices.IndexFunc(table.Columns, func(x SourceColumn) bool { return x.Name == c.Name })
		if j < 0 {
			return fmt.Errorf("table %s has no column %s any more", table.Name, c.Name)
		}
		here, there := canonical(c.As, c.Type, table.Columns[j])
		t.onSource.values, t.onStore.values = append(t.onSource.values, here), append(t.onStore.values, there)
		t.columns = append(t.columns, c.As)
		t.hidden = append(t.hidden, v.Hidden(table.Name, c.Name))
		types[c.Name] = table.Columns[j].Type
	}
	t.key = t.mirror.keyAs()
	for i, k := range t.mirror.Key {
		j := slices.Index(t.columns, t.key[i])
		column, typ, stored := "t."+quoteIdent(k), types[k], t.mirror.Columns[j].Type
		if typ != stored && (stored == "text" || stored == "text[]") && t.kind != "document" {
			column, typ = column+"::"+stored, stored // a type that the store does not know, and may have in another order
		}
		t.onSource.key, t.onSource.keyTypes = append(t.onSource.key, column), append(t.onSource.keyTypes, typ)
		t.onStore.key, t.onStore.keyTypes = append(t.onStore.key, "t."+quoteIdent(t.key[i])), append(t.onStore.keyTypes, stored)
	}
	return nil
}

// rowFilter is the condition under which the publication has a table's rows.
func (v *verifier) rowFilter(ctx context.Context, schema, name string) (filter string, err error) {
	if v.Publication == "" {
		return "", nil
	}
	// Before Postgres 15 there are none, and the view has no such column.
	err = v.source.QueryRow(ctx, `SELECT coalesce((SELECT to_jsonb(p)->>'rowfilter' FROM pg_publication_tables p
		WHERE pubname = $1 AND schemaname = $2 AND tablename = $3), '')`, v.Publication, schema, name).Scan(&filter)
	if err != nil {
		err = fmt.Errorf("look up table %s.%s in publication %s: %w", schema, name, v.Publication, err)
	}
	return filter, err
}

// prepareQuery has the source compute the view's SQL over its own tables. Keys that are set aside are left out: their
// rows may be what Postgres cannot compute.
func (v *verifier) prepareQuery(ctx context.Context, t *target) error {
	sql := t.def.Query
	var path []string
	hidden := false
	for _, m := range t.uses {
		schema, name, _ := strings.Cut(m.Source, ".")
		if m.Name == m.Source {
			sql = strings.ReplaceAll(sql, quoteIdent(m.Name), qualified(schema, name))
		} else if !slices.Contains(path, quoteIdent(schema)) {
			path = append(path, quoteIdent(schema))
		}
		for _, c := range m.Columns {
			hidden = hidden || v.Hidden(m.Source, c.Name)
		}
	}
	if !slices.Contains(path, "public") {
		path = append(path, `"public"`)
	}
	t.path = strings.Join(path, ", ")
	if err := v.enter(ctx, t); err != nil {
		return err
	}
	for _, m := range t.uses {
		if m.Name == m.Source {
			continue
		}
		schema, name, _ := strings.Cut(m.Source, ".")
		var same bool
		if err := v.source.QueryRow(ctx, "SELECT to_regclass($1) IS NOT DISTINCT FROM to_regclass($2)", quoteIdent(m.Name), qualified(schema, name)).Scan(&same); err != nil {
			return fmt.Errorf("look up table %s: %w", m.Source, err)
		}
		if !same {
			return fmt.Errorf("the source has several tables %s; write \"%s\" in the query, in quotes", m.Name, m.Source)
		}
	}
	t.onSource.from = "(" + sql + "\n) t"
	made, err := v.madeOf(ctx, t.def.Types)
	if err != nil {
		return err
	}
	for i, c := range t.def.Columns {
		here, there := canonical(c, t.def.Types[i], SourceColumn{Name: c, Type: t.def.Types[i], Fallbacks: made[i : i+1]})
		t.onSource.values, t.onStore.values = append(t.onSource.values, here), append(t.onStore.values, there)
		t.columns, t.hidden = append(t.columns, c), append(t.hidden, hidden)
	}
	t.key = t.def.Key
	for _, s := range []*side{&t.onSource, &t.onStore} {
		for _, k := range t.key {
			column := "t." + quoteIdent(k)
			if t.query.keyType(k) == "text" && s == &t.onSource {
				column += "::text" // it may be a type that the store does not know
			}
			s.key, s.keyTypes = append(s.key, column), append(s.keyTypes, t.query.keyType(k))
		}
		if err := v.leaveOut(ctx, t, s); err != nil {
			return err
		}
	}
	return nil
}

// madeOf are the types that domains of the store are made of; "" for any other type.
func (v *verifier) madeOf(ctx context.Context, types []string) ([]string, error) {
	rows, err := v.store.Query(ctx, `SELECT coalesce((WITH RECURSIVE made(type, modifier, depth) AS (
			SELECT t.typbasetype, t.typtypmod, 1 FROM pg_type t WHERE t.oid = to_regtype(u.name) AND t.typtype = 'd'
			UNION ALL SELECT t.typbasetype, t.typtypmod, depth + 1 FROM made JOIN pg_type t ON t.oid = made.type AND t.typtype = 'd')
			SELECT format_type(type, modifier) FROM made ORDER BY depth DESC LIMIT 1), '') FROM unnest($1::text[]) WITH ORDINALITY u(name, n) ORDER BY u.n`, types)
	if err != nil {
		return nil, fmt.Errorf("look up types of the view store: %w", err)
	}
	made, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look up types of the view store: %w", err)
	}
	return made, nil
}

// enter has the source find a query's tables.
func (v *verifier) enter(ctx context.Context, t *target) error {
	path := t.path
	if path == "" {
		path = `"public"`
	}
	if _, err := v.source.Exec(ctx, "SET search_path = "+path, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("set up a session of the source: %w", err)
	}
	return nil
}

// leaveOut excludes the keys that are set aside.
func (v *verifier) leaveOut(ctx context.Context, t *target, s *side) error {
	for _, p := range t.parked {
		if p.Mirror != "" {
			continue // not a key of the view
		}
		var texts []string
		parts := make([]string, len(t.key))
		for i, k := range t.key {
			parts[i] = "r." + quoteIdent(k) + "::text"
		}
		if err := v.store.QueryRow(ctx, fmt.Sprintf("SELECT ARRAY[%s] FROM jsonb_populate_record(NULL::%s, $1::text::jsonb) r", strings.Join(parts, ", "), t.table()), string(p.Key)).Scan(&texts); err != nil {
			return fmt.Errorf("read a key that is set aside: %w", err)
		}
		for i := range texts {
			texts[i] = literal(texts[i]) + "::" + s.keyTypes[i]
		}
		s.where = append(s.where, fmt.Sprintf("(%s) <> (%s)", strings.Join(s.key, ", "), strings.Join(texts, ", ")))
	}
	return nil
}

// order finds an order of the keys that both sides have: texts go by their bytes, unless both
// collate them alike, so that an index can be used.
func (v *verifier) order(ctx context.Context, t *target) error {
	for i := range t.key {
		var text bool
		if err := v.store.QueryRow(ctx, "SELECT coalesce((SELECT typcollation <> 0 FROM pg_type WHERE oid = to_regtype($1)), false)", t.onStore.keyTypes[i]).Scan(&text); err != nil {
			return fmt.Errorf("look up type %s: %w", t.onStore.keyTypes[i], err)
		}
		collate := ""
		if text {
			collate = ` COLLATE "C"`
		}
		if text && t.mirror != nil {
			same, err := v.collateAlike(ctx, t, i)
			if err != nil {
				return err
			}
			if same {
				collate = ""
			}
		}
		for _, s := range []*side{&t.onSource, &t.onStore} {
			s.ordered = append(s.ordered, s.key[i]+collate)
		}
	}
	return nil
}

// collateAlike reports whether a column of the key has the default collation on both sides, and both mean the same by it.
func (v *verifier) collateAlike(ctx context.Context, t *target, i int) (bool, error) {
	const sql = `SELECT CASE WHEN a.attcollation = 'pg_catalog."default"'::regcollation THEN concat_ws('|', d->>'datlocprovider', d->>'datcollate', d->>'datctype',
			coalesce(d->>'daticulocale', d->>'datlocale'), CASE WHEN d ? 'datlocprovider' THEN d->>'datcollversion' ELSE version() END)
		ELSE 'another' END FROM pg_attribute a, (SELECT to_jsonb(x) AS d FROM pg_database x WHERE datname = current_database()) d WHERE attrelid = $1::regclass AND attname = $2`
	schema, name, _ := strings.Cut(t.mirror.Source, ".")
	var here, there string
	if err := v.source.QueryRow(ctx, sql, qualified(schema, name), t.mirror.Key[i]).Scan(&here); err != nil {
		return false, fmt.Errorf("look up the collation of %s.%s: %w", t.mirror.Source, t.mirror.Key[i], err)
	}
	if err := v.store.QueryRow(ctx, sql, t.table(), t.key[i]).Scan(&there); err != nil {
		return false, fmt.Errorf("look up the collation of %s.%s: %w", t.table(), t.key[i], err)
	}
	return here == there && here != "another", nil
}
