package projector

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walrill/walrill/event"
)

func TestParseFold(t *testing.T) {
	near := func(got string, names []string) string {
		if got == "kye" {
			return "key"
		}
		return ""
	}
	for _, tc := range []struct{ sql, want, params, err string }{
		{"INSERT INTO balance VALUES (:key, 0);", "INSERT INTO balance VALUES ($1, 0)", ":key", ""},
		{"UPDATE b SET x = x + :data.amount, y = :data.by.name WHERE id = :key AND z = :key", "UPDATE b SET x = x + $1, y = $2 WHERE id = $3 AND z = $4",
			":data.amount :data.by.name :key :key", ""},
		{`SELECT :data."two words"."a""b"::int, a[1:2], x::text, :old`, `SELECT $1::int, a[1:2], x::text, $2`, `:data.two words.a"b :old`, ""},
		{"SELECT ':key', \":key\", E'\\':key', $$ :key $$, $a$ $$ :key $a$, 1 -- :key\n, :id /* :key /* :key */ :key */, :op",
			"SELECT ':key', \":key\", E'\\':key', $$ :key $$, $a$ $$ :key $a$, 1 -- :key\n, $1 /* :key /* :key */ :key */, $2", ":id :op", ""},
		{"SELECT :kye", "", "", "an event has no :kye; did you mean :key?"},
		{"SELECT :ts", "", "", "an event has no :ts; there are :key, :data, "},
		{"SELECT :key.x", "", "", ":key.x: an event's key has no members"},
		{"SELECT $1", "", "", "it has a $1; write :key"},
		{`SELECT x LIKE'\' AND y = :key`, `SELECT x LIKE'\' AND y = $1`, ":key", ""},
		{"SELECT a$1 FROM t", "SELECT a$1 FROM t", "", ""},
	} {
		got, params, err := parseFold(tc.sql, near)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want %q", tc.sql, err, tc.err)
			}
			continue
		}
		var names []string
		for _, p := range params {
			names = append(names, p.String())
		}
		if err != nil || got != tc.want || strings.Join(names, " ") != tc.params {
			t.Errorf("%s\ngot  %s with %q, %v\nwant %s with %s", tc.sql, got, names, err, tc.want, tc.params)
		}
	}
}

// FuzzParseFold wants no panic, and text without a parameter back as it is.
func FuzzParseFold(f *testing.F) {
	for _, s := range []string{"SELECT :data.x", "E'\\", "$a$", "/*", "--", ":\"", ":a.", "::x", "a$1", "'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		text, params, err := parseFold(sql, func(string, []string) string { return "" })
		if err == nil && len(params) == 0 && text != strings.TrimSuffix(strings.TrimSpace(sql), ";") {
			t.Errorf("%q became %q", sql, text)
		}
	})
}

func TestFoldArgs(t *testing.T) {
	e := &event.Event{Stream: event.NewStream("s", 1), Key: []byte(`a"b`), Position: event.Position{Commit: event.Clock(1, 0x16B3748), Ordinal: 3}, Op: 'u',
		Data:      []byte(`{"n": 12345678901234567890.10, "t": "x\"y\u00e4", "z": null, "b": true, "o": {"in": [1, "q\"r\\", null, [2]]}, "l": ["a,b", null, true]}`),
		Unchanged: []byte(`["big"]`)}
	for _, tc := range []struct {
		param string
		shape int
		want  any
	}{
		{"data.n", shapeText, "12345678901234567890.10"},
		{"data.t", shapeText, "x\"yä"},
		{"data.t", shapeJSON, `"x\"y\u00e4"`},
		{"data.z", shapeText, nil},
		{"data.nothing", shapeText, nil},
		{"data.b", shapeText, "true"},
		{"data.o.in", shapeText, `[1, "q\"r\\", null, [2]]`},
		{"data.o.in", shapeArray, `{"1","q\"r\\",NULL,{"2"}}`},
		{"data.l", shapeArray, `{"a,b",NULL,"true"}`},
		{"data.n.x", shapeText, nil},
		{"old", shapeJSON, nil},
		{"old.x", shapeText, nil},
		{"key", shapeText, `a"b`},
		{"key", shapeJSON, `"a\"b"`},
		{"id", shapeText, e.Position.ID()},
		{"lsn", shapeText, "0/16B3748"},
		{"op", shapeText, "u"},
		{"time", shapeText, "0001-01-01T00:00:00.000000Z"},
	} {
		root, path, _ := strings.Cut(tc.param, ".")
		p := param{root: root}
		if path != "" {
			p.path = strings.Split(path, ".")
		}
		st := foldStatement{params: []param{p}, shapes: []int{tc.shape}}
		got, err := st.args(e)
		if err != nil || !cmp.Equal(got, []any{tc.want}) {
			t.Errorf("%s as %d: %#v, %v; want %#v", tc.param, tc.shape, got, err, tc.want)
		}
	}
	st := foldStatement{params: []param{{"data", []string{"big"}}}, shapes: []int{shapeText}}
	if _, err := st.args(e); err == nil || !isDataError(err) || !strings.Contains(err.Error(), "REPLICA IDENTITY FULL") {
		t.Errorf("a value that was not sent: %v", err)
	}
}
