package rehearse

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/internal/harness"
	"github.com/walrill/walrill/transform"
)

func TestMain(m *testing.M) { harness.Main(m) }

// What is made of a JSON value is what Postgres prints of it, byte for byte, and to_jsonb gives the JSON back.
func TestValuesAsPostgresPrintsThem(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TYPE mood AS ENUM ('fine', 'so so')")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "SET TimeZone = 'UTC'"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ typ, json string }{
		{"smallint", "-7"}, {"integer", "7"}, {"bigint", "9223372036854775807"}, {"int8", "0"}, {"numeric(10,2)", "42.50"}, {"numeric", "0.10"}, {"numeric", `"NaN"`},
		{"double precision", "1.5"}, {"real", "0.25"}, {"boolean", "true"}, {"bool", "false"}, {"text", `"it's \"so\", ünïcode\\"`}, {"varchar(20)", `"a"`}, {"mood", `"so so"`},
		{"uuid", `"4f6c6b6e-0000-4000-8000-000000000001"`}, {"date", `"2026-03-01"`}, {"timestamp", `"2026-03-01T08:00:00.5"`},
		{"timestamp with time zone", `"2026-03-01T08:00:00+00:00"`}, {"timestamptz", `"2026-03-01T08:00:00.25+00:00"`}, {"timestamptz", `"infinity"`}, {"jsonb", `{"a": [1, null, "x"]}`}, {"jsonb", `"text"`}, {"jsonb", "2.50"},
		{"text[]", `["a", "b \"c\", d\\", null, ""]`}, {"bigint[]", "[1, 2]"}, {"int[]", "[[1, 2], [3, 4]]"}, {"text[]", "[]"}, {"jsonb[]", `[{"a": 1}]`}, {"timestamptz[]", `["2026-03-01T08:00:00+00:00"]`},
	} {
		row, err := ParseRow([]byte(`{"v":` + c.json + `}`))
		if err != nil {
			t.Fatal(err)
		}
		v, err := value(TypeOf(c.typ), row["v"])
		if err != nil || v.Kind != change.Text {
			t.Errorf("%s of %s: %v, %c", c.typ, c.json, err, v.Kind)
			continue
		}
		var back, as string
		var printed string
		query := fmt.Sprintf("SELECT to_jsonb($1::text::%s)::text, $2::jsonb::text, $1::text::%[1]s::text", c.typ)
		if err := conn.QueryRow(t.Context(), query, pgx.QueryExecModeSimpleProtocol, string(v.Data), c.json).Scan(&back, &as, &printed); err != nil {
			t.Errorf("%s of %s: Postgres does not take %s: %v", c.typ, c.json, v.Data, err)
		} else if back != as {
			t.Errorf("%s of %s: %s is %s to Postgres", c.typ, c.json, v.Data, back)
		} else if loose := strings.HasSuffix(c.typ, "[]") || c.typ == "jsonb" || strings.HasPrefix(c.typ, "bool"); !loose && printed != string(v.Data) {
			t.Errorf("%s of %s: %s, Postgres prints %s", c.typ, c.json, v.Data, printed)
		}
	}
}

