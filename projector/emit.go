package projector

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// A view emits events when its rows change: a trigger on its table looks at the row before and after, and puts what is to be said into
// walrill.outbox, in the transaction that changes the row. It does so only where a session that follows the streams says
// which source transaction the change is of; what a rebuild brings, and what somebody else writes, is no event.
// Each row of the outbox has its place in its stream, (commit, n), which is the entry's ID; see Outbox for the rest of the way.

// Emit is what a view emits.
type Emit struct {
	Stream        string
	Compatibility event.Compatibility // of new versions of the data
	Events        []EmitEvent
}

// EmitEvent is a type of event. When, Key and Data are SQL of `old` and `new`, which are NULL when there is no such row.
type EmitEvent struct {
	Type, When string
	Key        string       // "" is the view's key
	Data       []EmitMember // nil is the row
	Version    int          // of the data; 0 leaves it to the catalogue
	Where      string       // place in the configuration, for errors
}

// EmitMember is a member of an event's data.
type EmitMember struct{ Name, SQL string }

const emitTrigger = "walrill emit"

// checkEmit lets Postgres read the expressions of a view that emits, over rows of its shape.
func (p *planner) checkEmit(ctx context.Context, v *View, d *definition) error {
	if v.Emit == nil {
		return nil
	}
	for _, t := range p.tables {
		if t.Stream == v.Emit.Stream {
			return v.fault(nil, "choose another stream", "the stream %s carries changes of table %s; views need one of their own", t.Stream, t.Name)
		}
	}
	p.emitted[v.Name] = nil
	for i := range v.Emit.Events {
		e := &v.Emit.Events[i]
		at := &View{Name: v.Name, Where: e.Where}
		if strings.Contains(e.When+e.Key+e.data()+e.key(d), "$walrill$") {
			return at.fault(nil, "", "%s: $walrill$ cannot be in it", e.Type)
		}
		members := e.members(d)
		sql := make([]string, len(members))
		for i, m := range members {
			sql[i] = ", (" + m.SQL + ")"
		}
		var kinds []string
		err := pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
			if err := tryExec(ctx, tx, "CREATE TEMP TABLE \"walrill emit\" ("+columnList(d)+")"); err != nil {
				return err
			}
			st, err := tx.Prepare(ctx, "walrill emit", fmt.Sprintf(`SELECT (%s)::boolean, (%s)::text, %s%s FROM "walrill emit" old, "walrill emit" new`, e.When, e.key(d), e.data(), strings.Join(sql, "")))
			if err != nil {
				return err
			}
			if kinds, err = jsonKinds(ctx, tx, st.Fields[3:]); err != nil {
				return err
			}
			if err := tx.Conn().Deallocate(ctx, "walrill emit"); err != nil {
				return err
			}
			return errUndo
		})
		if pg := pgError(err); pg != nil && isDefinitionError(err) {
			return at.fault(nil, "old and new have the columns "+strings.Join(d.Columns, ", "), "emit: %s: %s (SQLSTATE %s)", e.Type, pg.Message, pg.Code)
		}
		if !errors.Is(err, errUndo) {
			return fmt.Errorf("try out what view %s emits: %w", v.Name, err)
		}
		p.emitted[v.Name] = append(p.emitted[v.Name], e.schema(p.opts, v, d, kinds))
	}
	return nil
}

// key is the ordering key: that of the view, as keys of tables are written, or what the configuration says.
func (e *EmitEvent) key(d *definition) string {
	if e.Key != "" {
		return e.Key
	}
	parts := make([]string, len(d.Key))
	for i, k := range d.Key {
		parts[i] = fmt.Sprintf("coalesce(new.%s, old.%s)::text", quoteIdent(k), quoteIdent(k))
		if len(d.Key) > 1 {
			parts[i] = fmt.Sprintf("replace(replace(%s, '%%', '%%25'), '/', '%%2F')", parts[i])
		}
	}
	return strings.Join(parts, " || '/' || ")
}

// data is the event's data as jsonb.
func (e *EmitEvent) data() string {
	if e.Data == nil {
		return "coalesce(to_jsonb(new), to_jsonb(old))"
	}
	parts := make([]string, len(e.Data))
	for i, m := range e.Data {
		parts[i] = literal(m.Name) + ", (" + m.SQL + ")"
	}
	return "jsonb_build_object(" + strings.Join(parts, ", ") + ")"
}

// emitBody is the trigger function of a view.
func (v *View) emitBody(o *Options, d *definition, forms []form) string {
	return fmt.Sprintf(`DECLARE walrill_place text := current_setting('walrill.place', true);
BEGIN
  IF coalesce(walrill_place, '') = '' THEN RETURN NULL; END IF;
%s%s  RETURN NULL;
END`, v.notePart(o, d), v.emitSQL(o, d, forms, "left(TG_OP, 1)"))
}

