package capture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
	"github.com/walrill/walrill/transform"
)

// oracle compares what transform makes of rows with Postgres's own to_jsonb.
type oracle struct {
	conn  *pgx.Conn
	types *typeCatalogue
}

// newOracle opens a session that prints values as the replication session does.
func newOracle(t *testing.T) *oracle {
	t.Helper()
	config, err := pgx.ParseConfig(harness.Database(t, harness.SharedPostgres(t, 15)))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres",
		"bytea_output": "hex", "extra_float_digits": "1", "client_encoding": "UTF8"} {
		config.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return &oracle{conn: conn, types: newTypeCatalogue()}
}

func (o *oracle) exec(t *testing.T, sql ...string) {
	t.Helper()
	for _, s := range sql {
		if _, err := o.conn.PgConn().Exec(t.Context(), s).ReadAll(); err != nil {
			t.Fatalf("%v: %s", err, s)
		}
	}
}

// relation describes a table by the catalogue under test.
func (o *oracle) relation(t *testing.T, table string) *change.Relation {
	t.Helper()
	rows, err := o.conn.Query(t.Context(), `SELECT attname::text, atttypid FROM pg_attribute
		WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, quote(table))
	if err != nil {
		t.Fatal(err)
	}
	rel := &change.Relation{OID: 1, Namespace: "public", Name: table, Identity: change.IdentityFull}
	var oids []uint32
	var name string
	var oid uint32
	if _, err := pgx.ForEachRow(rows, []any{&name, &oid}, func() error {
		rel.Columns = append(rel.Columns, change.Column{Name: name, Key: true})
		oids = append(oids, oid)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.types.resolve(t.Context(), o.conn, oids); err != nil {
		t.Fatal(err)
	}
	for i, oid := range oids {
		rel.Columns[i].Type = o.types.lookup(oid)
	}
	return rel
}

// checkTable compares every row of a table.
func (o *oracle) checkTable(t *testing.T, table string) {
	t.Helper()
	rel := o.relation(t, table)
	results, err := o.conn.PgConn().Exec(t.Context(), "SELECT t.*, to_jsonb(t) FROM "+quote(table)+" t").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(results[0].Rows) == 0 {
		t.Errorf("%s: no rows", table)
	}
	m := oracleMapper(t)
	for _, row := range results[0].Rows {
		if problem := compareRow(m, rel, row); problem != "" {
			t.Errorf("%s: %s", table, problem)
		}
	}
}

func oracleMapper(t *testing.T) *transform.Mapper {
	m, err := transform.New(transform.Mapping{Streams: []transform.StreamMapping{{Name: "*", Tables: []transform.TableMapping{{Pattern: "public.*"}}}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// compareRow maps the columns of a row and compares with the to_jsonb behind
// them. It returns the columns that differ.
func compareRow(m *transform.Mapper, rel *change.Relation, row [][]byte) string {
	c := &change.Change{Op: change.Insert, Relation: rel}
	for i := range rel.Columns {
		v := change.Value{Kind: change.Text, Data: row[i]}
		if row[i] == nil {
			v.Kind = change.Null
		}
		c.New = append(c.New, v)
	}
	events, err := m.Map(c)
	if err != nil {
		return err.Error()
	}
	got, err1 := jsonObject(events[0].Data)
	want, err2 := jsonObject(row[len(rel.Columns)])
	if err1 != nil || err2 != nil {
		return fmt.Sprintf("%v, %v in %s", err1, err2, events[0].Data)
	}
	problem := ""
	for i, col := range rel.Columns {
		if !reflect.DeepEqual(want[col.Name], got[col.Name]) {
			problem += fmt.Sprintf("column %s %s, text %.500s:\n to_jsonb %.500v\n walrill  %.500v\n", col.Name, col.Type.Name, row[i], want[col.Name], got[col.Name])
		}
	}
	if problem == "" && len(want) != len(got) {
		problem = fmt.Sprintf("%d members instead of %d", len(got), len(want))
	}
	return problem
}

// jsonObject decodes with numbers as canonical decimals.
func jsonObject(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return canonical(v).(map[string]any), nil
}

func canonical(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = canonical(v[k])
		}
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
	case json.Number:
		r, ok := new(big.Rat).SetString(string(v))
		if !ok {
			return "not a number: " + v
		}
		return json.Number(r.RatString())
	}
	return v
}

// samples are values of every built-in type, as text; more than what is usual.
var samples = map[string][]string{
	"bool": {"t", "f"},
	"int2": {"-32768", "0", "32767"}, "int4": {"-2147483648", "2147483647"}, "int8": {"-9223372036854775808", "9223372036854775807"},
	"float4": {"0", "-0", "1.5", "3.4028235e38", "1e-45", "1e6", "1e15", "NaN", "Infinity", "-Infinity"},
	"float8": {"0", "-0", "-0.1", "1e20", "1.5e-7", "1.7976931348623157e308", "5e-324", "123456789012345680", "1e15", "1e16", "NaN", "Infinity", "-Infinity"},
	"numeric": {"0", "0.00", "-0.0", "1e20", "1e-20", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.123456789",
		"1e1000", "-9.5e-1000"},
	"money":  {"12.34", "-92233720368547758.08"},
	"text":   {"", " ", "NULL", "null", `a "quoted" \ back`, "{}", "(,)", "ünï😀", "\x01\t\n\r\x7f", "a,b;c", "'", "\u2028"},
	"bpchar": {"ab ", ""}, "varchar": {"x", "NULL"}, "name": {"x", "Sp ace"}, "char": {"a", "", `"`, `\377`, `\`},
	"bytea": {"", `\x00ff5c22`, "abc"},
	"date":  {"2020-02-29", "0044-03-15 BC", "infinity", "-infinity", "5874897-12-31", "4714-11-24 BC"},
	"time":  {"00:00:00", "24:00:00", "12:34:56.789012"}, "timetz": {"12:34:56.5+05:30", "00:00:00-15:59:59"},
	"timestamp":   {"2020-01-01 00:00:00", "2020-01-01 12:34:56.5", "0044-03-15 12:00:00 BC", "infinity", "-infinity", "294276-12-31 23:59:59.999999"},
	"timestamptz": {"2020-01-01 00:00:00+02", "2020-01-01 12:34:56.123456", "0044-03-15 12:00:00 BC", "infinity", "-infinity", "294276-12-31 23:59:59.999999+00", "1899-12-31 23:59:59-07"},
	"interval":    {"1 year 2 mons -3 days 04:05:06.789", "0", "-1 sec", "178000000 years"},
	"json": {`null`, ` { "a" : 1 , "a" : 2 , "b" : [ ] } `, `"x\u00e9\ud83d\ude00"`, `[1e2, -0, 1.50, 1E-5, 1e+3, -0.0e1]`, `{"a":{"a":1,"\u0061":{"c":"d,}"}}}`,
		`1e400`, `-1.5e-500`, `1e20000`, `{"":"","\"":"\\"}`, "[\n\t{}\r\n,\"\"]", `true`, `12345678901234567890.0`},
	"jsonb": {`null`, `{"b": 1, "a": [1e2, {"x": null}], "c": "\"\\ \n"}`, `"text"`, `1e-10`, `[]`, `{}`},
	"xml":   {"<a b=\"c\">d</a>", "text"}, "uuid": {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
	"inet": {"10.0.0.1/8", "::1"}, "cidr": {"10.0.0.0/8", "2001:db8::/32"}, "macaddr": {"08:00:2b:01:02:03"}, "macaddr8": {"08:00:2b:01:02:03:04:05"},
	"bit": {"1"}, "varbit": {"", "10110"},
	"point": {"(1.5,-2)", "(1e+300,NaN)"}, "line": {"{1,2,3}"}, "lseg": {"[(0,0),(1,1)]"}, "box": {"(2,2),(0,0)"}, "path": {"((0,0),(1,1))", "[(0,0),(1,1)]"},
	"polygon": {"((0,0),(1,1),(1,0))"}, "circle": {"<(0,0),1>"},
	"tsvector": {`'a' 'b c':1A,2 '''q'`, ""}, "tsquery": {`'a' & !'b c'`, ""}, "jsonpath": {`$."a b"[*] ? (@ > 1)`},
	"oid": {"0", "4294967295"}, "tid": {"(1,2)"}, "xid": {"4294967295"}, "xid8": {"18446744073709551615"}, "cid": {"7"}, "pg_lsn": {"16/B374D848"},
	"txid_snapshot": {"10:20:10,14,15"}, "pg_snapshot": {"10:20:10,14,15"}, "refcursor": {"a cursor"},
	"int2vector": {"", "1", "1 -2 3"}, "oidvector": {"", "1", "1 4294967295"}, "aclitem": {"=r/%user%", "%user%=arw*/%user%"},
	"regclass": {"pg_class", "-"}, "regtype": {"int4", "text[]", "-"}, "regproc": {"now", "-"}, "regprocedure": {"abs(int4)", "-"}, "regoper": {"pg_catalog.||/", "0"},
	"regoperator": {"+(int4,int4)", "0"}, "regrole": {"%user%", "-"}, "regnamespace": {"pg_catalog", "-"}, "regconfig": {"english", "-"},
	"regdictionary": {"simple", "-"}, "regcollation": {`"C"`, "-"},
	"int4range": {"[1,5)", "empty", "(,)"}, "int8range": {"[1,5)"}, "numrange": {"[1.0,5.50]", "(,Infinity]"}, "tsrange": {`["2020-01-01 00:00:00",infinity)`},
	"tstzrange": {`["2020-01-01 00:00:00+02",)`}, "daterange": {"[2020-01-01,2020-02-01]"},
	"int4multirange": {"{}", "{[1,5),[7,9)}"}, "int8multirange": {"{[1,5)}"}, "nummultirange": {"{[1.0,5.50]}"}, "tsmultirange": {`{["2020-01-01 00:00:00",infinity)}`},
	"tstzmultirange": {`{["2020-01-01 00:00:00+02",)}`}, "datemultirange": {"{[2020-01-01,2020-02-01]}"},
}

// unwritable are the built-in types whose input functions accept nothing.
var unwritable = []string{"gtsvector", "pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"}

// Every built-in type, alone and in every way that types are made of others.
func TestTypesEqualToJSONB(t *testing.T) {
	o := newOracle(t)
	rows, err := o.conn.Query(t.Context(), `SELECT typname::text FROM pg_type WHERE typtype IN ('b', 'r', 'm')
		AND typnamespace = 'pg_catalog'::regnamespace AND typsubscript <> 'array_subscript_handler'::regproc
		OR oid IN ('int2vector'::regtype, 'oidvector'::regtype) ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if slices.Contains(unwritable, name) {
			continue
		}
		values := samples[name]
		if values == nil {
			t.Errorf("no sample of the built-in type %s", name)
			continue
		}
		typ := "pg_catalog." + quote(name)
		if name == "bit" {
			typ += "(1)"
		}
		o.makeTable(t, name, typ, values)
		o.checkTable(t, "t "+name)
	}
}

// The largest and the smallest that Postgres has.
func TestTypesHugeValues(t *testing.T) {
	o := newOracle(t)
	o.exec(t, `CREATE TABLE huge AS SELECT 1e131071::numeric - 1 AS large, -9.5e-16000::numeric AS small, repeat('\"x', 1 << 20) AS long,
		'[1e131071, 1e-16000, -2.5e400]'::json AS j, (SELECT array_agg(i::text) FROM generate_series(1, 100000) i) AS list,
		(SELECT json_object_agg(i, i) FROM generate_series(1, 1000) i) AS wide, (repeat('[', 1000) || repeat(']', 1000))::json AS deep`)
	o.checkTable(t, "huge")
}

// makeTable makes a table of everything that can be made of a type, with all values in every place.
func (o *oracle) makeTable(t *testing.T, name, typ string, values []string) {
	t.Helper()
	q := func(kind string) string { return quote(kind + " " + name) }
	o.exec(t,
		fmt.Sprintf(`CREATE DOMAIN %s AS %s`, q("domain"), typ),
		fmt.Sprintf(`CREATE DOMAIN %s AS %s[]`, q("domain of array"), typ),
		fmt.Sprintf(`CREATE DOMAIN %s AS %s`, q("domain of domain"), q("domain")),
		fmt.Sprintf(`CREATE TYPE %s AS (a %s, "b ""c" %s[], d %s)`, q("row"), typ, typ, q("domain")),
		fmt.Sprintf(`CREATE TYPE %s AS (r %s, rs %s[], da %s)`, q("outer"), q("row"), q("row"), q("domain of array")),
		fmt.Sprintf(`CREATE DOMAIN %s AS %s`, q("domain of row"), q("row")),
		fmt.Sprintf(`CREATE TABLE %s (v %s, vs %[2]s[], d %s, ds %[3]s[], dd %s, da %s, das %[5]s[], r %s, rs %[6]s[], o %s, dr %s, drs %[8]s[])`,
			q("t"), typ, q("domain"), q("domain of domain"), q("domain of array"), q("row"), q("outer"), q("domain of row")),
		fmt.Sprintf(`INSERT INTO %s (vs, r) VALUES (NULL, NULL), ('{}', ROW(NULL, '{}', NULL)), ('{NULL}', ROW(NULL, NULL, NULL))`, q("t")))
	for i, v := range values {
		a, b := o.literal(v, typ), o.literal(values[(i+1)%len(values)], typ)
		list := fmt.Sprintf(`ARRAY[%s, NULL, %s]::%s[]`, a, b, typ)
		row := fmt.Sprintf(`ROW(%s, %s, %s)::%s`, a, list, b, q("row"))
		rows := fmt.Sprintf(`ARRAY[%s, NULL, %[1]s]`, row)
		o.exec(t, fmt.Sprintf(`INSERT INTO %s VALUES (%s, %s, %[2]s, %[3]s, %[2]s, %[3]s, array_fill(%[3]s::%s, '{2}'), %s, %s, ROW(%[5]s, %[6]s, %[3]s), %[5]s, %[6]s)`,
			q("t"), a, list, q("domain of array"), row, rows),
			fmt.Sprintf(`INSERT INTO %[1]s (vs, ds, rs) VALUES (ARRAY[[%[2]s, %[3]s], [NULL, %[2]s]]::%[4]s[], ARRAY[[[%[2]s]], [[%[3]s]]]::%[4]s[], ARRAY[[%[5]s], [NULL]]::%[6]s[])`, q("t"), a, b, typ, row, q("row")),
			fmt.Sprintf(`INSERT INTO %s (vs, ds) VALUES (array_fill(%s, '{1,2}', '{-1,3}'), array_fill(NULL::%s, '{2}', '{0}'))`, q("t"), a, q("domain")))
	}
}

func (o *oracle) literal(text, typ string) string {
	return literalE(strings.ReplaceAll(text, "%user%", o.conn.Config().User)) + "::" + typ
}

func literalE(s string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// randomColumns are what TestTypesRandomRows fills; $ in cast is the value's text.
var randomColumns = []struct {
	name, typ, cast string
	value           *rapid.Generator[string]
}{
	{"i", "int8", "", rapid.Map(rapid.Int64(), func(v int64) string { return strconv.FormatInt(v, 10) })},
	{"f", "float8", "", rapid.Map(rapid.Uint64(), func(v uint64) string { return floatText(math.Float64frombits(v), 64) })},
	{"f4", "float4", "", rapid.Map(rapid.Uint32(), func(v uint32) string { return floatText(float64(math.Float32frombits(v)), 32) })},
	{"fs", "float8[]", "", genArray(rapid.Map(rapid.Float64Range(-1e25, 1e25), func(v float64) string { return floatText(v, 64) }))},
	{"n", "numeric", "", genDecimal()},
	{"t", "text", "", genText()},
	{"ts", "text[]", "", genArray(genText())},
	{"b", "bytea", "", rapid.Map(rapid.SliceOf(rapid.Byte()), func(v []byte) string { return fmt.Sprintf(`\x%x`, v) })},
	{"j", "json", "", genJSON(3)},
	{"js", "json[]", "", genArray(genJSON(2))},
	{"jb", "jsonb", "", genJSON(3)},
	{"at", "timestamptz", "timestamptz '2000-01-01 00:00:00+00' + $::interval", genMicroseconds()},
	{"local", "timestamp", "timestamp '2000-01-01 00:00:00' + $::interval", genMicroseconds()},
	{"d", "date", "date '2000-01-01' + $::int", rapid.Map(rapid.IntRange(-2451545, 2145031948), strconv.Itoa)},
	{"p", "pair", "", genPair()},
	{"ps", "pair[]", "", genArray(genPair())},
	{"o", "nested", "", rapid.Custom(func(t *rapid.T) string {
		return compositeText(genPair().Draw(t, "p"), genArray(genPair()).Draw(t, "ps"), genArray(genText()).Draw(t, "ts"), genJSON(1).Draw(t, "j"))
	})},
	{"v", "oidvector", "", rapid.Map(rapid.SliceOf(rapid.Uint32()), func(v []uint32) string { return strings.Trim(fmt.Sprint(v), "[]") })},
	{"boxes", "box[]", "", rapid.Map(rapid.SliceOfN(rapid.Float64Range(-1e9, 1e9), 1, 4), func(v []float64) string {
		var boxes []string
		for _, f := range v {
			boxes = append(boxes, fmt.Sprintf("(%v,1),(0,%[1]v)", f))
		}
		return "{" + strings.Join(boxes, ";") + "}"
	})},
}

// Random rows of the types that are parsed or rewritten.
func TestTypesRandomRows(t *testing.T) {
	o := newOracle(t)
	o.exec(t, `CREATE TYPE pair AS (a text, b int)`, `CREATE DOMAIN texts AS text[]`,
		`CREATE TYPE nested AS (p pair, ps pair[], "the ""texts""" texts, j json)`)
	var columns, casts []string
	for i, c := range randomColumns {
		columns = append(columns, c.name+" "+c.typ)
		param := fmt.Sprintf("$%d::text", i+1)
		cast := strings.ReplaceAll(c.cast, "$", param)
		if cast == "" {
			cast = param + "::" + c.typ
		}
		casts = append(casts, cast+" AS "+c.name)
	}
	o.exec(t, "CREATE TABLE r ("+strings.Join(columns, ", ")+")")
	rel := o.relation(t, "r")
	query := fmt.Sprintf("SELECT r.*, to_jsonb(r) FROM (SELECT %s) r", strings.Join(casts, ", "))
	if _, err := o.conn.PgConn().Prepare(t.Context(), "random", query, nil); err != nil {
		t.Fatal(err)
	}
	m := oracleMapper(t)
	rapid.Check(t, func(rt *rapid.T) {
		var args [][]byte
		for _, c := range randomColumns {
			args = append(args, []byte(c.value.Draw(rt, c.name)))
		}
		result := o.conn.PgConn().ExecPrepared(t.Context(), "random", args, nil, nil).Read()
		if result.Err != nil {
			rt.Fatal(result.Err)
		}
		if problem := compareRow(m, rel, result.Rows[0]); problem != "" {
			rt.Fatal(problem)
		}
	})
}

func floatText(v float64, bits int) string { return strconv.FormatFloat(v, 'g', -1, bits) }

// genText prefers what arrays, rows and JSON have to quote.
func genText() *rapid.Generator[string] {
	special := rapid.SampledFrom([]rune(`"\{}(),; []'NULLnull` + "\n\t\x01\x1f\u00a0ü😀"))
	any := rapid.Rune().Filter(func(r rune) bool { return r != 0 })
	return rapid.OneOf(rapid.StringOf(special), rapid.StringOf(rapid.OneOf(special, any)), rapid.SampledFrom([]string{"", "NULL", `"`, `\`}))
}

// genDecimal are numbers that both JSON and numeric can hold.
func genDecimal() *rapid.Generator[string] {
	return rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?`)
}

func genMicroseconds() *rapid.Generator[string] {
	return rapid.Map(rapid.Int64Range(-210_866_803_200_000_000, 9_223_371_331_199_999_999), func(v int64) string {
		return fmt.Sprintf("%d microseconds", v)
	})
}

func genPair() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "null") {
			return "(,)"
		}
		return compositeText(genText().Draw(t, "a"), strconv.Itoa(int(rapid.Int32().Draw(t, "b"))))
	})
}

func compositeText(fields ...string) string {
	for i, f := range fields {
		fields[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `""`).Replace(f) + `"`
	}
	return "(" + strings.Join(fields, ",") + ")"
}

// genArray are arrays of one or two dimensions, some with NULLs and bounds.
func genArray(elem *rapid.Generator[string]) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		rows := rapid.IntRange(0, 3).Draw(t, "rows")
		columns := rapid.IntRange(1, 3).Draw(t, "columns")
		var list []string
		for range rows {
			var row []string
			for range columns {
				e := "NULL"
				if rapid.IntRange(0, 4).Draw(t, "null") > 0 {
					e = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(elem.Draw(t, "elem")) + `"`
				}
				row = append(row, e)
			}
			list = append(list, "{"+strings.Join(row, ",")+"}")
		}
		bounds := ""
		if first := rapid.IntRange(-3, 3).Draw(t, "first"); rows > 0 && first != 1 {
			bounds = fmt.Sprintf("[%d:%d][%[1]d:%[3]d]=", first, first+rows-1, first+columns-1)
		}
		return bounds + "{" + strings.Join(list, ",") + "}"
	})
}

