package transform

import (
	"slices"

	"github.com/expr-lang/expr/ast"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Outcome is what became of a rule when a change came.
type Outcome string

// The outcomes of a rule.
const (
	Matched   Outcome = "matched"
	NoMatch   Outcome = "no match"   // its condition was false
	NotAsked  Outcome = "not asked"  // it is for other kinds of changes
	NotNeeded Outcome = "not needed" // an `otherwise`, and another rule matched
)

// Asked is a rule that met a change.
type Asked struct {
	Stream, Type string
	Where        string    // the rule's place, may be empty
	Op           change.Op // what it was asked about: a change of key is a delete and an insert
	Outcome      Outcome
	Parts        []Part // of the condition, between its `&&`, when there is one and it was asked
}

// Part is a part of a condition.
type Part struct {
	Text   string
	True   bool
	Reason string // why it could not be told, empty when it could
	Values []ColumnValue
}

// ColumnValue is the value of a column that a condition read, as JSON; empty when Postgres did not send it, and when it is not to be shown
// because the mapping leaves the column out.
type ColumnValue struct {
	Column, JSON string
	LeftOut      bool
}

// tracer gathers what rules say while a change is explained.
type tracer struct{ asked []Asked }

// Explain is Map of a transaction's only change that also tells what became of each rule, in the order in which they were asked. When the error is of a rule,
// what was asked up to it comes with it.
func (m *Mapper) Explain(c *change.Change) ([]event.Event, []Asked, error) {
	events, asked, err := m.Trace(c)
	if err == nil {
		m.release(false)
		events = m.number()
	}
	return events, asked, err
}

// Trace is Explain of one change of many: what needs the whole transaction comes with Commit.
func (m *Mapper) Trace(c *change.Change) ([]event.Event, []Asked, error) {
	m.trace = &tracer{}
	events, err := m.Map(c)
	asked := m.trace.asked
	m.trace = nil
	return events, asked, err
}

// note keeps a rule's outcome when somebody wants to know.
func (m *Mapper) note(r *route, rule *compiledRule, o Outcome) {
	if m.trace != nil {
		m.keep(r, rule, o)
	}
}

func (m *Mapper) keep(r *route, rule *compiledRule, o Outcome) {
	a := Asked{Stream: r.stream.Name, Type: rule.typ, Where: rule.where, Op: m.row.op, Outcome: o}
	if rule.condition != nil && (o == Matched || o == NoMatch) {
		a.Parts = m.parts(r, rule)
	}
	m.trace.asked = append(m.trace.asked, a)
}

// parts evaluates each part of a condition on its own. The values beside it are those that may be published.
func (m *Mapper) parts(r *route, rule *compiledRule) []Part {
	asked := m.asked(r)
	compiler := rule.scope.compiler(rule.condition)
	var parts []Part
	for _, node := range conjuncts(rule.condition.node) {
		p := Part{Text: node.String()}
		asked.failed = nil
		p.True = compiler.cond(node)(asked)
		if asked.failed != nil {
			p.True, p.Reason = false, asked.failed.problem
		}
		for _, c := range compiler.columns(node, nil) {
			p.Values = append(p.Values, m.columnValue(r, rule, c))
		}
		parts = append(parts, p)
	}
	asked.failed, m.row.failed = nil, nil
	return parts
}

// conjuncts are the parts of a condition that must all be true.
func conjuncts(node ast.Node) []ast.Node {
	if b, ok := node.(*ast.BinaryNode); ok && (b.Operator == "&&" || b.Operator == "and") {
		return append(conjuncts(b.Left), conjuncts(b.Right)...)
	}
	return []ast.Node{node}
}

// columns adds the columns that a node reads, each once.
func (c *compiler) columns(node ast.Node, found []*ref) []*ref {
	if column := c.column(node); column != nil {
		for _, f := range found {
			if f.side == column.side && f.column == column.column {
				return found
			}
		}
		return append(found, column)
	}
	for _, child := range children(node) {
		found = c.columns(child, found)
	}
	return found
}

func (m *Mapper) columnValue(r *route, rule *compiledRule, c *ref) ColumnValue {
	side := map[side]string{newRow: "new.", oldRow: "old."}[c.side]
	out := ColumnValue{Column: side + m.row.rel.Columns[c.column].Name}
	if !slices.ContainsFunc(r.shape.columns, func(published column) bool { return published.index == c.column }) {
		out.LeftOut = true
		return out
	}
	m.row.failed = nil
	v := m.row.column(rule.condition.Expr, c)
	switch {
	case m.row.failed != nil:
	case v.Kind == change.Null:
		out.JSON = "null"
	default:
		if text, err := m.row.appenders[c.column](nil, v.Data); err == nil {
			out.JSON = string(text)
		}
	}
	return out
}