// emitSQL says what is to be said of `old` and `new`; op is INSERT, UPDATE or DELETE, or how they begin.
func (v *View) emitSQL(o *Options, d *definition, forms []form, op string) string {
	var b strings.Builder
	for i := range v.Emit.Events {
		e := &v.Emit.Events[i]
		fmt.Fprintf(&b, "  IF (%s) THEN\n    PERFORM walrill.emit(%s, %s, %s, %s, %s, translate(%s, 'IUD', 'cud'), (%s)::text, %s, walrill_place);\n  END IF;\n",
			e.When, literal(o.Pipeline), literal(v.Emit.Stream), literal(o.Schema+"."+v.Name), literal(e.Type), literal(forms[i].id), op, e.key(d), e.data())
	}
	return b.String()
}

// loadEmits puts the triggers of live views in step with the configuration. A view whose definition is about to change
// emits by the one that it is kept by.
func (s *session) loadEmits(ctx context.Context) error {
	emits := map[string]bool{}
	for i := range s.opts.Views {
		v := &s.opts.Views[i]
		row := s.views[v.Name]
		if row == nil || row.state != stateLive || row.def == nil {
			continue
		}
		if emits[v.Name] = v.Emit != nil; v.Emit != nil && !row.def.same(s.wanted[v.Name]) {
			continue
		}
		if err := s.installEmit(ctx, v, row.def); err != nil {
			return fmt.Errorf("have view %s emit events: %w", v.Name, err)
		}
	}
	for _, f := range s.folds {
		f.emits = emits[f.view]
	}
	s.loadSteps(emits)
	return nil
}

// installEmit makes the trigger of a view, or removes it, where it is not as it should be.
func (s *session) installEmit(ctx context.Context, v *View, d *definition) error {
	table := qualified(s.opts.Schema, v.Name)
	schema := mirrorSchema(s.opts.Pipeline)
	function, parts := qualified(schema, "emit~"+v.Name), partsFunction(s.opts, v.Name)
	forms, err := s.forms(v)
	if err != nil {
		return err
	}
	var has string
	var fires, known bool
	err = s.conn.QueryRow(ctx, `SELECT coalesce((SELECT prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = $2), ''),
		EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($3) AND tgname = $4),
		(SELECT count(DISTINCT f) FROM unnest($6::text[]) f) = (SELECT count(*) FROM walrill.forms f WHERE f.pipeline = $5 AND f.id = ANY ($6))`, short(schema), short("emit~"+v.Name), table, emitTrigger, s.opts.Pipeline, formIDs(forms)).Scan(&has, &fires, &known)
	if err != nil {
		return err
	}
	want := ""
	if v.Emit != nil {
		want = v.emitBody(s.opts, d, forms)
	}
	if known && has == want && fires == (want != "") {
		return nil
	}
	return s.in(ctx, s.pos, func(tx pgx.Tx) error {
		sql := []string{fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", quoteIdent(emitTrigger), table), "DROP FUNCTION IF EXISTS " + function + "()", "DROP FUNCTION IF EXISTS " + parts + "()"}
		if want != "" {
			sql = append(sql, "CREATE FUNCTION "+function+"() RETURNS trigger LANGUAGE plpgsql AS $walrill$"+want+"$walrill$",
				fmt.Sprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()", quoteIdent(emitTrigger), table, function))
		}
		if want != "" && d.Kind == "mirror" {
			sql = append(sql, "CREATE FUNCTION "+parts+"() RETURNS void LANGUAGE plpgsql AS $walrill$"+v.partsBody(s.opts, d, forms)+"$walrill$")
		}
		for _, q := range sql {
			if err := tryExec(ctx, tx, q); err != nil {
				return err
			}
		}
		for _, f := range forms {
			if _, err := tx.Exec(ctx, "INSERT INTO walrill.forms (pipeline, id, schema) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", s.opts.Pipeline, f.id, f.text); err != nil {
				return err
			}
		}
		return nil
	})
}

// setPlace says in the transaction of which source transaction the changes of views are.
const setPlace = "SELECT set_config('walrill.place', $1, true)"

// placeOf is the place of what is made of an event, never below what was read before: a retry is of now.
func placeOf(commit, floor uint64, at time.Time, tx uint32) string {
	if at.IsZero() {
		at = time.Now()
	}
	return fmt.Sprintf("%d %s %d", max(commit, floor), at.UTC().Format(event.TimeFormat), tx)
}

// columnList is a view's columns with their types, for CREATE TABLE.
func columnList(d *definition) string {
	parts := make([]string, len(d.Columns))
	for i, c := range d.Columns {
		parts[i] = quoteIdent(c) + " " + d.columnSQL(i)
	}
	return strings.Join(parts, ", ")
}