// genJSON are documents with white space, escapes and names that repeat.
func genJSON(depth int) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", " ", "\n\t"})
	str := rapid.OneOf(rapid.SampledFrom([]string{`"a"`, `"\u0061"`, `"b"`, `"\ud83d\ude00"`, `"😀"`, `"\/"`, `"\""`}),
		rapid.Map(genText(), func(s string) string {
			text, _ := json.Marshal(s)
			return string(text)
		}))
	scalar := rapid.OneOf(str, genDecimal(), rapid.SampledFrom([]string{"null", "true", "false", "-0", "[]", "{ }"}))
	if depth == 0 {
		return scalar
	}
	return rapid.Custom(func(t *rapid.T) string {
		pad := func(s string) string { return space.Draw(t, "space") + s + space.Draw(t, "space") }
		value := func() string { return pad(genJSON(depth-1).Draw(t, "value")) }
		var parts []string
		n := rapid.IntRange(0, 4).Draw(t, "n")
		switch rapid.SampledFrom([]string{"scalar", "array", "object"}).Draw(t, "kind") {
		case "array":
			for range n {
				parts = append(parts, value())
			}
			return pad("[" + strings.Join(parts, ",") + "]")
		case "object":
			for range n {
				parts = append(parts, pad(str.Draw(t, "name"))+":"+value())
			}
			return pad("{" + strings.Join(parts, ",") + "}")
		}
		return pad(scalar.Draw(t, "scalar"))
	})
}

