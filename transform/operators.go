package transform

import (
	"bytes"
	"math"
	"reflect"
)

// The operators of expressions, on values. NULL is equal to NULL only, a
// comparison with it by order is false, and what is calculated from it is NULL.
// A problem is what cannot be done; it holds no value of the row.

const (
	problemOverflow = "a whole number is too large for 64 bits"
	problemZero     = "a division by zero"
	problemOperand  = "an operator does not fit its value"
	problemFloat    = "a result is no number that floating point has"
)

func equal(a, b value) bool {
	switch {
	case a.kind == kindNull || b.kind == kindNull:
		return a.kind == b.kind
	case a.isNumber() && b.isNumber():
		c, _ := compareNumbers(a, b)
		return c == 0
	case a.kind == kindText && b.kind == kindText:
		return bytes.Equal(a.text, b.text)
	case a.kind != b.kind:
		return false
	case a.kind == kindBool:
		return a.bits == b.bits
	}
	return equalOther(a.other, b.other)
}

func equalOther(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(unboxed(a[i]), unboxed(b[i])) {
				return false
			}
		}
		return true
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, v := range a {
			w, ok := b[name]
			if !ok || !equal(unboxed(v), unboxed(w)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a, b)
}

// compare orders two numbers or two texts; ok is false for NULL and for what has no order.
func compare(a, b value) (c int, ok bool) {
	switch {
	case a.isNumber() && b.isNumber():
		return compareNumbers(a, b)
	case a.kind == kindText && b.kind == kindText:
		return bytes.Compare(a.text, b.text), true
	}
	return 0, false
}

func compareNumbers(a, b value) (int, bool) {
	if a.kind == kindInt && b.kind == kindInt {
		return compareOrdered(a.int(), b.int()), true
	}
	if a.kind == kindFloat || b.kind == kindFloat {
		return compareFloats(a.number(), b.number()), true
	}
	var bufA, bufB [20]byte
	return compareDecimals(a.exact(bufA[:0]), b.exact(bufB[:0])), true
}

// compareFloats is Postgres's: NaN equals itself and is above everything.
func compareFloats(a, b float64) int {
	switch {
	case math.IsNaN(a) && math.IsNaN(b):
		return 0
	case math.IsNaN(a):
		return 1
	case math.IsNaN(b):
		return -1
	}
	return compareOrdered(a, b)
}

func compareOrdered[T int64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// ordered answers < <= > >= for the result of compare.
func ordered(operator string, c int, ok bool) bool {
	switch operator {
	case "<":
		return ok && c < 0
	case "<=":
		return ok && c <= 0
	case ">":
		return ok && c > 0
	}
	return ok && c >= 0
}

// calculate does + - * / % and **. A text that it makes is appended to scratch.
func calculate(operator string, a, b value, scratch *[]byte) (v value, problem string) {
	switch {
	case a.kind == kindNull || b.kind == kindNull:
		return value{}, ""
	case operator == "+" && a.kind == kindText && b.kind == kindText:
		start := len(*scratch)
		*scratch = append(append(*scratch, a.text...), b.text...)
		return textValue((*scratch)[start:]), ""
	case !a.isNumber() || !b.isNumber():
		return value{}, problemOperand
	}
	ints := a.kind == kindInt && b.kind == kindInt
	switch operator {
	case "/":
		if b.number() == 0 {
			return value{}, problemZero
		}
		return calculated(a, b, a.number()/b.number())
	case "**", "^":
		return calculated(a, b, math.Pow(a.number(), b.number()))
	case "%":
		return remainder(a, b, ints)
	}
	switch {
	case ints:
		return calculateInts(operator, a.int(), b.int())
	case a.kind == kindFloat || b.kind == kindFloat:
		return calculated(a, b, calculateFloats(operator, a.number(), b.number()))
	}
	start := len(*scratch)
	var bufA, bufB [20]byte
	if operator == "*" {
		*scratch = appendProduct(*scratch, a.exact(bufA[:0]), b.exact(bufB[:0]))
	} else {
		*scratch = appendSum(*scratch, a.exact(bufA[:0]), b.exact(bufB[:0]), operator == "-")
	}
	return decimalValue((*scratch)[start:]), ""
}

// calculated is what floating point made of two numbers. NaN and the infinities are results only where columns hold them.
func calculated(a, b value, result float64) (value, string) {
	if !isFinite(result) && a.isFinite() && b.isFinite() {
		return value{}, problemFloat
	}
	return floatValue(result), ""
}

func isFinite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// isFinite is true for every exact number, also one that is too large for floating point.
func (v value) isFinite() bool { return v.kind != kindFloat || isFinite(v.float()) }

func remainder(a, b value, ints bool) (value, string) {
	switch {
	case !ints:
		return value{}, problemOperand
	case b.int() == 0:
		return value{}, problemZero
	case b.int() == -1:
		return intValue(0), ""
	}
	return intValue(a.int() % b.int()), ""
}

func calculateInts(operator string, a, b int64) (value, string) {
	var c int64
	ok := true
	switch operator {
	case "*":
		c, ok = multiply(a, b)
	case "-":
		c = a - b
		ok = (c < a) == (b > 0)
	default:
		c = a + b
		ok = (c > a) == (b > 0)
	}
	if !ok {
		return value{}, problemOverflow
	}
	return intValue(c), ""
}

func calculateFloats(operator string, a, b float64) float64 {
	switch operator {
	case "*":
		return a * b
	case "-":
		return a - b
	}
	return a + b
}

// negate is the minus before a number.
func negate(a value, scratch *[]byte) (value, string) {
	return calculate("-", intValue(0), a, scratch)
}

// contained answers `a in b`, for a list, and for the names of an object.
func contained(a, b value) bool {
	if b.kind != kindOther || a.kind == kindNull {
		return false
	}
	switch list := b.other.(type) {
	case []any:
		for _, e := range list {
			if equal(a, unboxed(e)) {
				return true
			}
		}
	case map[string]any:
		_, ok := list[string(a.text)]
		return ok && a.kind == kindText
	}
	return false
}

// element is object.name or list[index], NULL when there is no such thing, as with jsonb's ->.
func element(of, at value) value {
	switch in := of.other.(type) {
	case map[string]any:
		if at.kind == kindText {
			return unboxed(in[string(at.text)])
		}
	case []any:
		i := int(at.int())
		if i < 0 {
			i += len(in)
		}
		if at.kind == kindInt && i >= 0 && i < len(in) {
			return unboxed(in[i])
		}
	}
	return value{}
}
