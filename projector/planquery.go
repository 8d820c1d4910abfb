package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// errUndo ends a transaction that only tried something out.
var errUndo = errors.New("undo")

// planQuery lets Postgres read the query over empty tables of the right shape, and
// asks it which of their columns it uses.
func (p *planner) planQuery(ctx context.Context, v *View) (*definition, error) {
	q := &queryPlan{planner: p, view: v, refs: p.references(v)}
	err := pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
		q.tx = tx
		if err := q.plan(ctx); err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		return nil, err
	}
	return q.def, nil
}

type queryPlan struct {
	*planner
	view *View
	tx   pgx.Tx
	refs map[string]*Table // tables by the names that the query may have for them
	def  *definition
	used map[string][]string // columns by such a name
}

// references are the names that a query may have for tables: the plain name where it is clear,
// that of the schema public when there are several, and "schema.table" in quotes. Only those whose name is
// somewhere in the text matter.
func (p *planner) references(v *View) map[string]*Table {
	text := strings.ToLower(v.Query)
	for _, sql := range v.Affects {
		text += "\n" + strings.ToLower(sql)
	}
	refs, ambiguous := map[string]*Table{}, map[string]bool{}
	for i := range p.tables {
		t := &p.tables[i]
		schema, name, _ := strings.Cut(t.Name, ".")
		if t.Stream == "" || !strings.Contains(text, strings.ToLower(name)) {
			continue
		}
		refs[t.Name] = t
		if other := refs[name]; other == nil || schema == "public" {
			refs[name] = t
		} else if !strings.HasPrefix(other.Name, "public.") {
			ambiguous[name] = true
		}
	}
	for name := range ambiguous {
		if !strings.HasPrefix(refs[name].Name, "public.") {
			delete(refs, name)
		}
	}
	return refs
}

const tryView = "walrill try"

func (q *queryPlan) plan(ctx context.Context) error {
	for name, t := range q.refs {
		if err := q.shadow(ctx, name, t); err != nil {
			return err
		}
	}
	query := strings.TrimSuffix(strings.TrimSpace(q.view.Query), ";")
	if _, err := q.tx.Exec(ctx, "CREATE TEMP VIEW "+quoteIdent(tryView)+" AS "+query); err != nil {
		return q.refuse(err, "query")
	}
	q.def = &definition{Kind: "query", Key: q.view.Key, Query: query}
	if err := q.output(ctx, quoteIdent(tryView)); err != nil {
		return err
	}
	var err error
	if q.used, err = q.dependencies(ctx, tryView); err != nil {
		return err
	}
	var viewdef string
	if err := q.tx.QueryRow(ctx, "SELECT pg_get_viewdef($1::regclass)", quoteIdent(tryView)).Scan(&viewdef); err != nil {
		return fmt.Errorf("read the query of view %s back: %w", q.view.Name, err)
	}
	whole := wholeRows(viewdef)
	shape := parseShape(viewdef)
	for _, name := range sortedKeys(q.used) {
		if err := q.view.check(q.refs[name]); err != nil {
			return err
		}
		a, err := q.affects(ctx, shape, name)
		if err != nil {
			return err
		}
		q.def.Affects = append(q.def.Affects, a)
		if whole {
			q.used[name] = nil
			for _, c := range q.refs[name].Columns {
				if !c.Generated {
					q.used[name] = append(q.used[name], c.Name)
				}
			}
		}
	}
	for _, name := range sortedKeys(q.used) { // affects may have added columns of any
		q.def.Mirrors = append(q.def.Mirrors, q.mirror(shape, name))
	}
	return q.unknownAffects()
}

// shadow makes an empty table with the columns of one of the source.
func (q *queryPlan) shadow(ctx context.Context, name string, t *Table) error {
	var parts []string
	for _, c := range t.Columns {
		if !c.Generated {
			column := q.column(c, c.Name)
			parts = append(parts, quoteIdent(c.Name)+" "+column.sql())
		}
	}
	if len(t.Key) > 0 {
		parts = append(parts, "PRIMARY KEY ("+list("%s", t.Key)+")")
	}
	if _, err := q.tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE %s (%s)", quoteIdent(name), strings.Join(parts, ", "))); err != nil {
		return fmt.Errorf("try out view %s: make table %s: %w", q.view.Name, name, err)
	}
	return nil
}

// refuse explains why Postgres does not take SQL of the configuration.
func (q *queryPlan) refuse(err error, what string) error {
	e := pgError(err)
	if e == nil {
		return fmt.Errorf("try out view %s: %w", q.view.Name, err)
	}
	fix := e.Hint
	switch {
	case e.Code == "42P01": // undefined table
		var names []string
		for i, t := range q.tables {
			if t.Stream == "" {
				if schema, name, _ := strings.Cut(t.Name, "."); schema == "public" && strings.Contains(e.Message, `"`+name+`"`) || strings.Contains(e.Message, `"`+t.Name+`"`) {
					return q.view.lacks(&q.tables[i])
				}
				continue
			}
			names = append(names, strings.TrimPrefix(t.Name, "public."))
		}
		fix = "the streams carry " + strings.Join(names, ", ")
	case e.Code == "42703" || e.Code == "42803":
	case !isDefinitionError(err):
		return fmt.Errorf("try out view %s: %w", q.view.Name, err)
	}
	return q.view.fault(nil, fix, "%s: %s (SQLSTATE %s)", what, e.Message, e.Code)
}

