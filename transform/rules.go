package transform

import (
	"fmt"

	"github.com/expr-lang/expr/types"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// ruleSet is the rules of a table in one stream, compiled.
type ruleSet struct {
	rules []compiledRule
	ops   opSet // that any of them is for
}

type compiledRule struct {
	typ       string
	ops       opSet
	when      condFunc // nil is always true
	data      *payload // nil is the whole row with what comes with it
	otherwise bool
	version   int
	upcasts   []Upcast
	where     string
	condition *checked // of when, for Explain
	scope     *scope
	schema    *event.Schema // of the type, which other rules may make too
}

// opSet is a set of operations.
type opSet uint8

func opsOf(ops ...change.Op) opSet {
	var s opSet
	for _, op := range ops {
		s |= opSetOf(op)
	}
	return s
}

func opSetOf(op change.Op) opSet {
	switch op {
	case change.Insert:
		return 1
	case change.Update:
		return 2
	case change.Delete:
		return 4
	case change.Truncate:
		return 8
	case change.Read:
		return 16
	}
	return 0
}

func (s opSet) has(ops opSet) bool { return s&ops != 0 }

var (
	opsWithNew = opsOf(change.Insert, change.Update, change.Read)
	opsWithOld = opsOf(change.Update, change.Delete)
)

// ruleVars are the names that rules know beside the rows.
var ruleVars = map[string]types.Type{
	"op": types.String, "table": types.String, "time": types.String, "tx": types.Int, "lsn": types.String, "moved": types.Bool,
}

// ruleScope is what a rule's expressions may name.
func ruleScope(rel *change.Relation, ops opSet) *scope {
	s := &scope{rel: rel, rows: map[string]side{}, vars: ruleVars, missing: map[string]string{}}
	if ops.has(opsWithNew) {
		s.rows["new"] = newRow
	} else {
		s.missing["new"] = "there is no new row in a delete or truncate"
	}
	if ops.has(opsWithOld) {
		s.rows["old"] = oldRow
	} else {
		s.missing["old"] = "there is no old row in an insert, read or truncate"
	}
	return s
}

// ruleCompiler compiles the rules of one table and gathers what is wrong with
// them. A doubt is an old value that Postgres will not send: it is an error at
// the start, and in the stream only of a change that it is about.
type ruleCompiler struct {
	rel      *change.Relation
	masks    *masker // of what payloads see; conditions see everything
	encoding encoding
	row      []event.SchemaColumn // of the whole row
	reads    []int                // columns of expressions
	rows     bool                 // whole rows are written
	errs     []*Error
	doubts   []*Error
}

func (c *ruleCompiler) compile(rules []Rule) *ruleSet {
	if len(rules) == 0 {
		c.rows = true
		return nil
	}
	set := &ruleSet{}
	for i := range rules {
		r := c.rule(&rules[i])
		set.rules = append(set.rules, r)
		set.ops |= r.ops
	}
	return set
}

func (c *ruleCompiler) rule(r *Rule) compiledRule {
	out := compiledRule{typ: r.Type, ops: opsOf(r.On...), otherwise: r.Otherwise, version: r.Version, upcasts: r.Upcasts, where: r.Where}
	s := ruleScope(c.rel, out.ops)
	if r.When != nil {
		if e := c.check(s, out.ops, r.When); e != nil {
			if !e.isUnknown() && !e.result.IsBool() {
				c.errs = append(c.errs, s.fail(r.When, 0, "", "when must be true or false, and this is %s", typeName(e)))
			}
			out.when = s.compiler(e).cond(e.node)
			out.condition, out.scope = e, s
		}
	}
	c.rows = c.rows || r.Data == nil
	if r.Data != nil {
		out.data = c.payload(ruleScope(c.masks.seen(c.rel), out.ops), out.ops, r.Data)
	}
	return out
}

// check returns nil when the expression is wrong, which it has noted.
func (c *ruleCompiler) check(s *scope, ops opSet, e *Expr) *checked {
	out, errs := s.check(e)
	if len(errs) > 0 {
		c.errs = append(c.errs, errs...)
		return nil
	}
	for i := range out.refs {
		c.reads = append(c.reads, out.refs[i].column)
		if ref := &out.refs[i]; ref.side == oldRow && !c.rel.Columns[ref.column].Key {
			c.doubts = append(c.doubts, c.doubt(e, ref.at, c.rel.Columns[ref.column].Name))
		}
	}
	return out
}

func (c *ruleCompiler) doubt(e *Expr, at int, column string) *Error {
	return &Error{Where: e.where(at), Table: c.rel.String(), Columns: []string{column},
		Problem: fmt.Sprintf("Postgres does not send the old value of %s: it sends those of the replica identity only, %s", column, identityText(c.rel)),
		Fix:     fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", sqlName(c.rel))}
}

// typeName is the type of an expression's result in plain words.
func typeName(e *checked) string {
	switch {
	case e.result.IsString():
		return "text"
	case e.result.IsBool():
		return "true or false"
	case e.result.IsInteger:
		return "a whole number"
	case e.result.IsNumber():
		return "a number"
	case e.result.Nil:
		return "nil"
	}
	return "a list or an object"
}

var opsOfUpdate = opsOf(change.Update, change.Insert, change.Delete)

// ruleEvents makes the events of the rules that match what m.row was set to.
// key is nil when it is not known yet.
func (m *Mapper) ruleEvents(t *table, r *route, key []byte) error {
	ops, emitted := opSetOf(m.row.op), false
	if !r.rules.ops.has(ops) && m.trace == nil {
		return nil
	}
	asked := m.beginRules(t, r)
	for i := range r.rules.rules {
		rule := &r.rules.rules[i]
		if !rule.ops.has(ops) {
			m.note(r, rule, NotAsked)
			continue
		}
		if rule.otherwise && emitted {
			m.note(r, rule, NotNeeded)
			continue
		}
		matched := rule.when == nil || rule.when(asked)
		if asked.failed != nil {
			m.row.failed = asked.failed
			return m.ruleFailed(t, r, rule, key)
		}
		if !matched {
			m.note(r, rule, NoMatch)
			continue
		}
		m.note(r, rule, Matched)
		emitted = emitted || !rule.otherwise
		if err := m.ruleEvent(t, r, rule, &key); err != nil {
			return err
		}
	}
	return nil
}

// beginRules starts with the rules of a table and gives the row that their conditions are asked about.
func (m *Mapper) beginRules(t *table, r *route) *row {
	if r.masks == nil {
		m.row.begin(t.rel, t.appenders)
	} else {
		m.row.begin(r.masks.rel, r.masks.appenders)
		m.clear.begin(t.rel, t.appenders)
	}
	return m.asked(r)
}

// asked is the row that conditions see: they publish nothing and see the values as they are.
// Everything else goes by m.row, as it is published.
func (m *Mapper) asked(r *route) *row {
	if r.masks == nil {
		return &m.row
	}
	return &m.clear
}

// ruleEvent emits the event of a rule that matches.
func (m *Mapper) ruleEvent(t *table, r *route, rule *compiledRule, key *[]byte) (err error) {
	values := m.row.new
	if values == nil {
		values = m.row.old
	}
	if *key == nil && m.row.op != change.Truncate {
		if *key, err = m.key(t, r, values, m.row.before); err != nil {
			return err
		}
	}
	var data, old, unchanged []byte
	switch {
	case rule.data != nil:
		if data, err = m.payload(t, r, rule, *key); err != nil {
			return err
		}
	case values != nil:
		if data, old, err = m.wholeRow(r, values); err != nil {
			return err
		}
	}
	if m.row.new != nil && (rule.data == nil || rule.data.wholeNew) {
		start := len(m.buf)
		m.buf = r.shape.appendUnchanged(m.buf, m.row.new, m.row.before)
		unchanged = m.buf[start:]
	}
	first := len(m.events)
	if m.row.op == change.Truncate {
		m.everywhere(t, r, rule.typ)
	} else if err := m.addKeyData(m.emit(t, r, rule.typ, m.row.op, *key), r, values, m.row.before); err != nil {
		return err
	}
	for i := range m.events[first:] {
		e := &m.events[first+i]
		e.Data, e.Old, e.Unchanged = data, old, unchanged
		e.Schema, e.Shape = rule.schema.Version, rule.schema
	}
	return nil
}

// wholeRow is data, and old for an update, of a rule that says nothing of data.
func (m *Mapper) wholeRow(r *route, values []change.Value) (data, old []byte, err error) {
	start := len(m.buf)
	if m.buf, err = r.shape.appendRow(m.buf, values, m.row.before); err != nil {
		return nil, nil, err
	}
	data = m.buf[start:]
	if m.row.op == change.Update {
		old, err = m.oldValues(r.shape, m.row.new, m.row.old)
	}
	return data, old, err
}

func (m *Mapper) payload(t *table, r *route, rule *compiledRule, key []byte) (_ []byte, err error) {
	start := len(m.buf)
	if m.buf, err = rule.data.append(m.buf, &m.row, r.shape); err != nil {
		return nil, err
	}
	if m.row.failed == nil && m.buf[start] != '{' {
		m.row.fail(rule.data.parts[0].expr, 0, "data is not an object", "")
	}
	if m.row.failed != nil {
		return nil, m.ruleFailed(t, r, rule, key)
	}
	return m.buf[start:], nil
}

// ruleFailed says which rule could not handle which row. No value of the row
// is in it but its key.
func (m *Mapper) ruleFailed(t *table, r *route, rule *compiledRule, key []byte) error {
	if key == nil && m.row.op != change.Truncate {
		values := m.row.new
		if values == nil {
			values = m.row.old
		}
		key, _ = m.key(t, r, values, m.row.before) // the first failure counts
	}
	f := m.row.failed
	position := event.Position{Commit: m.commit, Ordinal: m.ordinal + uint64(len(m.events)) + 1}
	return &Error{Where: f.expr.where(f.at), Stream: r.stream.Name, Table: t.name, Fix: f.fix, Err: f.err,
		Problem: fmt.Sprintf("the rule %s failed on the %s of key %q at %s: %s", rule.typ, m.row.opName(), key, position, f.text()),
		ofRow:   f.err == nil}
}
