package transform

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
)

// functionNames are the functions of expressions: those of the expr library
// that always give the same result for the same row.
var functionNames = []string{
	"abs", "all", "any", "ceil", "concat", "count", "filter", "find", "first", "float", "floor", "fromJSON", "int", "join", "last", "len",
	"lower", "map", "max", "min", "none", "one", "replace", "reverse", "round", "split", "string", "sum", "toJSON",
	"trim", "trimPrefix", "trimSuffix", "uniq", "upper",
}

// function compiles a call. A function of NULL is NULL; a list that is NULL is
// an empty one to those that go through its elements.
func (c *compiler) function(n *ast.BuiltinNode) evalFunc {
	if len(n.Arguments) > 1 {
		if predicate, ok := n.Arguments[1].(*ast.PredicateNode); ok {
			return c.through(n, predicate.Node)
		}
	}
	if n.Name == "sum" || n.Name == "count" {
		return c.through(n, nil)
	}
	args := make([]evalFunc, len(n.Arguments))
	for i := range args {
		args[i] = c.value(n.Arguments[i])
	}
	if apply := oneArgument(n.Name); apply != nil && len(args) == 1 {
		return c.apply(n, args[0], apply)
	}
	do := manyArguments(n.Name)
	e, at := c.expr.Expr, n.Location().From
	return func(r *row) value {
		values := make([]value, len(args))
		for i := range args {
			if values[i] = args[i](r); values[i].kind == kindNull {
				return value{}
			}
		}
		v, ok := do(values)
		if !ok {
			return r.fail(e, at, "the function "+n.Name+" has no result for its arguments", "")
		}
		return v
	}
}

func (c *compiler) apply(n *ast.BuiltinNode, argument evalFunc, apply func(v value, scratch *[]byte) (value, bool)) evalFunc {
	e, at := c.expr.Expr, n.Location().From
	return func(r *row) value {
		v := argument(r)
		if v.kind == kindNull {
			return v
		}
		result, ok := apply(v, &r.scratch)
		if !ok {
			return r.fail(e, at, "the function "+n.Name+" has no result for its argument", "")
		}
		return result
	}
}

// oneArgument gives the functions of one argument that are used for many rows.
func oneArgument(name string) func(v value, scratch *[]byte) (value, bool) {
	switch name {
	case "string":
		return toText
	case "toJSON":
		return toJSON
	case "lower":
		return func(v value, scratch *[]byte) (value, bool) { return changeCase(v, scratch, 'A', bytes.ToLower) }
	case "upper":
		return func(v value, scratch *[]byte) (value, bool) { return changeCase(v, scratch, 'a', bytes.ToUpper) }
	case "trim":
		return func(v value, _ *[]byte) (value, bool) { return textValue(bytes.TrimSpace(v.text)), v.kind == kindText }
	case "len":
		return length
	case "int":
		return toInt
	case "float":
		return toFloat
	case "abs":
		return func(v value, scratch *[]byte) (value, bool) {
			if order, _ := compare(v, intValue(0)); order < 0 && v.isNumber() {
				v, problem := negate(v, scratch)
				return v, problem == ""
			}
			return v, v.isNumber()
		}
	case "ceil":
		return rounded(math.Ceil)
	case "floor":
		return rounded(math.Floor)
	case "round":
		return rounded(math.Round)
	}
	return nil
}

func rounded(round func(float64) float64) func(value, *[]byte) (value, bool) {
	return func(v value, _ *[]byte) (value, bool) { return asFloat(v, round(v.number())) }
}

// toText gives text as it is and everything else as it stands in JSON.
func toText(v value, scratch *[]byte) (value, bool) {
	if v.kind == kindText {
		return v, true
	}
	if v.kind == kindFloat { // without the quotes around NaN
		start := len(*scratch)
		*scratch = appendFloat(*scratch, v.float())
		return textValue(bytes.Trim((*scratch)[start:], `"`)), true
	}
	return toJSON(v, scratch)
}

func toJSON(v value, scratch *[]byte) (value, bool) {
	start := len(*scratch)
	var err error
	*scratch, err = appendValue(*scratch, v)
	return textValue((*scratch)[start:]), err == nil
}