// output reads the columns of the result, which is a temporary view or table.
func (q *queryPlan) output(ctx context.Context, of string) error {
	rows, err := q.tx.Query(ctx, `SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
		WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum`, of)
	if err != nil {
		return fmt.Errorf("read the columns of view %s: %w", q.view.Name, err)
	}
	var name, typ string
	if _, err := pgx.ForEachRow(rows, []any{&name, &typ}, func() error {
		q.def.Columns, q.def.Types = append(q.def.Columns, name), append(q.def.Types, typ)
		return nil
	}); err != nil {
		return fmt.Errorf("read the columns of view %s: %w", q.view.Name, err)
	}
	for _, k := range q.view.Key {
		if !slices.Contains(q.def.Columns, k) {
			return q.view.fault(nil, "its columns are "+strings.Join(q.def.Columns, ", "), "the query has no column %s, which is the key", k)
		}
	}
	return nil
}

// dependencies are the columns that a temporary view uses, by table. Other tables than the
// streams' are refused: nothing would say when they change.
func (q *queryPlan) dependencies(ctx context.Context, view string) (map[string][]string, error) {
	rows, err := q.tx.Query(ctx, `
		SELECT c.relname::text, n.nspname::text, c.relpersistence = 't', coalesce(a.attname::text, '')
		FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
		JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
		WHERE r.ev_class = $1::regclass AND d.refobjid <> r.ev_class AND c.relkind <> 'c' ORDER BY a.attnum`, quoteIdent(view))
	if err != nil {
		return nil, fmt.Errorf("read what view %s uses: %w", q.view.Name, err)
	}
	used := map[string][]string{}
	var name, schema, column string
	var temporary bool
	_, err = pgx.ForEachRow(rows, []any{&name, &schema, &temporary, &column}, func() error {
		if t := q.table(schema + "." + name); !temporary && t != nil && t.Stream == "" {
			return q.view.lacks(t)
		}
		if !temporary {
			return q.view.fault(nil, "write the name of a table of the streams, without a schema; add it to `streams` when it is in none",
				"it reads %s.%s, which is not a mirror", schema, name)
		}
		if used[name] == nil {
			used[name] = []string{}
		}
		if column != "" && !slices.Contains(used[name], column) {
			used[name] = append(used[name], column)
		}
		return nil
	})
	return used, err
}

// wholeRows reports whether the query uses a row as a value, such as to_jsonb(o): then
// every column of its tables counts, and Postgres does not say of which.
func wholeRows(viewdef string) bool {
	list := tokens(viewdef)
	for i := range list {
		if i+1 < len(list) && list[i].is(".") && list[i+1].is("*") {
			return true
		}
	}
	return false
}

// affects takes what the configuration says for a table, or derives it.
func (q *queryPlan) affects(ctx context.Context, s *shape, name string) (affect, error) {
	sql, given := q.view.Affects[name]
	if !given {
		derived, err := s.derive(name, q.view.Key)
		if err != nil {
			return affect{}, q.view.fault(nil, fmt.Sprintf("write `affects: {%s: SELECT … FROM changed}`, which gives the keys (%s) to recompute when rows of %s change; "+
				"`changed` has their old and new versions", name, strings.Join(q.view.Key, ", "), name),
				"which rows a change of %s affects cannot be derived, because %s", name, err)
		}
		sql = derived
	}
	sql = strings.TrimSuffix(strings.TrimSpace(sql), ";")
	what := "affects." + name
	if _, err := q.tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE changed (LIKE %s)", quoteIdent(name))); err != nil {
		return affect{}, fmt.Errorf("try out %s of view %s: %w", what, q.view.Name, err)
	}
	const try = "walrill affects"
	if _, err := q.tx.Exec(ctx, "CREATE TEMP VIEW "+quoteIdent(try)+" AS "+sql); err != nil {
		return affect{}, q.refuse(err, what)
	}
	var n int
	if err := q.tx.QueryRow(ctx, "SELECT count(*) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", quoteIdent(try)).Scan(&n); err != nil {
		return affect{}, fmt.Errorf("try out %s of view %s: %w", what, q.view.Name, err)
	}
	if n != len(q.view.Key) {
		return affect{}, q.view.fault(nil, "", "%s gives %d columns; want the key, %s", what, n, strings.Join(q.view.Key, ", "))
	}
	used, err := q.dependencies(ctx, try)
	if err != nil {
		return affect{}, err
	}
	for table, columns := range used {
		if table == "changed" {
			table = name
		}
		if _, ok := q.used[table]; !ok {
			return affect{}, q.view.fault(nil, "", "%s reads %s, which the query does not", what, table)
		}
		for _, c := range columns {
			if !slices.Contains(q.used[table], c) {
				q.used[table] = append(q.used[table], c)
			}
		}
	}
	_, err = q.tx.Exec(ctx, "DROP VIEW "+quoteIdent(try)+"; DROP TABLE changed", pgx.QueryExecModeSimpleProtocol)
	return affect{SQL: sql, Derived: !given}, err
}

// mirror is what the query needs of a table: the key and the columns that it uses, in the source's order.
func (q *queryPlan) mirror(s *shape, name string) mirrorDef {
	t := q.refs[name]
	m := mirrorDef{Name: name, Source: t.Name, Stream: t.Stream, Key: t.Key}
	for _, c := range t.Columns {
		if slices.Contains(t.Key, c.Name) || slices.Contains(q.used[name], c.Name) {
			m.Columns = append(m.Columns, q.column(c, c.Name))
		}
	}
	for _, c := range s.joined(name, q.view.Key) {
		if c != t.Key[0] && slices.ContainsFunc(m.Columns, func(x Column) bool { return x.Name == c }) {
			m.Indexes = append(m.Indexes, c)
		}
	}
	return m
}

func (q *queryPlan) unknownAffects() error {
	for name := range q.view.Affects {
		if _, ok := q.used[name]; !ok {
			return q.view.fault(nil, "the query reads "+strings.Join(sortedKeys(q.used), ", "), "affects names %s, which the query does not read", name)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
