package transform

import (
	"bytes"
	"regexp"
	"strconv"

	"github.com/expr-lang/expr/ast"

	"github.com/walrill/walrill/change"
)

// evalFunc gives the value of an expression for a row.
type evalFunc func(r *row) value

// condFunc answers a condition; NULL is false.
type condFunc func(r *row) bool

// compiler turns checked expressions into functions. What is compared is
// compared on the text that Postgres sent, where that can be done.
type compiler struct {
	*scope
	expr *checked
	let  []string // variables, the innermost last
}

func (s *scope) compiler(e *checked) *compiler { return &compiler{scope: s, expr: e} }

// column gives the column that a node reads, or nil.
func (c *compiler) column(node ast.Node) *ref {
	m, ok := node.(*ast.MemberNode)
	if !ok {
		return nil
	}
	id, ok := m.Node.(*ast.IdentifierNode)
	if !ok || c.isBound(id.Value) {
		return nil
	}
	row, ok := c.rows[id.Value]
	if !ok {
		return nil
	}
	property := m.Property.(*ast.StringNode) // checked
	return &ref{row, c.rel.Column(property.Value), property.Location().From}
}

func (c *compiler) isBound(name string) bool {
	for _, v := range c.let {
		if v == name {
			return true
		}
	}
	return false
}

func (c *compiler) kindOf(column *ref) kind { return columnKind(c.rel.Columns[column.column].Type) }

// value compiles a node.
func (c *compiler) value(node ast.Node) evalFunc {
	if column := c.column(node); column != nil {
		e, k := c.expr.Expr, c.kindOf(column)
		return func(r *row) value { return r.read(e, column, k) }
	}
	if v, ok := constant(node); ok {
		return func(*row) value { return v }
	}
	at := node.Location().From
	switch n := node.(type) {
	case *ast.IdentifierNode:
		return c.variable(n)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ChainNode:
		return c.value(n.Node)
	case *ast.MemberNode:
		of, property := c.value(n.Node), c.value(n.Property)
		return func(r *row) value { return element(of(r), property(r)) }
	case *ast.SliceNode:
		return c.slice(n)
	case *ast.BuiltinNode:
		return c.function(n)
	case *ast.PointerNode:
		return func(r *row) value { return unboxed(r.items[len(r.items)-1]) }
	case *ast.VariableDeclaratorNode:
		return c.declare(n)
	case *ast.ConditionalNode:
		cond, yes, no := c.cond(n.Cond), c.value(n.Exp1), c.value(n.Exp2)
		return func(r *row) value {
			if cond(r) {
				return yes(r)
			}
			return no(r)
		}
	case *ast.ArrayNode:
		return c.list(n)
	case *ast.MapNode:
		return c.object(n)
	}
	e := c.expr.Expr
	return func(r *row) value { return r.fail(e, at, problemOperand, "") }
}

// constant gives the value of a literal, and of a list of them.
func constant(node ast.Node) (value, bool) {
	switch n := node.(type) {
	case *ast.NilNode:
		return value{}, true
	case *ast.BoolNode:
		return boolValue(n.Value), true
	case *ast.IntegerNode:
		return intValue(int64(n.Value)), true
	case *ast.FloatNode:
		return decimalValue(decimalLiteral(n.Value)), true
	case *ast.StringNode:
		return textValue([]byte(n.Value)), true
	case *ast.UnaryNode:
		if v, ok := constant(n.Node); ok && n.Operator == "-" && v.isNumber() {
			var scratch []byte
			v, _ = negate(v, &scratch)
			return v, true
		}
	case *ast.ArrayNode:
		list := make([]any, len(n.Nodes))
		for i := range n.Nodes {
			v, ok := constant(n.Nodes[i])
			if !ok {
				return value{}, false
			}
			list[i] = v.boxed()
		}
		return value{kind: kindOther, other: list}, true
	}
	return value{}, false
}

func (c *compiler) variable(n *ast.IdentifierNode) evalFunc {
	for i := len(c.let) - 1; i >= 0; i-- {
		if c.let[i] == n.Value {
			return func(r *row) value { return r.vars[i] }
		}
	}
	switch n.Value {
	case "op":
		return func(r *row) value { return textValue([]byte(r.opName())) }
	case "table":
		name := textValue([]byte(c.rel.String()))
		return func(*row) value { return name }
	case "time":
		return (*row).timeText
	case "tx":
		return func(r *row) value { return intValue(int64(r.xid)) }
	case "lsn":
		return (*row).lsnText
	}
	return func(r *row) value { return boolValue(r.moved) } // the only one left
}

