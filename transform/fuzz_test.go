package transform

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/change"
)

// fuzzTypes have text leaves, so that whatever the parsers accept is JSON.
var fuzzTypes = []*change.Type{
	arrayOf(typeText),
	typeBoxes,
	compositeOf("flat", field("a", typeText), field("b", typeText)),
	compositeOf("deep", field("a", arrayOf(compositeOf("in", field("x", typeText), field("y", arrayOf(typeText))))), field("b", typeText)),
	arrayOf(arrayOf(compositeOf("one", field("x", typeText)))),
	{Name: "vector", Shape: change.ShapeVector, Elem: typeText},
	typeTimestampTZ,
	typeText,
}

// The parsers accept a text or refuse it, and never panic; what they write is valid JSON, and
// what was in dst before stays.
func FuzzEncode(f *testing.F) {
	for i, text := range []string{`{a,"b\"",NULL,{}}`, "{(1,1),(0,0);(2,2),(1,1)}", `(1,"a ""b""")`, `("{""(a,\\""{b}\\"")""}",)`,
		`{"{\"(1)\",\"(2)\"}"}`, "1 2 3", "0044-03-15 12:00:00+00 BC", "\x00\"\\"} {
		f.Add(uint8(i), text)
	}
	f.Fuzz(func(t *testing.T, n uint8, text string) {
		typ := fuzzTypes[int(n)%len(fuzzTypes)]
		if !utf8.ValidString(text) || typ == typeTimestampTZ && strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) {
			return // Postgres prints neither
		}
		out, err := encoding{}.appender(typ)([]byte("before"), []byte(text))
		if !bytes.HasPrefix(out, []byte("before")) {
			t.Fatalf("%s %q: wrote over what was there: %q", typ.Name, text, out)
		}
		if err == nil && !json.Valid(out[len("before"):]) {
			t.Fatalf("%s %q: not JSON: %q", typ.Name, text, out[len("before"):])
		}
	})
}

// What was quoted the way Postgres does comes out as it was.
func FuzzQuoting(f *testing.F) {
	f.Add("a", `b "c" \ {},`, "NULL")
	f.Add("", "\x01\t", "(,)")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) || !utf8.ValidString(c) {
			return
		}
		want := []string{a, b, c}
		var got []string
		decode(t, arrayOf(typeText), arrayText(want), &got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("array %q: %s", arrayText(want), diff)
		}
		row := compositeOf("row", field("a", typeText), field("b", arrayOf(typeText)))
		var object struct {
			A string
			B []string
		}
		decode(t, row, compositeText(a, arrayText(want)), &object)
		if object.A != a || !cmp.Equal(object.B, want) {
			t.Fatalf("composite: %q", object)
		}
	})
}

func decode(t *testing.T, typ *change.Type, text string, into any) {
	t.Helper()
	out, err := encode(typ, text)
	if err == nil {
		err = json.Unmarshal([]byte(out), into)
	}
	if err != nil {
		t.Fatalf("%s %q: %v in %s", typ.Name, text, err, out)
	}
}

func arrayText(elems []string) string {
	var quoted []string
	for _, e := range elems {
		quoted = append(quoted, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(e)+`"`)
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

func compositeText(fields ...string) string {
	var quoted []string
	for _, f := range fields {
		quoted = append(quoted, `"`+strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(f)+`"`)
	}
	return "(" + strings.Join(quoted, ",") + ")"
}

// A json value keeps its meaning, duplicate names apart: encoding/json takes the last too.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{`{"a":1,"\u0061":{"b":[1e3,-0]}}`, ` [ null , true , "\"x" ] `, `{"":0,"":{"":1,"":2}}`, `{"\ud83d\ude00":1,"\ud83d":2}`, "-0.0e0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		out, err := encode(typeJSON, text)
		if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
			return // refused or not, but without a panic
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		want, got := generic(t, text), generic(t, out)
		if strings.Contains(text, `\u`) { // encoding/json makes all halves of surrogate pairs the same
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q became %q: %s", text, out, diff)
		}
	})
}

// generic decodes numbers as doubles: 1e2 and 100 are the same. Too large ones it leaves out.
func generic(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil && !strings.Contains(err.Error(), "cannot unmarshal number") {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}