func TestComposite(t *testing.T) {
	typ := &change.Type{Name: "address", Shape: change.ShapeComposite, Fields: []change.Field{{Name: "street", Type: TypeOf("text")}, {Name: "no", Type: TypeOf("int")}, {Name: "old", Type: TypeOf("text")}}}
	got, err := textOf(typ, map[string]any{"street": `Main "St"`, "no": json.Number("5")})
	if want := `("Main \"St\"","5",)`; got != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestWrongValues(t *testing.T) {
	for typ, wrong := range map[string]string{"bigint": `"x"`, "integer": "1.5", "boolean": `"t"`, "text": "5", "timestamptz": `"yesterday"`, "text[]": `"a"`, "int[]": `["x"]`, "uuid": "{}"} {
		row, err := ParseRow([]byte(`{"v":` + wrong + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := value(TypeOf(typ), row["v"]); err == nil {
			t.Errorf("%s takes %s as %s", typ, wrong, v.Data)
		}
	}
}

// relation is a table of an id and two columns, and a large one.
func relation(t *testing.T, identity string, key ...string) *change.Relation {
	t.Helper()
	rel, err := NewRelation(1, "public.t", []Column{{"id", "bigint"}, {"a", "text"}, {"b", "text"}}, key, identity)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// show prints a row as Postgres sends it: - is not sent, _ is NULL.
func show(row []change.Value) string {
	if row == nil {
		return "nothing"
	}
	var parts []string
	for _, v := range row {
		parts = append(parts, map[change.ValueKind]string{change.Null: "_", change.Absent: "-", change.Text: string(v.Data)}[v.Kind])
	}
	return strings.Join(parts, " ")
}

// Of the row before a change only that is there which Postgres sends under the table's replica identity.
func TestOldRowsAsPostgresSendsThem(t *testing.T) {
	row := func(text string) Row {
		r, err := ParseRow([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, c := range []struct{ identity, old, new, wantOld, wantNew string }{
		{"default", `{"id":1,"a":"x"}`, `{"a":"y"}`, "nothing", "1 y _"},
		{"default", `{"id":1,"a":"x"}`, `{"id":2}`, "1 - -", "2 x _"},
		{"full", `{"id":1,"a":"x"}`, `{"a":"y","b":"z"}`, "1 x z", "1 y z"}, // old says nothing of b: it is as it was
		{"full", `{}`, `{"id":1}`, "1 _ _", "1 _ _"},
	} {
		got, err := Update(relation(t, c.identity, "id"), row(c.old), row(c.new))
		if err != nil {
			t.Fatal(err)
		}
		if show(got.Old) != c.wantOld || show(got.New) != c.wantNew {
			t.Errorf("%s: %s to %s: sent %q and %q, want %q and %q", c.identity, c.old, c.new, show(got.Old), show(got.New), c.wantOld, c.wantNew)
		}
	}
	for identity, want := range map[string]string{"default": "1 - -", "full": "1 x _"} {
		got, err := Delete(relation(t, identity, "id"), row(`{"id":1,"a":"x"}`))
		if err != nil || show(got.Old) != want {
			t.Errorf("%s: delete: %v, sent %q, want %q", identity, err, show(got.Old), want)
		}
	}
	if _, err := Update(relation(t, "default"), row(`{}`), row(`{"id":1}`)); err == nil || !strings.Contains(err.Error(), "no replica identity") {
		t.Errorf("an update without identity: %v", err)
	}
	if _, err := Insert(relation(t, "full"), change.Insert, row(`{"c":1}`)); err == nil || !strings.Contains(err.Error(), "no column c; it has id, a, b") {
		t.Errorf("an unknown column: %v", err)
	}
	if _, err := NewRelation(1, "public.t", nil, []string{"id"}, "default"); err == nil {
		t.Error("a key of a column that is not there")
	}
}

const file = `# Kept.
tables:
  public.t: {columns: {id: bigint, a: text, n: numeric}, key: id, identity: full}
tests:
  - name: first # kept
    given:
      public.t: [{id: 1, a: x, n: 1.50}]
    when:
      - {update: public.t, row: {id: 1}, set: {a: y}}
    then: # of the update
      - type: wrong
        data: {a: z}

  # Kept, too.
  - name: second
    when:
      - {insert: public.t, row: {id: 2, a: "true", n: 2.50}}
      - {update: public.t, row: {a: "true"}, set: {id: 3}}
      - {delete: public.t, row: {id: 3}}
      - {read: public.t, row: {id: 4}}
      - truncate: public.t
    then:
    - {key: "2"}
    - {partition: 0, op: d}
  - then: []
    name: third
    when: []
`

func play(t *testing.T, text string) (*config.TestFile, [][]Event) {
	t.Helper()
	f, err := config.ParseTests("f.test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rel, err := NewRelation(1, "public.t", []Column{{"id", "bigint"}, {"a", "text"}, {"n", "numeric"}}, []string{"id"}, "full")
	if err != nil {
		t.Fatal(err)
	}
	var all [][]Event
	for i := range f.Tests {
		m, err := transform.New(transform.Mapping{Streams: []transform.StreamMapping{{Name: "s", Tables: []transform.TableMapping{{Pattern: "public.t"}}}}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		events, err := Play(m, map[string]*change.Relation{"public.t": rel}, &f.Tests[i])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, events)
	}
	return f, all
}

func TestPlayCompareRewrite(t *testing.T) {
	f, events := play(t, file)
	if diff := cmp.Diff(strings.TrimLeft(`
  - - type: wrong
  + - type: t.updated
      data:
  -     a: z
  +     a: y
  +     id: 1
  +     n: 1.5
`, "\n"), Compare(&f.Tests[0], events[0])); diff != "" {
		t.Errorf("the difference (-want +got):\n%s", diff)
	}
	if got := Compare(&f.Tests[2], events[2]); got != "" {
		t.Errorf("nothing is something else than nothing: %s", got)
	}
	out, err := Rewrite([]byte(file), f.Tests, map[int][]Event{0: events[0], 1: events[1]})
	if err != nil {
		t.Fatal(err)
	}
	wantFile := strings.Replace(file, `    then: # of the update
      - type: wrong
        data: {a: z}
`, `    then:
      - {type: t.updated, data: {a: y, id: 1, n: 1.50}}
`, 1)
	wantFile = strings.Replace(wantFile, `    - {key: "2"}
    - {partition: 0, op: d}
`, `      - {key: "2"}
      - {partition: 0, op: d}
      - {type: t.created, key: "3", data: {a: "true", id: 3, n: 2.50}}
      - {type: t.deleted, key: "3", data: {a: "true", id: 3, n: 2.50}}
      - {type: t.read, key: "4", data: {a: null, id: 4, n: null}}
      - {type: t.truncated, key: ""}
`, 1)
	if diff := cmp.Diff(wantFile, string(out)); diff != "" {
		t.Errorf("rewritten (-want +got):\n%s", diff)
	}
	// What was written is what happens.
	f, events = play(t, string(out))
	for i := range f.Tests {
		if diff := Compare(&f.Tests[i], events[i]); diff != "" {
			t.Errorf("%s still differs:\n%s", f.Tests[i].Name, diff)
		}
	}
}

func TestRewriteWithinALine(t *testing.T) {
	f, err := config.ParseTests("f", []byte("tests: [{name: x, when: [], then: []}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Rewrite([]byte("tests: [{name: x, when: [], then: []}]\n"), f.Tests, map[int][]Event{0: {}}); err == nil || !strings.Contains(err.Error(), "f:1:29") {
		t.Errorf("got %v", err)
	}
}

func TestPlayErrors(t *testing.T) {
	for text, want := range map[string]string{
		"- {update: public.t, row: {id: 1}, set: {a: x}}":                                           "no row of public.t is like `row`",
		"- {insert: public.t, row: {id: x}}":                                                        `column id (bigint): want a number, got "x"`,
		"- {insert: public.u, row: {id: 1}}":                                                        "the table public.u is not described",
		"- {insert: t, row: {}}\n      - {insert: t, row: {}}\n      - {delete: t, row: {a: null}}": "more than one row is like `row`",
	} {
		f, err := config.ParseTests("f", []byte("tests:\n  - name: x\n    when:\n      "+text+"\n    then: []\n"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := transform.New(transform.Mapping{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Play(m, map[string]*change.Relation{"public.t": relation(t, "default", "id")}, &f.Tests[0])
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
