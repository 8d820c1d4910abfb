package transform

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/checker"
	"github.com/expr-lang/expr/checker/nature"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/types"

	"github.com/walrill/walrill/change"
)

// Expr is an expression of the mapping, in the language of
// github.com/expr-lang/expr, which parses it and checks its types. It is
// evaluated here, on the text that Postgres sent (see evaluate.go).
type Expr struct {
	Text string
	// Where gives file:line:column of a character of Text; nil when nobody knows.
	Where func(character int) string
}

func (e *Expr) where(character int) string {
	if e.Where == nil {
		return ""
	}
	return e.Where(character)
}

// side is a row that an expression reads.
type side uint8

const (
	newRow side = iota
	oldRow
)

// scope is what an expression may name.
type scope struct {
	rel  *change.Relation
	rows map[string]side // by their names: new and old, or row for a key
	vars map[string]types.Type
	// missing says why a row is not there.
	missing map[string]string
	// unknown says that a row has no such column; nil for the usual words.
	unknown func(where, name string) *Error
}

// checked is an expression that fits its table.
type checked struct {
	*Expr
	node   ast.Node
	result nature.Nature
	refs   []ref
	fast   *nature.Cache
}

// ref is a column that an expression reads.
type ref struct {
	side   side
	column int
	at     int // character of the expression
}

// check parses an expression and checks it against a table: names first, all
// of them, and then types, up to the first that does not fit.
func (s *scope) check(e *Expr) (*checked, []*Error) {
	config := conf.CreateNew()
	config.WithEnv(s.environment())
	tree, err := parser.ParseWithConfig(e.Text, config)
	if err != nil {
		return nil, []*Error{s.libraryError(e, err)}
	}
	n := namer{scope: s, expr: e, bound: map[string]int{}}
	n.visit(tree.Node)
	if len(n.errs) > 0 {
		return nil, n.errs
	}
	if _, err := checker.Check(tree, config); err != nil {
		return nil, []*Error{s.libraryError(e, err)}
	}
	return &checked{Expr: e, node: tree.Node, result: *tree.Node.Nature(), refs: n.refs, fast: &config.NtCache}, nil
}

// syntax reports what can be seen to be wrong without a table.
func (e *Expr) syntax() error {
	if _, err := parser.Parse(e.Text); err != nil {
		return (&scope{}).libraryError(e, err)
	}
	return nil
}

// membersOf are the members of a name, such as id in data.id, that the expression reads; none of one that cannot be parsed.
func (e *Expr) membersOf(name string) (members []string) {
	tree, err := parser.Parse(e.Text)
	if err != nil {
		return nil
	}
	var visit func(ast.Node)
	visit = func(node ast.Node) {
		if m, ok := node.(*ast.MemberNode); ok {
			id, isName := m.Node.(*ast.IdentifierNode)
			if property, ok := m.Property.(*ast.StringNode); ok && isName && id.Value == name {
				members = append(members, property.Value)
			}
		}
		if v, ok := node.(*ast.VariableDeclaratorNode); ok {
			visit(v.Value)
			visit(v.Expr)
		}
		for _, child := range children(node) {
			visit(child)
		}
	}
	visit(tree.Node)
	return members
}

// isUnknown reports whether the result's type shows only at run time, as with JSON.
func (c *checked) isUnknown() bool { return c.result.IsUnknown(c.fast) }

// environment gives the library the types of all names.
func (s *scope) environment() types.Map {
	columns := types.Map{}
	for i := range s.rel.Columns {
		columns[s.rel.Columns[i].Name] = exprType(s.rel.Columns[i].Type)
	}
	env := types.Map{}
	for name := range s.rows {
		env[name] = columns
	}
	for name, typ := range s.vars {
		env[name] = typ
	}
	return env
}

// exprType is the type that a column has in expressions.
func exprType(t *change.Type) types.Type {
	switch columnKind(t) {
	case kindBool:
		return types.Bool
	case kindInt:
		return types.Int
	case kindFloat, kindDecimal:
		return types.Float64
	case kindText:
		return types.String
	}
	switch t.Shape {
	case change.ShapeArray:
		return types.Array(exprType(t.Elem))
	case change.ShapeComposite:
		fields := types.Map{}
		for _, f := range t.Fields {
			fields[f.Name] = exprType(f.Type)
		}
		return fields
	}
	return types.Any
}

