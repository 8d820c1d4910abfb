package projector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// definition is a view as it is kept: what the configuration says, made complete. It is stored
// as JSON, and a view whose definition differs from the stored one is built anew.
type definition struct {
	Kind    string      `json:"kind"` // mirror, query, fold or code
	Key     []string    `json:"key"`
	Query   string      `json:"query,omitempty"`
	Columns []string    `json:"columns"`           // of the view
	Types   []string    `json:"types"`             // of the columns
	Mirrors []mirrorDef `json:"mirrors"`           // that it needs, with the columns that it uses
	Affects []affect    `json:"affects,omitempty"` // one a mirror, in the same order
	Fold    *foldDef    `json:"fold,omitempty"`    // of a fold, and of code
}

// affect gives the keys of a view's rows that changed rows of a mirror touch.
type affect struct {
	SQL     string `json:"sql"` // over `changed`
	Derived bool   `json:"derived"`
}

// mirrorDef is a copy of a table, or what one view needs of it.
type mirrorDef struct {
	Name    string   `json:"name"`   // as queries name it, or the view's own name
	Source  string   `json:"source"` // such as public.orders
	Stream  string   `json:"stream"`
	View    bool     `json:"view,omitempty"` // it is a view itself
	Columns []Column `json:"columns"`
	Key     []string `json:"key"` // names in the source
	Indexes []string `json:"indexes,omitempty"`
}

func sameJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

// same compares all but derivation and streams: what the rows of the view depend on.
func (d *definition) same(o *definition) bool {
	if d == nil || o == nil {
		return d == o
	}
	plain := func(d definition) definition {
		d.Mirrors = slices.Clone(d.Mirrors)
		for i := range d.Mirrors {
			d.Mirrors[i].Stream, d.Mirrors[i].Indexes = "", nil
		}
		d.Affects = nil
		return d
	}
	return sameJSON(plain(*d), plain(*o))
}

// covers reports whether a mirror has all that another definition needs.
func (m *mirrorDef) covers(o *mirrorDef) bool {
	if m.Source != o.Source || m.Stream != o.Stream || m.View != o.View || !slices.Equal(m.Key, o.Key) {
		return false
	}
	for _, c := range o.Columns {
		if !slices.Contains(m.Columns, c) {
			return false
		}
	}
	return !m.View || len(m.Columns) == len(o.Columns)
}

// merge adds what another view needs of the same table.
func (m *mirrorDef) merge(o *mirrorDef) {
	for _, c := range o.Columns {
		if !slices.Contains(m.Columns, c) {
			m.Columns = append(m.Columns, c)
		}
	}
	for _, c := range o.Indexes {
		if !slices.Contains(m.Indexes, c) {
			m.Indexes = append(m.Indexes, c)
		}
	}
}

func (m *mirrorDef) keyAs() []string {
	names := make([]string, len(m.Key))
	for i, k := range m.Key {
		j := slices.IndexFunc(m.Columns, func(c Column) bool { return c.Name == k })
		names[i] = m.Columns[j].As
	}
	return names
}

func (m *mirrorDef) columnNames() []string {
	names := make([]string, len(m.Columns))
	for i, c := range m.Columns {
		names[i] = c.As
	}
	return names
}

// createSQL makes the table of a mirror.
func (m *mirrorDef) createSQL(table string) string {
	parts := make([]string, len(m.Columns))
	for i, c := range m.Columns {
		parts[i] = quoteIdent(c.As) + " " + c.sql()
	}
	return fmt.Sprintf("CREATE TABLE %s (%s, PRIMARY KEY (%s))", table, strings.Join(parts, ", "), list("%s", m.keyAs()))
}

// planner makes definitions of configured views. It tries them out in the store, in
// temporary tables and views, and leaves nothing behind.
type planner struct {
	conn   *pgx.Conn
	tables []Table
	types  map[string]bool // those that the store knows, and collations
	events []EventType     // that the streams carry; nil when nobody says
	near   suggest
	opts   *Options

	emitted map[string][]event.Schema // by view: what its events are
}

