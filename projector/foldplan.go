package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// foldDef is what a fold does, within a definition.
type foldDef struct {
	Events    []foldEvent `json:"events,omitempty"`
	Streams   []string    `json:"streams"` // all that it reads
	Now       bool        `json:"now,omitempty"`
	Unmatched bool        `json:"unmatched,omitempty"`
	// Of code.
	Types   []string `json:"types,omitempty"`
	Version string   `json:"version,omitempty"`
}

// foldEvent is the SQL for events of a type in some streams.
type foldEvent struct {
	Type    string   `json:"type"`
	Streams []string `json:"streams"`
	SQL     string   `json:"sql"`
}

// parsedFold is a statement with $1, $2 … for its parameters.
type parsedFold struct {
	sql    string
	params []param
}

func (d *definition) folds() bool { return d != nil && d.Fold != nil }

// planFold checks a fold: its types of events and their members against what the streams carry, its SQL against an empty table
// of its shape.
func (p *planner) planFold(ctx context.Context, v *View) (*definition, error) {
	d := &definition{Kind: "fold", Key: v.Key, Fold: &foldDef{Now: v.Now, Unmatched: v.Unmatched, Streams: slices.Clone(v.Streams)}}
	if v.Apply != nil {
		d.Kind, d.Fold.Types, d.Fold.Version = "code", v.Types, v.Version
		if len(v.Streams) == 0 {
			return nil, v.fault(nil, "set View.Streams", "its function has no streams to read")
		}
	}
	var parsed []parsedFold
	for i := range v.Fold {
		f := &v.Fold[i]
		sql, ps, err := parseFold(f.SQL, p.near)
		if err != nil {
			return nil, v.at(f).fault(nil, "", "%s: %s", f.Type, err)
		}
		types, streams, err := p.carriers(v, f)
		if err != nil {
			return nil, err
		}
		for _, param := range ps {
			if err := p.checkParam(v, f, param, types); err != nil {
				return nil, err
			}
		}
		d.Fold.Events = append(d.Fold.Events, foldEvent{Type: f.Type, Streams: streams, SQL: strings.TrimSpace(f.SQL)})
		parsed = append(parsed, parsedFold{sql, ps})
		for _, s := range streams {
			if !slices.Contains(d.Fold.Streams, s) {
				d.Fold.Streams = append(d.Fold.Streams, s)
			}
		}
	}
	slices.Sort(d.Fold.Streams)
	err := pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
		if err := p.tryFold(ctx, tx, v, d, parsed); err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		return nil, err
	}
	return d, nil
}

// at is the view with the place of one of its statements, for errors.
func (v *View) at(f *FoldEvent) *View { return &View{Name: v.Name, Where: f.Where} }

// emitter is the view that emits events of a type, or "".
func (p *planner) emitter(typ string) string {
	for _, v := range p.opts.Views {
		if v.Emit != nil && slices.ContainsFunc(v.Emit.Events, func(e EmitEvent) bool { return e.Type == typ }) {
			return v.Name
		}
	}
	return ""
}

// carriers are the kinds of events that a statement is for, and the streams that carry them.
func (p *planner) carriers(v *View, f *FoldEvent) (types []EventType, streams []string, err error) {
	if p.events == nil {
		return nil, v.Streams, nil
	}
	var names, open []string
	for _, t := range p.events {
		switch {
		case v.Streams != nil && !slices.Contains(v.Streams, t.Stream):
		case t.Type == f.Type:
			types = append(types, t)
			if !slices.Contains(streams, t.Stream) {
				streams = append(streams, t.Stream)
			}
			if t.Read && t.Change {
				return nil, nil, v.at(f).fault(nil, "give rows that a backfill reads a type of their own, with `on: read`, and SQL that may be repeated",
					"%s is made of changes and of rows that a backfill reads: those may come twice, and a change may come in their place", f.Type)
			}
		case t.Type == "" && !slices.Contains(open, t.Stream):
			open = append(open, t.Stream)
		case t.Type != "":
			names = append(names, t.Type)
		}
	}
	switch {
	case len(streams) == 0 && len(open) > 0:
		return nil, open, nil
	case len(streams) == 0:
		slices.Sort(names)
		names = slices.Compact(names)
		fix := "they carry " + strings.Join(names, ", ")
		if near := p.near(f.Type, names); near != "" {
			fix = "did you mean " + near + "?"
		}
		if by := p.emitter(f.Type); by != "" {
			fix = fmt.Sprintf("the view %s emits them, later than the streams of tables and with a watermark of its own: keep such a view in Go, with `Pipeline: %q`, or follow the stream by a consumer", by, event.ViewsPipeline(p.opts.Pipeline))
		}
		return nil, nil, v.at(f).fault(nil, fix, "no stream that it reads carries events of type %s", f.Type)
	case len(streams) > 1 && v.Streams == nil:
		return nil, nil, v.at(f).fault(nil, fmt.Sprintf("choose with `streams: [%s]`", streams[0]),
			"the streams %s carry events of type %s, and each would count", strings.Join(streams, " and "), f.Type)
	}
	return types, streams, nil
}

