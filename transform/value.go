package transform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// kind is what a value of an expression is.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindInt
	kindFloat   // float4 and float8
	kindDecimal // numeric: exact
	kindText
	kindOther // what JSON, arrays and composites are made of: []any, map[string]any
)

// value is the value of an expression. text may alias the change or the row's
// scratch memory: it is valid until the next change.
type value struct {
	kind  kind
	bits  uint64 // of a bool, an int or a float
	text  []byte // of a decimal or a text
	other any
}

func boolValue(b bool) value {
	if b {
		return value{kind: kindBool, bits: 1}
	}
	return value{kind: kindBool}
}

func intValue(i int64) value      { return value{kind: kindInt, bits: uint64(i)} }
func floatValue(f float64) value  { return value{kind: kindFloat, bits: math.Float64bits(f)} }
func decimalValue(d []byte) value { return value{kind: kindDecimal, text: d} }
func textValue(s []byte) value    { return value{kind: kindText, text: s} }

func (v value) int() int64     { return int64(v.bits) }
func (v value) float() float64 { return math.Float64frombits(v.bits) }

// isTrue takes NULL for false.
func (v value) isTrue() bool { return v.kind == kindBool && v.bits != 0 }

func (v value) isNumber() bool { return v.kind >= kindInt && v.kind <= kindDecimal }

// exact gives an int or a decimal as a decimal, an int's in the buffer.
func (v value) exact(buffer []byte) []byte {
	if v.kind == kindInt {
		return strconv.AppendInt(buffer, v.int(), 10)
	}
	return v.text
}

// number gives a number as a float8.
func (v value) number() float64 {
	switch v.kind {
	case kindInt:
		return float64(v.int())
	case kindDecimal:
		f, _ := strconv.ParseFloat(string(v.text), 64) // out of range: an infinity
		return f
	}
	return v.float()
}

// decimal is a decimal among the values of the expr library.
type decimal string

// MarshalJSON writes the number as it is.
func (d decimal) MarshalJSON() ([]byte, error) { return []byte(d), nil }

// boxed gives the value as the expr library has it. It aliases nothing.
func (v value) boxed() any {
	switch v.kind {
	case kindNull:
		return nil
	case kindBool:
		return v.bits != 0
	case kindInt:
		return int(v.int())
	case kindFloat:
		return v.float()
	case kindDecimal:
		return decimal(v.text)
	case kindText:
		return string(v.text)
	}
	return v.other
}

// unboxed is the inverse of boxed.
func unboxed(v any) value {
	switch v := v.(type) {
	case nil:
		return value{}
	case bool:
		return boolValue(v)
	case int:
		return intValue(int64(v))
	case float64:
		return floatValue(v)
	case decimal:
		return decimalValue([]byte(v))
	case string:
		return textValue([]byte(v))
	case []string: // of the library's split
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		return value{kind: kindOther, other: list}
	}
	return value{kind: kindOther, other: v}
}

// appendValue appends a value as JSON.
func appendValue(dst []byte, v value) ([]byte, error) {
	switch v.kind {
	case kindNull:
		return append(dst, "null"...), nil
	case kindBool:
		return strconv.AppendBool(dst, v.bits != 0), nil
	case kindInt:
		return strconv.AppendInt(dst, v.int(), 10), nil
	case kindFloat:
		return appendFloat(dst, v.float()), nil
	case kindDecimal:
		return append(dst, v.text...), nil
	case kindText:
		return appendString(dst, v.text), nil
	}
	return appendAny(dst, v.other)
}

// appendFloat appends a float as to_jsonb prints a float8.
func appendFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	var text [32]byte
	return appendDecimal(dst, strconv.AppendFloat(text[:0], f, 'g', -1, 64))
}

// appendAny appends what is made of lists and objects. An object's members
// are in jsonb's order: by the length of their names, then by their bytes.
func appendAny(dst []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendValue(dst, unboxed(e)); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range memberNames(v) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, []byte(name)), ':')
			if dst, err = appendValue(dst, unboxed(v[name])); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
	text, err := json.Marshal(v) // lists of one type, which functions make
	return append(dst, text...), err
}

func memberNames(object map[string]any) []string {
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names
}

// parseJSON reads JSON into boxed values. Numbers keep every digit.
func parseJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("not JSON: there is more behind its end")
	}
	return exactNumbers(v)
}

// exactNumbers makes ints and decimals of JSON's numbers, in place.
func exactNumbers(v any) (_ any, err error) {
	switch v := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(string(v), 10, 64); err == nil && v != "-0" {
			return int(i), nil
		}
		text := appendDecimal(nil, []byte(v))
		if exponentAt(text) >= 0 { // as a float it would be zero or infinite
			return nil, fmt.Errorf("a number has an exponent beyond %d", maxExponent)
		}
		return decimal(text), nil
	case []any:
		for i := range v {
			if v[i], err = exactNumbers(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for name := range v {
			if v[name], err = exactNumbers(v[name]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// parseInt reads an int as Postgres prints it.
func parseInt(text []byte) (int64, bool) {
	if len(text) > 0 && len(text) < 19 {
		n, digits := int64(0), text
		if text[0] == '-' {
			digits = text[1:]
		}
		for _, c := range digits {
			if c < '0' || c > '9' {
				return 0, false
			}
			n = n*10 + int64(c-'0')
		}
		if text[0] == '-' {
			n = -n
		}
		return n, len(digits) > 0
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	return n, err == nil
}
