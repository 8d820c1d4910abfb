package transform

import (
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr/types"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Upcast turns the data of one version into the next one's. Members that it does not name stay as they are.
type Upcast struct {
	From   int // the version that it is for
	Set    []PayloadMember
	Remove []Name
	Where  string // file:line for errors, optional
}

// Upcasts are the mapping's steps to newest versions, for readers: one Upcast for each event type whose rules have a version.
func (m *Mapping) Upcasts() ([]event.Upcast, error) {
	var list []event.Upcast
	var errs []*Error
	for i := range m.Streams {
		for j := range m.Streams[i].Tables {
			t := &m.Streams[i].Tables[j]
			for k := range t.Rules {
				if t.Rules[k].Version > 0 {
					list = t.Rules[k].addUpcasts(list, m.Streams[i].Name, t, &errs)
				}
			}
		}
	}
	return list, joinErrors(errs)
}

func (r *Rule) addUpcasts(list []event.Upcast, stream string, t *TableMapping, errs *[]*Error) []event.Upcast {
	rel := t.relation()
	if stream == eachTable {
		stream = ownStream(rel)
	}
	at := slices.IndexFunc(list, func(u event.Upcast) bool { return u.Stream == stream && u.Type == r.Type })
	if at < 0 {
		at = len(list)
		list = append(list, event.Upcast{Stream: stream, Type: r.Type, Version: r.Version, Steps: map[int]func(*event.Event) error{}})
	}
	for i := range r.Upcasts {
		u := &r.Upcasts[i]
		step, problems := u.compile(r.Type, rel, nil)
		if list[at].Steps[u.From] != nil {
			problems = append(problems, &Error{Where: u.Where, Table: t.Pattern, Fix: "keep one of the two",
				Problem: fmt.Sprintf("two rules say how version %d of %s becomes the next", u.From, r.Type)})
		}
		*errs = append(*errs, problems...)
		list[at].Steps[u.From] = step.apply
	}
	return list
}

// relation is the table's name, without columns.
func (t *TableMapping) relation() *change.Relation {
	rel := &change.Relation{Identity: change.IdentityFull}
	rel.Namespace, rel.Name, _ = strings.Cut(t.Pattern, ".")
	return rel
}

// upcaster is an Upcast compiled. To its expressions, data is a row whose columns are the members that they read.
type upcaster struct {
	*Upcast
	typ  string
	rel  *change.Relation
	set  []*payload // of each member of Set
	made []event.SchemaColumn
	row  row
}

// upcastVars are the names that steps know beside data.
var upcastVars = map[string]types.Type{"op": types.String, "table": types.String, "time": types.String, "tx": types.Int, "lsn": types.String}

// compile compiles a step for the members of its version. Without them, whatever a step reads is taken to be there and to be of any type.
func (u *Upcast) compile(typ string, table *change.Relation, members []event.SchemaColumn) (*upcaster, []*Error) {
	rel := *table
	for i := range members {
		rel.Columns = append(rel.Columns, change.Column{Name: members[i].Name, Type: memberType(members[i].JSON)})
	}
	s := &scope{rel: &rel, rows: map[string]side{"data": newRow}, vars: upcastVars, missing: map[string]string{}}
	for _, name := range []string{"new", "old", "row"} {
		s.missing[name] = "a step sees data, as it was in the earlier version: write data.name"
	}
	s.unknown = func(where, name string) *Error { return u.noMember(typ, &rel, where, name) }
	if members == nil {
		for _, name := range u.reads() {
			rel.Columns = append(rel.Columns, change.Column{Name: name, Type: memberType(jsonAny)})
		}
	}
	out := &upcaster{Upcast: u, typ: typ, rel: &rel}
	c := ruleCompiler{rel: &rel}
	ops := opsOf(change.Insert)
	for i := range u.Set {
		for _, e := range u.Set[i].Value.expressions() {
			if e.Text == "data" {
				c.errs = append(c.errs, s.fail(e, 0, "name a member, as in data.id", "data is an object, not a value"))
			}
		}
		p := &payload{path: []string{u.Set[i].Name}}
		made := c.payloadPart(p, s, ops, &u.Set[i].Value, false)
		made.Name = u.Set[i].Name
		out.set, out.made = append(out.set, p), append(out.made, made)
	}
	for _, name := range u.Remove {
		if members != nil && rel.Column(name.Name) < 0 {
			c.errs = append(c.errs, u.noMember(typ, &rel, name.Where, name.Name))
		}
	}
	appenders := make([]appender, len(rel.Columns))
	for i := range rel.Columns {
		appenders[i] = encoding{}.appender(rel.Columns[i].Type)
	}
	out.row.begin(&rel, appenders)
	return out, c.errs
}

func (u *Upcast) noMember(typ string, rel *change.Relation, where, name string) *Error {
	e := &Error{Where: where, Table: rel.String(), Problem: fmt.Sprintf("version %d of %s has no member %s", u.From, typ, name)}
	if near := nearest(name, allColumns(rel)); near != "" {
		e.Fix = fmt.Sprintf("did you mean %s?", near)
	} else {
		e.Fix = "choose among " + strings.Join(allColumns(rel), ", ")
	}
	return e
}

// reads are the members that the step's expressions read.
func (u *Upcast) reads() []string {
	var names []string
	for i := range u.Set {
		for _, e := range u.Set[i].Value.expressions() {
			for _, name := range e.membersOf("data") {
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// memberType is a type whose values are JSON of the kind.
func memberType(kind string) *change.Type {
	switch kind {
	case jsonInteger:
		return &change.Type{OID: oidInt8, Shape: change.ShapeNumber}
	case jsonNumber:
		return &change.Type{OID: oidNumeric, Shape: change.ShapeNumber}
	case jsonString:
		return &change.Type{Shape: change.ShapeText}
	case jsonBoolean:
		return &change.Type{Shape: change.ShapeBool}
	}
	return &change.Type{OID: oidJSONB, Shape: change.ShapeJSON}
}

// after are the members of data that the step makes of these.
func (u *upcaster) after(members []event.SchemaColumn) []event.SchemaColumn {
	out := slices.DeleteFunc(slices.Clone(members), func(c event.SchemaColumn) bool { return u.names(c.Name) })
	return append(out, u.made...)
}

// names reports whether the step sets or removes the member.
func (u *Upcast) names(member string) bool {
	return slices.ContainsFunc(u.Set, func(m PayloadMember) bool { return m.Name == member }) || u.removes(member)
}

func (u *Upcast) removes(member string) bool {
	return slices.ContainsFunc(u.Remove, func(n Name) bool { return n.Name == member })
}

// checkUpcasts says what of a rule's steps does not fit the versions that the catalogue has, and the newest.
func checkUpcasts(upcasts []Upcast, newest *event.Schema, known []event.Schema) error {
	var errs []*Error
	var members []event.SchemaColumn // of the version that a step is for; nil as long as no version is known
	rel := (&TableMapping{Pattern: newest.Table}).relation()
	version := func(n int) *event.Schema {
		for i := range known {
			if k := &known[i]; k.Stream == newest.Stream && k.Type == newest.Type && k.Version == n {
				return k
			}
		}
		if n == newest.Terms.Version {
			return newest
		}
		return nil
	}
	for i := range upcasts {
		u := &upcasts[i]
		if k := version(u.From); k != nil {
			members = append([]event.SchemaColumn{}, k.Columns...)
		}
		if members == nil {
			continue
		}
		step, problems := u.compile(newest.Type, rel, members)
		if errs = append(errs, problems...); len(problems) > 0 {
			return joinErrors(errs)
		}
		members = step.after(members)
		if next := version(u.From + 1); next != nil {
			errs = append(errs, step.lacks(members, next)...)
		}
	}
	return joinErrors(errs)
}

// lacks says which members of the next version the step does not make.
func (u *upcaster) lacks(made []event.SchemaColumn, next *event.Schema) (errs []*Error) {
	problem := func(format string, args ...any) {
		errs = append(errs, &Error{Where: u.Where, Table: u.rel.String(), Fix: "set it in the step",
			Problem: fmt.Sprintf("the upcast of version %d of %s does not make version %d: ", u.From, u.typ, next.Version) + fmt.Sprintf(format, args...)})
	}
	for i := range next.Columns {
		want := &next.Columns[i]
		at := slices.IndexFunc(made, func(c event.SchemaColumn) bool { return c.Name == want.Name })
		switch {
		case at < 0 && !want.Optional:
			problem("%s is missing, which is %s", want.Name, want.JSON)
		case at >= 0 && !fits(made[at].JSON, want.JSON):
			problem("%s is %s there, and the step leaves %s", want.Name, want.JSON, made[at].JSON)
		}
	}
	return errs
}

// fits reports whether values of one JSON kind may be of the other; of any nothing is known.
func fits(made, want string) bool {
	return made == want || made == jsonAny || want == jsonAny || made == jsonInteger && want == jsonNumber
}