// changeCase maps text, letter by letter when it is ASCII.
func changeCase(v value, scratch *[]byte, from byte, whole func([]byte) []byte) (value, bool) {
	if v.kind != kindText {
		return value{}, false
	}
	start := len(*scratch)
	for _, c := range v.text {
		if c >= utf8.RuneSelf {
			*scratch = (*scratch)[:start]
			return textValue(whole(v.text)), true
		}
		if from <= c && c < from+26 {
			c ^= 'a' - 'A'
		}
		*scratch = append(*scratch, c)
	}
	return textValue((*scratch)[start:]), true
}

// length counts characters or elements.
func length(v value, _ *[]byte) (value, bool) {
	if v.kind == kindText {
		return intValue(int64(utf8.RuneCount(v.text))), true
	}
	switch list := v.other.(type) {
	case map[string]any:
		return intValue(int64(len(list))), true
	case nil:
		return value{}, false
	}
	list, ok := elements(v)
	return intValue(int64(len(list))), ok
}

// toInt cuts decimals off.
func toInt(v value, _ *[]byte) (value, bool) {
	switch v.kind {
	case kindInt:
		return v, true
	case kindFloat:
		f := math.Trunc(v.float())
		return intValue(int64(f)), f >= -1<<63 && f < 1<<63
	case kindDecimal, kindText:
		text := v.text
		if whole, _, point := bytes.Cut(text, []byte{'.'}); point && v.kind == kindDecimal {
			text = whole
		}
		i, ok := parseInt(text)
		return intValue(i), ok
	}
	return value{}, false
}

func toFloat(v value, _ *[]byte) (value, bool) {
	if v.kind == kindText {
		f, err := strconv.ParseFloat(string(v.text), 64)
		return floatValue(f), err == nil
	}
	return asFloat(v, v.number())
}

// asFloat is what floating point made of a number, if it has it.
func asFloat(of value, result float64) (value, bool) {
	return floatValue(result), of.isNumber() && (isFinite(result) || !of.isFinite())
}

// manyArguments gives the other functions.
func manyArguments(name string) func([]value) (value, bool) {
	switch name {
	case "max":
		return func(args []value) (value, bool) { return extreme(args, 1) }
	case "min":
		return func(args []value) (value, bool) { return extreme(args, -1) }
	case "fromJSON":
		return func(args []value) (value, bool) {
			v, err := parseJSON(args[0].text)
			return unboxed(v), err == nil && args[0].kind == kindText
		}
	}
	f := builtin.Builtins[builtin.Index[name]]
	return func(args []value) (v value, ok bool) {
		defer func() { // what does not fit, the library panics about
			if recover() != nil {
				v, ok = value{}, false
			}
		}()
		boxed := make([]any, len(args))
		for i := range args {
			boxed[i] = args[i].boxed()
		}
		switch {
		case f.Fast != nil:
			return unboxed(f.Fast(boxed[0])), true
		case f.Safe != nil:
			result, _, err := f.Safe(boxed...)
			return unboxed(result), err == nil
		}
		result, err := f.Func(boxed...)
		return unboxed(result), err == nil
	}
}

// extreme is the greatest or least of numbers, given one by one or as a list.
func extreme(args []value, sign int) (value, bool) {
	var best value
	for _, v := range args {
		if list, ok := elements(v); ok {
			all := make([]value, len(list))
			for i := range list {
				all[i] = unboxed(list[i])
			}
			var ok bool
			if v, ok = extreme(all, sign); !ok {
				return v, false
			}
		}
		switch order, ok := compare(v, best); {
		case v.kind == kindNull:
		case best.kind == kindNull || ok && order*sign > 0:
			best = v
		case !ok:
			return value{}, false
		}
	}
	return best, true
}

// elements gives a list's elements.
func elements(v value) ([]any, bool) {
	list, ok := v.other.([]any)
	return list, ok
}

// through compiles the functions that go through a list's elements, which
// the predicate sees as #; it is nil when the element itself is meant.
func (c *compiler) through(n *ast.BuiltinNode, predicate ast.Node) evalFunc {
	list, e, at := c.value(n.Arguments[0]), c.expr.Expr, n.Location().From
	each := func(r *row) value { return unboxed(r.items[len(r.items)-1]) }
	if predicate != nil {
		each = c.value(predicate)
	}
	return func(r *row) value {
		of := list(r)
		all, ok := elements(of)
		if !ok && of.kind != kindNull {
			return r.fail(e, at, "the function "+n.Name+" has no list to go through", "")
		}
		l := loop{name: n.Name, sum: intValue(0)}
		r.items = append(r.items, nil)
		for _, element := range all {
			r.items[len(r.items)-1] = element
			if l.step(r, element, each(r)) {
				break
			}
		}
		r.items = r.items[:len(r.items)-1]
		if l.problem != "" {
			return r.fail(e, at, l.problem, "")
		}
		return l.result()
	}
}

