package transform

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/walrill/walrill/change"
)

var (
	typeText        = &change.Type{OID: 25, Name: "text"}
	typeBool        = &change.Type{OID: 16, Name: "boolean", Shape: change.ShapeBool}
	typeInt2        = &change.Type{OID: oidInt2, Name: "smallint", Shape: change.ShapeNumber}
	typeInt4        = &change.Type{OID: oidInt4, Name: "integer", Shape: change.ShapeNumber}
	typeInt8        = &change.Type{OID: oidInt8, Name: "bigint", Shape: change.ShapeNumber}
	typeFloat8      = &change.Type{OID: 701, Name: "double precision", Shape: change.ShapeNumber}
	typeNumeric     = &change.Type{OID: 1700, Name: "numeric", Shape: change.ShapeNumber}
	typeTimestamp   = &change.Type{OID: 1114, Name: "timestamp without time zone", Shape: change.ShapeTimestamp}
	typeTimestampTZ = &change.Type{OID: 1184, Name: "timestamp with time zone", Shape: change.ShapeTimestampTZ}
	typeJSON        = &change.Type{OID: 114, Name: "json", Shape: change.ShapeJSON}
	typeJSONB       = &change.Type{OID: oidJSONB, Name: "jsonb", Shape: change.ShapeJSON}
	typeInt2Vector  = &change.Type{OID: 22, Name: "int2vector", Shape: change.ShapeVector, Elem: typeInt2}
	typeOIDVector   = &change.Type{OID: 30, Name: "oidvector", Shape: change.ShapeVector, Elem: &change.Type{OID: 26, Name: "oid"}}
)

func arrayOf(elem *change.Type) *change.Type {
	return &change.Type{Name: elem.Name + "[]", Shape: change.ShapeArray, Elem: elem, Delim: ','}
}

func compositeOf(name string, fields ...change.Field) *change.Type {
	return &change.Type{Name: name, Shape: change.ShapeComposite, Fields: fields}
}

func field(name string, t *change.Type) change.Field { return change.Field{Name: name, Type: t} }

var (
	typePoint2  = compositeOf("shop.point2", field("x", typeInt4), field("y", typeText))
	typeSegment = compositeOf("shop.segment", field("from", typePoint2), field("via", arrayOf(typePoint2)), field("ok", typeBool))
	typeBoxes   = &change.Type{Name: "box[]", Shape: change.ShapeArray, Elem: &change.Type{Name: "box"}, Delim: ';'}
)

func encode(t *change.Type, text string) (string, error) {
	out, err := encoding{}.appender(t)([]byte("#"), []byte(text))
	if err != nil {
		return "", err
	}
	return string(out[1:]), nil
}