// columnKind is the kind of a column's values.
func columnKind(t *change.Type) kind {
	if t == nil {
		return kindText
	}
	switch t.Shape {
	case change.ShapeBool:
		return kindBool
	case change.ShapeNumber:
		switch t.OID {
		case oidInt2, oidInt4, oidInt8:
			return kindInt
		case oidFloat4, oidFloat8:
			return kindFloat
		}
		return kindDecimal
	case change.ShapeText, change.ShapeTimestamp, change.ShapeTimestampTZ:
		return kindText
	}
	return kindOther
}

// libraryError is an error of the library, in the words of walrill's.
func (s *scope) libraryError(e *Expr, err error) *Error {
	at, problem := 0, err.Error()
	if f, ok := errors.AsType[*file.Error](err); ok {
		at, problem = f.From, strings.TrimSpace(f.Message)
	}
	problem = strings.NewReplacer("float64", "number", "map[string]interface {}", "object", "interface {}", "any",
		"EOF", "end of the expression").Replace(problem)
	return s.fail(e, at, "", "%s", problem)
}

func (s *scope) fail(e *Expr, at int, fix, format string, args ...any) *Error {
	err := &Error{Where: e.where(at), Problem: fmt.Sprintf(format, args...), Fix: fix}
	if s.rel != nil {
		err.Table = s.rel.String()
	}
	return err
}

// namer looks at every name of an expression.
type namer struct {
	*scope
	expr  *Expr
	bound map[string]int // variables of let
	refs  []ref
	errs  []*Error
}

func (n *namer) report(at ast.Node, fix, format string, args ...any) {
	n.errs = append(n.errs, n.fail(n.expr, at.Location().From, fix, format, args...))
}

func (n *namer) visit(node ast.Node) {
	switch node := node.(type) {
	case *ast.IdentifierNode:
		n.identifier(node)
		return
	case *ast.MemberNode:
		if id, ok := node.Node.(*ast.IdentifierNode); ok && n.isRow(id) {
			n.column(id, node.Property)
			return
		}
	case *ast.BinaryNode:
		if n.binary(node) {
			return
		}
	case *ast.CallNode:
		n.call(node)
		return
	case *ast.BuiltinNode:
		if !slices.Contains(functionNames, node.Name) {
			n.noFunction(node, node.Name)
		}
	case *ast.FloatNode:
		n.number(node)
	case *ast.PointerNode:
		if node.Name != "" {
			n.report(node, "# is the element", "#%s is not available here", node.Name)
		}
	case *ast.SequenceNode:
		n.report(node, "write one expression", "several expressions")
	case *ast.BytesNode:
		n.report(node, "write text", "bytes are not available here")
	case *ast.VariableDeclaratorNode:
		n.visit(node.Value)
		n.bound[node.Name]++
		n.visit(node.Expr)
		n.bound[node.Name]--
		return
	}
	for _, child := range children(node) {
		n.visit(child)
	}
}

func (n *namer) isRow(id *ast.IdentifierNode) bool {
	_, is := n.rows[id.Value]
	return (is || n.missing[id.Value] != "") && n.bound[id.Value] == 0
}

// column is new.name.
func (n *namer) column(id *ast.IdentifierNode, property ast.Node) {
	if why := n.missing[id.Value]; why != "" {
		n.report(id, "", "%s", why)
		return
	}
	name, ok := property.(*ast.StringNode)
	if !ok {
		n.report(property, "name the column, as in "+id.Value+".id", "a column must be named")
		return
	}
	i := n.rel.Column(name.Value)
	if i < 0 {
		where := n.expr.where(property.Location().From)
		if n.unknown != nil {
			n.errs = append(n.errs, n.unknown(where, name.Value))
		} else {
			n.errs = append(n.errs, unknownColumn(n.rel, where, "column", name.Value))
		}
		return
	}
	n.refs = append(n.refs, ref{n.rows[id.Value], i, property.Location().From})
}

// binary reports whether nothing of the node is left to look at.
func (n *namer) binary(node *ast.BinaryNode) bool {
	switch node.Operator {
	case "==", "!=": // a row may be compared with nil
		left, right := node.Left, node.Right
		if _, isNil := left.(*ast.NilNode); isNil {
			left, right = right, left
		}
		id, isID := left.(*ast.IdentifierNode)
		_, isNil := right.(*ast.NilNode)
		return isID && isNil && n.isRow(id)
	case "..":
		n.report(node, "write the numbers out, as in [1, 2, 3]", "ranges are not available here")
	case "matches":
		if _, constant := node.Right.(*ast.StringNode); !constant {
			n.report(node.Right, "write the pattern as text in quotes", "the pattern of matches must be known at the start")
		}
	}
	return false
}