// checkParam refuses a member that no event of the type has.
func (p *planner) checkParam(v *View, f *FoldEvent, param param, types []EventType) error {
	if len(param.path) == 0 || len(types) == 0 || param.root == "headers" {
		return nil
	}
	var names []string
	for _, t := range types {
		if param.root == "old" {
			names = append(names, t.Old...)
			continue
		}
		if t.Fields == nil {
			return nil
		}
		fields := t.Fields
		for i, name := range param.path {
			at := slices.IndexFunc(fields, func(x EventField) bool { return x.Name == name })
			if at < 0 {
				for _, x := range fields {
					names = append(names, strings.Join(append(slices.Clone(param.path[:i]), x.Name), "."))
				}
				break
			}
			if fields = fields[at].Fields; i == len(param.path)-1 || fields == nil {
				return nil
			}
		}
	}
	if param.root == "old" && slices.Contains(names, param.path[0]) {
		return nil
	}
	slices.Sort(names)
	names = slices.Compact(names)
	fix := "its members are " + strings.Join(names, ", ")
	if len(names) == 0 {
		fix = "it has none; give the rule what the fold needs in `data`"
	} else if near := p.near(strings.Join(param.path, "."), names); near != "" {
		fix = "did you mean :" + param.root + "." + near + "?"
	}
	return v.at(f).fault(nil, fix, "the %s of %s has no %s", param.root, f.Type, strings.Join(param.path, "."))
}

// foldPath is the search path under which a fold's SQL finds its table, and types and functions of extensions.
func foldPath(schema string) string { return quoteIdent(schema) + ", public, pg_temp" }

// tryFold lets Postgres read the fold's SQL over an empty table, and asks it what else it uses.
func (p *planner) tryFold(ctx context.Context, tx pgx.Tx, v *View, d *definition, parsed []parsedFold) error {
	q := &queryPlan{planner: p, view: v, tx: tx, def: d}
	var parts []string
	for _, c := range v.Table {
		parts = append(parts, quoteIdent(c.Name)+" "+c.Type)
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE %s (%s, PRIMARY KEY (%s))", quoteIdent(v.Name), strings.Join(parts, ", "), list("%s", v.Key))); err != nil {
		return q.refuse(err, "table")
	}
	if err := q.output(ctx, quoteIdent(v.Name)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_temp, public"); err != nil {
		return err
	}
	for i := range parsed {
		if err := p.tryStatement(ctx, tx, v, &v.Fold[i], parsed[i]); err != nil {
			return err
		}
	}
	return nil
}

// tryStatement prepares a statement, and makes it the body of a function, of which Postgres says what it uses.
func (p *planner) tryStatement(ctx context.Context, tx pgx.Tx, v *View, f *FoldEvent, parsed parsedFold) error {
	st := foldStatement{name: "walrill try", params: parsed.params}
	d, err := st.prepare(ctx, tx.Conn(), parsed.sql)
	if err != nil {
		return p.refuseFold(v, f, err)
	}
	if err := tx.Conn().Deallocate(ctx, st.name); err != nil {
		return err
	}
	types := make([]string, len(d.ParamOIDs))
	for i, oid := range d.ParamOIDs {
		if err := tx.QueryRow(ctx, "SELECT format_type($1, NULL)", oid).Scan(&types[i]); err != nil {
			return fmt.Errorf("look up types: %w", err)
		}
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE FUNCTION pg_temp.\"walrill try\"(%s) RETURNS void LANGUAGE sql BEGIN ATOMIC %s; END",
		strings.Join(types, ", "), parsed.sql), pgx.QueryExecModeSimpleProtocol); err != nil {
		return p.refuseFold(v, f, err)
	}
	var other string
	err = tx.QueryRow(ctx, `SELECT coalesce(min(d.refobjid::regclass::text), '') FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
		AND d.objid = (SELECT oid FROM pg_proc WHERE proname = 'walrill try' AND pronamespace = pg_my_temp_schema())
		AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> $1::regclass`, quoteIdent(v.Name)).Scan(&other)
	if err != nil {
		return fmt.Errorf("read what view %s uses: %w", v.Name, err)
	}
	if other != "" {
		return v.at(f).fault(nil, "have the event carry what it needs", "%s: it uses %s; a fold has its own table %s and the event only, so that it can be built again from the stream", f.Type, other, v.Name)
	}
	_, err = tx.Exec(ctx, `DROP FUNCTION pg_temp."walrill try"`)
	return err
}

// refuseFold explains why Postgres does not take a statement.
func (p *planner) refuseFold(v *View, f *FoldEvent, err error) error {
	e := pgError(err)
	if e == nil || !isDefinitionError(err) {
		return fmt.Errorf("try out view %s: %w", v.Name, err)
	}
	fix := e.Hint
	switch e.Code {
	case "42P01": // undefined table
		fix = "its table is " + v.Name
	case "42703": // undefined column
		var names []string
		for _, c := range v.Table {
			names = append(names, c.Name)
		}
		fix = "its columns are " + strings.Join(names, ", ")
	case "42P08", "42P18", "42725": // the type of a parameter is not clear
		fix = "write the parameter's type, such as :data.amount::numeric"
	case "0A000":
		fix = "write one INSERT, UPDATE, DELETE or WITH …"
	}
	return v.at(f).fault(nil, fix, "%s: %s (SQLSTATE %s)", f.Type, e.Message, e.Code)
}