func (c *compiler) declare(n *ast.VariableDeclaratorNode) evalFunc {
	is := c.value(n.Value)
	i := len(c.let)
	c.let = append(c.let, n.Name)
	in := c.value(n.Expr)
	c.let = c.let[:i]
	return func(r *row) value {
		v := is(r)
		r.vars = append(r.vars[:i], v)
		return in(r)
	}
}

func (c *compiler) unary(n *ast.UnaryNode) evalFunc {
	switch n.Operator {
	case "!", "not":
		return c.condValue(n)
	case "+":
		return c.value(n.Node)
	}
	of, e, at := c.value(n.Node), c.expr.Expr, n.Location().From
	return func(r *row) value {
		v, problem := negate(of(r), &r.scratch)
		if problem != "" {
			return r.fail(e, at, problem, "")
		}
		return v
	}
}

func (c *compiler) binary(n *ast.BinaryNode) evalFunc {
	switch n.Operator {
	case "+", "-", "*", "/", "%", "**", "^":
		left, right, e, at := c.value(n.Left), c.value(n.Right), c.expr.Expr, n.Location().From
		return func(r *row) value {
			v, problem := calculate(n.Operator, left(r), right(r), &r.scratch)
			if problem != "" {
				return r.fail(e, at, problem, "")
			}
			return v
		}
	case "??":
		left, right := c.value(n.Left), c.value(n.Right)
		return func(r *row) value {
			if v := left(r); v.kind != kindNull {
				return v
			}
			return right(r)
		}
	}
	return c.condValue(n)
}

func (c *compiler) condValue(node ast.Node) evalFunc {
	cond := c.cond(node)
	return func(r *row) value { return boolValue(cond(r)) }
}

// cond compiles a node as a condition.
func (c *compiler) cond(node ast.Node) condFunc {
	switch n := node.(type) {
	case *ast.UnaryNode:
		if n.Operator == "!" || n.Operator == "not" {
			of := c.cond(n.Node)
			return func(r *row) bool { return !of(r) }
		}
	case *ast.BinaryNode:
		if cond := c.operator(n); cond != nil {
			return cond
		}
	}
	v := c.value(node)
	return func(r *row) bool { return v(r).isTrue() }
}

func (c *compiler) operator(n *ast.BinaryNode) condFunc {
	switch n.Operator {
	case "and", "&&":
		left, right := c.cond(n.Left), c.cond(n.Right)
		return func(r *row) bool { return left(r) && right(r) }
	case "or", "||":
		left, right := c.cond(n.Left), c.cond(n.Right)
		return func(r *row) bool { return left(r) || right(r) }
	case "==":
		return c.equality(n)
	case "!=":
		is := c.equality(n)
		return func(r *row) bool { return !is(r) }
	case "<", "<=", ">", ">=":
		left, right := c.value(n.Left), c.value(n.Right)
		return func(r *row) bool {
			order, ok := compare(left(r), right(r))
			return ordered(n.Operator, order, ok)
		}
	case "in":
		return c.in(n)
	case "contains", "startsWith", "endsWith":
		return c.textTest(n)
	case "matches":
		pattern := regexp.MustCompile(n.Right.(*ast.StringNode).Value) // checked
		left := c.value(n.Left)
		return func(r *row) bool { v := left(r); return v.kind == kindText && pattern.Match(v.text) }
	}
	return nil
}

func (c *compiler) textTest(n *ast.BinaryNode) condFunc {
	test := map[string]func(s, part []byte) bool{"contains": bytes.Contains, "startsWith": bytes.HasPrefix, "endsWith": bytes.HasSuffix}[n.Operator]
	left, right := c.value(n.Left), c.value(n.Right)
	return func(r *row) bool {
		s, part := left(r), right(r)
		return s.kind == kindText && part.kind == kindText && test(s.text, part.text)
	}
}