func TestEncode(t *testing.T) {
	for _, c := range []struct {
		typ        *change.Type
		text, want string
	}{
		{typeText, "", `""`},
		{typeText, `a"b\c`, `"a\"b\\c"`},
		{typeText, "\x01\b\f\n\r\t\x1f\x7f", "\"\\u0001\\b\\f\\n\\r\\t\\u001f\x7f\""},
		{typeText, "ünï©ode 😀 \u2028", `"ünï©ode 😀 ` + "\u2028" + `"`},
		{typeText, `12345678"`, `"12345678\""`},
		{typeText, `1234567\`, `"1234567\\"`},
		{typeText, `\x00ff`, `"\\x00ff"`},
		{nil, "untyped", `"untyped"`},

		{typeBool, "t", "true"},
		{typeBool, "f", "false"},
		{typeInt4, "-42", "-42"},
		{typeInt8, "9223372036854775807", "9223372036854775807"},
		{typeNumeric, "0.00", "0.00"},
		{typeNumeric, "123456789012345678901234567890.123", "123456789012345678901234567890.123"},
		{typeNumeric, "NaN", `"NaN"`},
		{typeFloat8, "Infinity", `"Infinity"`},
		{typeFloat8, "-Infinity", `"-Infinity"`},
		{typeFloat8, "-0", "0"},
		{typeFloat8, "-0.5", "-0.5"},
		{typeFloat8, "0", "0"},
		{typeFloat8, "1e+20", "100000000000000000000"},
		{typeFloat8, "-1e+20", "-100000000000000000000"},
		{typeFloat8, "1.5e-07", "0.00000015"},
		{typeFloat8, "-1.25e-05", "-0.0000125"},
		{typeFloat8, "1.2345e+02", "123.45"},
		{typeFloat8, "5e-324", "0." + strings.Repeat("0", 323) + "5"},
		{typeFloat8, "1.7976931348623157e+308", "17976931348623157" + strings.Repeat("0", 292)},

		{typeTimestamp, "2020-01-01 00:00:00.5", `"2020-01-01T00:00:00.5"`},
		{typeTimestamp, "0044-03-15 12:00:00 BC", `"0044-03-15T12:00:00 BC"`},
		{typeTimestamp, "-infinity", `"-infinity"`},
		{typeTimestampTZ, "2020-01-01 00:00:00.5+00", `"2020-01-01T00:00:00.5+00:00"`},
		{typeTimestampTZ, "0044-03-15 12:00:00+00 BC", `"0044-03-15T12:00:00+00:00 BC"`},
		{typeTimestampTZ, "294276-12-31 23:59:59.999999+00", `"294276-12-31T23:59:59.999999+00:00"`},
		{typeTimestampTZ, "infinity", `"infinity"`},
		{typeTimestampTZ, "-infinity", `"-infinity"`},

		{typeJSONB, `{"a": [1, 2]}`, `{"a": [1, 2]}`},
		{typeJSON, ` { "a" : [ 1 , 2 ] } `, `{"a":[1,2]}`},
		{typeJSON, `{}`, `{}`},
		{typeJSON, "[\n]", `[]`},
		{typeJSON, `"x y"`, `"x y"`},
		{typeJSON, `null`, `null`},
		{typeJSON, `[1e2, -0, -0.0, 1.50E+1, 1e-3, 1e99999]`, `[100,0,0.0,15.0,0.001,1e99999]`},
		{typeJSON, `{"a":1,"b":2,"a":3}`, `{"b":2,"a":3}`},
		{typeJSON, `{"a":1,"\u0061":2}`, `{"\u0061":2}`},
		{typeJSON, `{"\ud83d\ude00":1,"😀":2,"\n":3,"\u000a":4}`, `{"😀":2,"\u000a":4}`},
		{typeJSON, `{"\ud800":1,"\ud801":2,"\ufffd":3}`, `{"\ud800":1,"\ud801":2,"\ufffd":3}`},
		{typeJSON, `{"a":{"x":1,"x":{"y":1,"y":2}},"a":{"x":[{"z":1,"z":2}]}}`, `{"a":{"x":[{"z":2}]}}`},
		{typeJSON, `{"a\\":1,"a\"":2}`, `{"a\\":1,"a\"":2}`},

		{arrayOf(typeInt4), "{}", "[]"},
		{arrayOf(typeInt4), "{1,NULL,-3}", "[1,null,-3]"},
		{arrayOf(typeInt4), "{{1,2},{3,4}}", "[[1,2],[3,4]]"},
		{arrayOf(typeInt4), "[2:3]={5,6}", "[5,6]"},
		{arrayOf(typeInt4), "[0:0][-1:0]={{5,6}}", "[[5,6]]"},
		{arrayOf(typeText), `{a,"b c","","NULL",NULL,"x\"y\\z","{},"}`, `["a","b c","","NULL",null,"x\"y\\z","{},"]`},
		{arrayOf(typeTimestampTZ), `{"2020-01-01 00:00:00+00",NULL}`, `["2020-01-01T00:00:00+00:00",null]`},
		{arrayOf(arrayOf(typeText)), `{"{1,2}","{\"a b\",\"c\\\"d\"}"}`, `[["1","2"],["a b","c\"d"]]`},
		{arrayOf(typeJSON), `{"{\"a\": 1, \"a\": [2 ]}",NULL}`, `[{"a":[2]},null]`},
		{typeBoxes, "{(1,1),(0,0);(2,2),(1,1)}", `["(1,1),(0,0)","(2,2),(1,1)"]`},
		{arrayOf(typeInt2Vector), `{"1 2",3}`, `[[1,2],[3]]`},
		{typeInt2Vector, "1 2", "[1,2]"},
		{typeInt2Vector, "", "[]"},
		{typeOIDVector, "1 2", `["1","2"]`},

		{typePoint2, `(1,"a ""b""")`, `{"x":1,"y":"a \"b\""}`},
		{typePoint2, `(,)`, `{"x":null,"y":null}`},
		{typePoint2, `(1,"")`, `{"x":1,"y":""}`},
		{typePoint2, `(1,"a\\b")`, `{"x":1,"y":"a\\b"}`},
		{typePoint2, `(1)`, `{"x":1,"y":null}`},
		{typePoint2, `()`, `{"x":null,"y":null}`},
		{compositeOf("empty"), `()`, `{}`},
		{typeSegment, `("(1,""a b"")","{""(2,c)"",NULL,""(3,\\""d e\\"")""}",t)`,
			`{"from":{"x":1,"y":"a b"},"via":[{"x":2,"y":"c"},null,{"x":3,"y":"d e"}],"ok":true}`},
	} {
		got, err := encode(c.typ, c.text)
		if err != nil || got != c.want {
			t.Errorf("%v %q:\n got %s, %v\nwant %s", c.typ, c.text, got, err, c.want)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("%v %q: not JSON: %s", c.typ, c.text, got)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	for _, c := range []struct {
		typ  *change.Type
		text string
		want string // in the error
	}{
		{typePoint2, `(1,a,2)`, "type shop.point2: the value has more than its 2 attributes"},
		{compositeOf("empty"), `(1)`, "type empty"},
		{typePoint2, `(1,a`, "type shop.point2: malformed"},
		{typePoint2, `(1,"a)`, "type shop.point2: malformed"},
		{typePoint2, `(1,"a"b)`, "type shop.point2: malformed"},
		{typePoint2, `(1,a)b)`, "type shop.point2: malformed"},
		{typePoint2, ``, "type shop.point2: malformed"},
		{arrayOf(typeInt4), ``, "malformed array"},
		{arrayOf(typeInt4), `{1,2`, "malformed array"},
		{arrayOf(typeInt4), `{1,}`, "malformed array"},
		{arrayOf(typeInt4), `{1}}`, "malformed array"},
		{arrayOf(typeInt4), `[1:2]`, "malformed array"},
		{arrayOf(typeText), `{"a`, "malformed array"},
		{arrayOf(typeText), `{"a\`, "malformed array"},
		{arrayOf(typeText), `{"a"b}`, "malformed array"},
		{arrayOf(typeInt4), `{{{{{{{1}}}}}}}`, "malformed array"},
		{arrayOf(typePoint2), `{"(1,2,3)"}`, "type shop.point2"},
		{typeBool, `yes`, "boolean"},
		{typeInt4, ``, "empty"},
		{typeNumeric, ``, "empty"},
		{typeJSON, `{"a":1`, "malformed JSON at byte 6"},
		{typeJSON, `{"a" 1}`, "malformed JSON"},
		{typeJSON, `{a:1}`, "malformed JSON"},
		{typeJSON, `[1 2]`, "malformed JSON"},
		{typeJSON, `1 2`, "malformed JSON"},
		{typeJSON, `"a`, "malformed JSON"},
		{typeJSON, ``, "malformed JSON"},
		{typeJSON, strings.Repeat("[", maxDepth+1), "malformed JSON"},
	} {
		got, err := encode(c.typ, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %.20q: %.40s, error %v, want %q", c.typ.Name, c.text, got, err, c.want)
		}
	}
}

// Every byte at every place of a word of eight and of the rest.
func TestStringEscapesEveryByte(t *testing.T) {
	for c := range 256 {
		for at := range 19 {
			text := bytes.Repeat([]byte("é"), 10)
			text[at] = byte(c)
			if !utf8.Valid(text) {
				text = []byte(strings.Repeat("x", 20))
				text[at] = byte(c % 128)
			}
			var got string
			if out := appendString(nil, text); json.Unmarshal(out, &got) != nil || got != string(text) {
				t.Fatalf("%q became %s", text, out)
			}
		}
	}
}