var numberPattern = regexp.MustCompile(`^[0-9_]*(\.[0-9_]+)?([eE][+-]?[0-9]+)?`)

// number refuses one of which the library has dropped digits.
func (n *namer) number(node *ast.FloatNode) {
	at := node.Location().From
	text := numberPattern.FindString(string([]rune(n.expr.Text)[at:]))
	written := appendDecimal(nil, []byte(strings.ReplaceAll(text, "_", "")))
	if text != "" && (exponentAt(written) >= 0 || compareDecimals(written, decimalLiteral(node.Value)) != 0) {
		n.report(node, "write one with fewer digits, it would be "+strconv.FormatFloat(node.Value, 'g', -1, 64), "the number %s has more digits than are kept", text)
	}
}

func (n *namer) call(node *ast.CallNode) {
	if id, ok := node.Callee.(*ast.IdentifierNode); ok {
		n.noFunction(node, id.Value)
		return
	}
	n.report(node, "", "values have no methods here")
}

func (n *namer) noFunction(at ast.Node, name string) {
	switch {
	case slices.Contains([]string{"now", "date", "duration", "timezone"}, name):
		n.report(at, "use the variable time, which is when the transaction was committed",
			"the function %s is not available: the same change must always make the same event", name)
		return
	case slices.Contains(builtin.Names, name):
		n.report(at, "available are "+strings.Join(functionNames, ", "), "the function %s is not available here", name)
		return
	}
	fix := "available are " + strings.Join(functionNames, ", ")
	if near := nearest(name, functionNames); near != "" {
		fix = fmt.Sprintf("did you mean %s?", near)
	}
	n.report(at, fix, "there is no function %s", name)
}

func (n *namer) identifier(id *ast.IdentifierNode) {
	_, variable := n.vars[id.Value]
	switch {
	case n.bound[id.Value] > 0 || variable:
	case n.isRow(id) && n.missing[id.Value] != "":
		n.report(id, "", "%s", n.missing[id.Value])
	case n.isRow(id):
		n.report(id, "name a column, as in "+id.Value+".id", "%s is a whole row, not a value", id.Value)
	default:
		n.report(id, n.meant(id.Value), "there is nothing called %s", id.Value)
	}
}

// meant guesses what a name stands for that nothing has.
func (n *namer) meant(name string) string {
	prefix := ""
	for _, row := range []string{"new", "old", "row"} {
		if _, ok := n.rows[row]; ok && prefix == "" {
			prefix = row + "."
		}
	}
	if column := nearest(name, allColumns(n.rel)); column != "" && prefix != "" {
		return fmt.Sprintf("did you mean %s%s? Text stands in quotes", prefix, column)
	}
	var names []string
	for v := range n.vars {
		names = append(names, v)
	}
	for row := range n.rows {
		names = append(names, row)
	}
	slices.Sort(names)
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return "text stands in quotes; there are " + strings.Join(names, ", ")
}

// children are the nodes that a node is made of.
func children(node ast.Node) []ast.Node {
	switch n := node.(type) {
	case *ast.UnaryNode:
		return []ast.Node{n.Node}
	case *ast.BinaryNode:
		return []ast.Node{n.Left, n.Right}
	case *ast.ChainNode:
		return []ast.Node{n.Node}
	case *ast.MemberNode:
		return []ast.Node{n.Node, n.Property}
	case *ast.SliceNode:
		return slices.DeleteFunc([]ast.Node{n.Node, n.From, n.To}, func(n ast.Node) bool { return n == nil })
	case *ast.BuiltinNode:
		return n.Arguments
	case *ast.PredicateNode:
		return []ast.Node{n.Node}
	case *ast.SequenceNode:
		return n.Nodes
	case *ast.ConditionalNode:
		return []ast.Node{n.Cond, n.Exp1, n.Exp2}
	case *ast.ArrayNode:
		return n.Nodes
	case *ast.MapNode:
		return n.Pairs
	case *ast.PairNode:
		return []ast.Node{n.Key, n.Value}
	}
	return nil
}