// equality compiles ==.
func (c *compiler) equality(n *ast.BinaryNode) condFunc {
	left, right := n.Left, n.Right
	if _, ok := constant(left); ok {
		left, right = right, left
	}
	if _, isNil := right.(*ast.NilNode); isNil {
		return c.isNull(left)
	}
	column := c.column(left)
	if column != nil {
		if text, ok := c.rawConstant(column, right); ok {
			e := c.expr.Expr
			return func(r *row) bool {
				v := r.column(e, column)
				return v.Kind == change.Text && string(v.Data) == text
			}
		}
		if other := c.column(right); other != nil && c.comparable(column, other) {
			return c.sameText(column, other)
		}
	}
	a, b := c.value(left), c.value(right)
	return func(r *row) bool { return equal(a(r), b(r)) }
}

// sameText compares two columns by their texts, and numerics, which may be printed in several ways, also by value.
func (c *compiler) sameText(column, other *ref) condFunc {
	e, decimals := c.expr.Expr, c.kindOf(column) == kindDecimal
	return func(r *row) bool {
		a, b := r.column(e, column), r.column(e, other)
		switch {
		case a.Kind != b.Kind:
			return false
		case bytes.Equal(a.Data, b.Data):
			return true
		}
		return decimals && !notFinite(a.Data) && !notFinite(b.Data) && compareDecimals(a.Data, b.Data) == 0
	}
}

func (c *compiler) isNull(node ast.Node) condFunc {
	if column := c.column(node); column != nil {
		e := c.expr.Expr
		if t := c.rel.Columns[column.column].Type; t != nil && t.Shape == change.ShapeJSON { // JSON's null is nil, too
			return func(r *row) bool {
				v := r.column(e, column)
				return v.Kind == change.Null || string(bytes.TrimSpace(v.Data)) == "null"
			}
		}
		return func(r *row) bool { return r.column(e, column).Kind == change.Null }
	}
	if id, ok := node.(*ast.IdentifierNode); ok && !c.isBound(id.Value) {
		if side, ok := c.rows[id.Value]; ok {
			return func(r *row) bool {
				return side == newRow && r.new == nil || side == oldRow && r.old == nil && r.op != change.Update
			}
		}
	}
	v := c.value(node)
	return func(r *row) bool { return v(r).kind == kindNull }
}

// rawConstant gives a constant as Postgres prints a value of the column that
// is equal to it, when there is but one way to print it.
func (c *compiler) rawConstant(column *ref, node ast.Node) (string, bool) {
	v, ok := constant(node)
	if !ok {
		return "", false
	}
	switch k := c.kindOf(column); {
	case k == kindText && v.kind == kindText && c.isPlain(column):
		return string(v.text), true
	case k == kindInt && v.kind == kindInt:
		return strconv.FormatInt(v.int(), 10), true
	case k == kindBool && v.kind == kindBool:
		return map[bool]string{true: "t", false: "f"}[v.bits != 0], true
	}
	return "", false
}

// isPlain reports whether the column's text is the value as it is.
func (c *compiler) isPlain(column *ref) bool {
	t := c.rel.Columns[column.column].Type
	return t == nil || t.Shape == change.ShapeText
}

// comparable reports whether sameText will do for two columns.
func (c *compiler) comparable(a, b *ref) bool {
	k := c.kindOf(a)
	if k != c.kindOf(b) {
		return false
	}
	return k == kindInt || k == kindBool || k == kindDecimal || k == kindText && (a.column == b.column || c.isPlain(a) && c.isPlain(b))
}

// in compiles `a in b`.
func (c *compiler) in(n *ast.BinaryNode) condFunc {
	column := c.column(n.Left)
	list, isList := n.Right.(*ast.ArrayNode)
	if column != nil && isList {
		texts := make([]string, 0, len(list.Nodes))
		for _, e := range list.Nodes {
			if text, ok := c.rawConstant(column, e); ok {
				texts = append(texts, text)
			}
		}
		if len(texts) == len(list.Nodes) {
			return c.inTexts(column, texts)
		}
	}
	a, b := c.value(n.Left), c.value(n.Right)
	return func(r *row) bool { return contained(a(r), b(r)) }
}

func (c *compiler) inTexts(column *ref, texts []string) condFunc {
	e := c.expr.Expr
	return func(r *row) bool {
		v := r.column(e, column)
		if v.Kind != change.Text {
			return false
		}
		for _, text := range texts {
			if string(v.Data) == text {
				return true
			}
		}
		return false
	}
}