// loop is the state of going through a list.
type loop struct {
	name    string
	count   int64 // of elements for which the predicate is true
	others  int64
	kept    []any
	found   any
	sum     value
	problem string
}

// step takes one element's result and reports whether it was enough.
func (l *loop) step(r *row, element any, v value) bool {
	switch l.name {
	case "map":
		l.kept = append(l.kept, v.boxed())
		return false
	case "sum":
		if v.kind != kindNull {
			l.sum, l.problem = calculate("+", l.sum, v, &r.scratch)
		}
		return l.problem != ""
	}
	if !v.isTrue() {
		l.others++
		return l.name == "all"
	}
	l.count++
	switch l.name {
	case "filter":
		l.kept = append(l.kept, element)
	case "find":
		l.found = element
	}
	return l.name == "find" || l.name == "any" || l.name == "none" || l.name == "one" && l.count > 1
}

func (l *loop) result() value {
	switch l.name {
	case "all":
		return boolValue(l.others == 0)
	case "any":
		return boolValue(l.count > 0)
	case "none":
		return boolValue(l.count == 0)
	case "one":
		return boolValue(l.count == 1)
	case "count":
		return intValue(l.count)
	case "sum":
		return l.sum
	case "find":
		return unboxed(l.found)
	}
	return value{kind: kindOther, other: slices.Concat([]any{}, l.kept)}
}

// slice compiles text[from:to], by characters, and list[from:to]. Places
// beyond the ends are the ends; negative ones count from the end.
func (c *compiler) slice(n *ast.SliceNode) evalFunc {
	of, from, to := c.value(n.Node), evalFunc(nil), evalFunc(nil)
	if n.From != nil {
		from = c.value(n.From)
	}
	if n.To != nil {
		to = c.value(n.To)
	}
	place := func(r *row, f evalFunc, missing, length int) int {
		i := missing
		if f != nil {
			i = int(f(r).int())
		}
		if i < 0 {
			i += length
		}
		return min(max(i, 0), length)
	}
	return func(r *row) value {
		v := of(r)
		if list, ok := elements(v); ok {
			a, b := place(r, from, 0, len(list)), place(r, to, len(list), len(list))
			return value{kind: kindOther, other: list[min(a, b):b]}
		}
		if v.kind != kindText {
			return value{}
		}
		length := utf8.RuneCount(v.text)
		a, b := place(r, from, 0, length), place(r, to, length, length)
		return textValue(v.text[runeOffset(v.text, min(a, b)):runeOffset(v.text, b)])
	}
}

// runeOffset is where the n-th character starts.
func runeOffset(s []byte, n int) int {
	at := 0
	for ; n > 0; n-- {
		_, size := utf8.DecodeRune(s[at:])
		at += size
	}
	return at
}

func (c *compiler) list(n *ast.ArrayNode) evalFunc {
	parts := make([]evalFunc, len(n.Nodes))
	for i := range parts {
		parts[i] = c.value(n.Nodes[i])
	}
	return func(r *row) value {
		list := make([]any, len(parts))
		for i := range parts {
			list[i] = parts[i](r).boxed()
		}
		return value{kind: kindOther, other: list}
	}
}

func (c *compiler) object(n *ast.MapNode) evalFunc {
	names, parts := make([]evalFunc, len(n.Pairs)), make([]evalFunc, len(n.Pairs))
	for i := range parts {
		pair := n.Pairs[i].(*ast.PairNode)
		names[i], parts[i] = c.value(pair.Key), c.value(pair.Value)
	}
	return func(r *row) value {
		object := make(map[string]any, len(parts))
		for i := range parts {
			name, _ := toText(names[i](r), &r.scratch)
			object[strings.Clone(string(name.text))] = parts[i](r).boxed()
		}
		return value{kind: kindOther, other: object}
	}
}