func TestTypeCatalogue(t *testing.T) {
	o := newOracle(t)
	o.exec(t, `CREATE TYPE mood AS ENUM ('ok')`, `CREATE TYPE pair AS (a int, b mood[])`, `CREATE DOMAIN boxes AS box[]`,
		`CREATE DOMAIN pairs AS pair[]`, `CREATE DOMAIN doc AS json`, `CREATE DOMAIN doc2 AS doc`, `CREATE TYPE span AS RANGE (subtype = int)`,
		`CREATE TABLE c (m mood, p pair, bs boxes, ps pairs, d doc2, s span, o oid, n name, pt point)`)
	rel := o.relation(t, "c")
	typ := func(name string) *change.Type { return rel.Columns[rel.Column(name)].Type }
	oid := func(name string) uint32 {
		v, err := strconv.ParseUint(o.value(t, "SELECT '"+name+"'::regtype::oid"), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(v)
	}
	text := func(name string) *change.Type { return &change.Type{OID: oid(name), Name: name} }
	pair := &change.Type{OID: oid("pair"), Name: "pair", Shape: change.ShapeComposite, Fields: []change.Field{
		{Name: "a", Type: &change.Type{OID: 23, Name: "integer", Shape: change.ShapeNumber}},
		{Name: "b", Type: &change.Type{OID: oid("mood[]"), Name: "mood[]", Shape: change.ShapeArray, Elem: text("mood"), Delim: ','}},
	}}
	for name, want := range map[string]*change.Type{
		"m": text("mood"), "s": text("span"), "o": text("oid"), "n": text("name"), "pt": text("point"), "p": pair,
		"bs": {OID: oid("box[]"), Name: "box[]", Shape: change.ShapeArray, Elem: text("box"), Delim: ';'},
		"ps": {OID: oid("pair[]"), Name: "pair[]", Shape: change.ShapeArray, Elem: pair, Delim: ','},
		"d":  {OID: 114, Name: "json", Shape: change.ShapeJSON},
	} {
		if diff := cmp.Diff(want, typ(name)); diff != "" {
			t.Errorf("column %s: %s", name, diff)
		}
	}

	// What cannot change is not asked for again: there is no connection to ask.
	if err := o.types.resolve(t.Context(), nil, []uint32{23, oid("mood[]"), oid("boxes"), oid("doc2")}); err != nil {
		t.Error(err)
	}
	// What can change is read anew.
	o.exec(t, `ALTER TYPE pair ADD ATTRIBUTE c text`, `ALTER TYPE pair DROP ATTRIBUTE a`)
	if fields := o.relation(t, "c").Columns[1].Type.Fields; len(fields) != 2 || fields[0].Name != "b" || fields[1].Name != "c" {
		t.Errorf("the altered type has the fields %v", fields)
	}
	// A type that is not there, and one that went away.
	o.exec(t, `DROP TABLE c`, `DROP TYPE span`)
	if err := o.types.resolve(t.Context(), o.conn, []uint32{4_000_000_000}); err != nil || o.types.lookup(4_000_000_000).Shape != change.ShapeText {
		t.Errorf("unknown type: %v, error %v", o.types.lookup(4_000_000_000), err)
	}
	if shape := o.types.lookup(3_999_999_999).Shape; shape != change.ShapeText {
		t.Errorf("type that was never resolved: shape %d", shape)
	}
}

// A column's type is called the same whatever the search path is.
func TestTypeNames(t *testing.T) {
	o := newOracle(t)
	o.exec(t, `CREATE SCHEMA "My"`, `CREATE TYPE "My".mood AS ENUM ('ok')`, `CREATE TYPE "The Mood" AS ENUM ('ok')`, `CREATE DOMAIN price AS numeric(10,2)`,
		`CREATE TABLE n (a int, b varchar(7), c numeric(10,2)[], d "My".mood, e "My".mood[], f "The Mood", g price, h timestamptz(3), i text, j bit(3), k "char")`)
	want := []string{"integer", "character varying(7)", "numeric(10,2)[]", `"My".mood`, `"My".mood[]`, `public."The Mood"`, "public.price",
		"timestamp(3) with time zone", "text", "bit(3)", `"char"`, "type 4000000000"}
	for _, path := range []string{`public`, `"My", public`, `pg_catalog`} {
		o.exec(t, `SET search_path = `+path)
		rows, err := o.conn.Query(t.Context(), `SELECT atttypid, atttypmod FROM pg_attribute WHERE attrelid = 'public.n'::regclass AND attnum > 0 ORDER BY attnum`)
		if err != nil {
			t.Fatal(err)
		}
		var oids []uint32
		var modifiers []int32
		var typ columnType
		if _, err := pgx.ForEachRow(rows, []any{&typ.oid, &typ.modifier}, func() error {
			oids, modifiers = append(oids, typ.oid), append(modifiers, typ.modifier)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		names, err := typeNames(t.Context(), o.conn, append(oids, 4_000_000_000), append(modifiers, -1))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("search path %s: %s", path, diff)
		}
	}
}

func (o *oracle) value(t *testing.T, sql string) string {
	t.Helper()
	results, err := o.conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return string(results[0].Rows[0][0])
}

// A relation of before a rename has the key that it had, where the columns' places tell.
func TestPrimaryKeyOfBefore(t *testing.T) {
	o := newOracle(t)
	for _, c := range []struct {
		what, alter string
		want        []string
	}{
		{"as it is", "", []string{"b", "a"}},
		{"renamed", "ALTER TABLE k RENAME a TO x; ALTER TABLE k RENAME b TO y", []string{"b", "a"}},
		{"columns came and went behind it", "ALTER TABLE k ADD late int; ALTER TABLE k RENAME b TO y; ALTER TABLE k DROP c", []string{"b", "a"}},
		{"a column in front of it is gone", "ALTER TABLE k RENAME b TO y; ALTER TABLE k DROP n", nil},
		{"another key by now", "ALTER TABLE k DROP CONSTRAINT k_pkey, ADD PRIMARY KEY (c)", []string{"c"}},
		{"none any more", "ALTER TABLE k DROP CONSTRAINT k_pkey", nil},
		{"the name is another column's", "ALTER TABLE k RENAME b TO y; ALTER TABLE k RENAME c TO b", nil},
	} {
		o.exec(t, `DROP TABLE IF EXISTS k`, `CREATE TABLE k (a int, n int, b text, c text, PRIMARY KEY (b, a))`)
		oid, err := strconv.ParseUint(o.value(t, `SELECT 'k'::regclass::oid`), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		rel := &change.Relation{OID: uint32(oid), Columns: []change.Column{{Name: "a"}, {Name: "n"}, {Name: "b"}, {Name: "c"}}}
		if c.alter != "" {
			o.exec(t, c.alter)
		}
		key, err := primaryKey(t.Context(), o.conn, rel, []columnType{{oid: 23}, {oid: 23}, {oid: 25}, {oid: 25}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, key); diff != "" {
			t.Errorf("%s: %s", c.what, diff)
		}
	}
}