// newPlanner resolves the columns' types in the store: a type that it does not know is replaced.
func newPlanner(ctx context.Context, conn *pgx.Conn, o *Options) (*planner, error) {
	var tables []Table
	var events []EventType
	var err error
	if o.Tables != nil {
		if tables, err = o.Tables(ctx); err != nil {
			return nil, err
		}
	}
	if o.Events != nil && slices.ContainsFunc(o.Views, func(v View) bool { return v.folds() }) {
		if events, err = o.Events(ctx); err != nil {
			return nil, err
		}
	}
	var names, collations []string
	for _, t := range tables {
		for _, c := range t.Columns {
			names = append(append(names, c.Type), c.Fallbacks...)
			if c.Collation != "" {
				collations = append(collations, c.Collation)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	rows, err := conn.Query(ctx, `SELECT n FROM unnest($1::text[]) n WHERE to_regtype(n) IS NOT NULL
		UNION ALL SELECT n FROM unnest($2::text[]) n WHERE to_regcollation(n) IS NOT NULL`, names, collations)
	if err != nil {
		return nil, fmt.Errorf("look up types in the view store: %w", err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look up types in the view store: %w", err)
	}
	p := &planner{conn: conn, tables: tables, types: map[string]bool{}, events: events, near: o.Nearest, opts: o, emitted: map[string][]event.Schema{}}
	if p.near == nil {
		p.near = func(string, []string) string { return "" }
	}
	for _, n := range known {
		p.types[n] = true
	}
	return p, nil
}

func (p *planner) column(c SourceColumn, as string) Column {
	typ := c.Type
	if !p.types[typ] || strings.HasPrefix(typ, "reg") { // regclass and the like name what the source's database has
		typ = c.made()
		if i := slices.IndexFunc(c.Fallbacks, func(t string) bool { return p.types[t] }); i >= 0 {
			typ = c.Fallbacks[i]
		}
	}
	column := Column{Name: c.Name, As: as, Type: typ}
	if typ == c.Type && p.types[c.Collation] {
		column.Collation = c.Collation
	}
	return column
}

// plan makes the definition of a view.
func (p *planner) plan(ctx context.Context, v *View) (*definition, error) {
	var d *definition
	var err error
	switch {
	case v.Mirror != "":
		d, err = p.planMirror(v)
	case v.folds():
		d, err = p.planFold(ctx, v)
	default:
		d, err = p.planQuery(ctx, v)
	}
	if err == nil {
		err = p.checkEmit(ctx, v, d)
	}
	return d, err
}

func (v *View) fault(err error, fix, format string, args ...any) error {
	return &SetupError{Where: v.Where, View: v.Name, Problem: fmt.Sprintf(format, args...), Fix: fix, Err: err}
}

func (p *planner) table(name string) *Table {
	for i := range p.tables {
		if p.tables[i].Name == name {
			return &p.tables[i]
		}
	}
	return nil
}

// meant is the way out of a name that is no column of a table.
func (p *planner) meant(name string, t *Table) string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	if near := p.near(name, names); near != "" {
		return "did you mean " + near + "?"
	}
	return "its columns are " + strings.Join(names, ", ")
}

// lacks says why a view cannot use a table that streams take.
func (v *View) lacks(t *Table) error {
	_, name, _ := strings.Cut(t.Name, ".")
	return v.fault(nil, fmt.Sprintf("give them a stream of its own beside that, such as `%s_rows: {tables: {%s: {}}}`", name, t.Name),
		"the rows of table %s are in no stream as they are: %s", t.Name, t.Lacks)
}

// check says what keeps a table from being mirrored.
func (v *View) check(t *Table) error {
	if len(t.Key) == 0 {
		return v.fault(nil, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (…)", t.Name), "table %s has no key by which its rows can be told apart", t.Name)
	}
	return nil
}

func (p *planner) planMirror(v *View) (*definition, error) {
	t := p.table(v.Mirror)
	if t == nil {
		return nil, v.fault(nil, "add it to `streams` as it is: without `events`, `columns` and `numbers: string`", "no stream carries the rows of table %s", v.Mirror)
	}
	if t.Stream == "" {
		return nil, v.lacks(t)
	}
	if err := v.check(t); err != nil {
		return nil, err
	}
	m := mirrorDef{Name: v.Name, Source: t.Name, Stream: t.Stream, View: true, Key: t.Key}
	known := map[string]bool{}
	for _, c := range t.Columns {
		known[c.Name] = true
		out := c.Generated || v.Include != nil && !slices.Contains(v.Include, c.Name) || slices.Contains(v.Exclude, c.Name)
		if out && slices.Contains(t.Key, c.Name) {
			return nil, v.fault(nil, "", "column %s cannot be left out: it is of the key of %s", c.Name, t.Name)
		}
		if out {
			continue
		}
		as := c.Name
		if to := v.Rename[c.Name]; to != "" {
			as = to
		}
		m.Columns = append(m.Columns, p.column(c, as))
	}
	named := slices.Concat(v.Include, v.Exclude)
	for from := range v.Rename {
		named = append(named, from)
	}
	for _, name := range named {
		if !known[name] {
			return nil, v.fault(nil, p.meant(name, t), "table %s has no column %s", t.Name, name)
		}
	}
	d := &definition{Kind: "mirror", Key: m.keyAs(), Mirrors: []mirrorDef{m}}
	for _, c := range m.Columns {
		d.Columns, d.Types = append(d.Columns, c.As), append(d.Types, c.Type)
	}
	return d, nil
}
