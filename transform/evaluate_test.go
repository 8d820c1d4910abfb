package transform

import (
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/types"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/change"
)

// exprRelation has a column of every kind.
func exprRelation() *change.Relation {
	rel := &change.Relation{OID: 1, Namespace: "public", Name: "t", Identity: change.IdentityFull}
	for _, c := range []struct {
		name string
		typ  *change.Type
	}{{"i", typeInt8}, {"j", typeInt4}, {"f", typeFloat8}, {"n", typeNumeric}, {"m", typeNumeric}, {"b", typeBool}, {"s", typeText}, {"t", typeText},
		{"doc", typeJSONB}, {"tags", arrayOf(typeText)}, {"at", typeTimestampTZ}, {"p", typePoint2}, {"odd name", typeInt4}} {
		rel.Columns = append(rel.Columns, change.Column{Name: c.name, Type: c.typ, Key: true})
	}
	return rel
}

// evaluated gives an expression's value for an update, as JSON, or what failed.
func evaluated(t interface{ Fatalf(string, ...any) }, text string, new, old []change.Value) string {
	rel := exprRelation()
	s := ruleScope(rel, opsOf(change.Update, change.Insert))
	e, errs := s.check(&Expr{Text: text})
	if len(errs) > 0 {
		t.Fatalf("%s: %v", text, joinErrors(errs))
	}
	var r row
	r.begin(rel, newTable(rel, nil).appenders)
	op := change.Update
	if old == nil {
		op = change.Insert
	}
	r.set(op, new, old, old, false)
	out, err := appendValue(nil, s.compiler(e).value(e.node)(&r))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if r.failed != nil {
		return "failed: " + r.failed.problem
	}
	return string(out)
}

func exprRow() []change.Value {
	return texts("42", "-7", "1.5", "12.50", "0.1", "t", "Zoë", "a", `{"city": "Bath", "n": 1.10, "big": 12345678901234567890, "list": [{"qty": 2, "price": 0.10}, {"qty": 1, "price": 0.20}], "none": null}`,
		`{red,"dark blue",NULL}`, "2026-11-03 14:25:36.5+00", "(3,x)", "9")
}

func TestExpressions(t *testing.T) {
	old := exprRow()
	old[0].Data, old[3].Data = []byte("41"), []byte("12.5")
	null := make([]change.Value, len(old))
	for i := range null {
		null[i].Kind = change.Null
	}
	for _, c := range []struct{ text, want string }{
		// values
		{`new.i`, `42`}, {`new["odd name"]`, `9`}, {`new.f`, `1.5`}, {`new.n`, `12.50`}, {`new.b`, `true`}, {`new.s`, `"Zoë"`}, {`new.at`, `"2026-11-03T14:25:36.5+00:00"`},
		{`new.tags`, `["red","dark blue",null]`}, {`new.p`, `{"x":3,"y":"x"}`}, {`new.p.x + 1`, `4`}, {`old.i`, `41`}, {`{b: 1, a: new.i}`, `{"a":42,"b":1}`}, {`[new.i, "x", nil]`, `[42,"x",null]`},
		// arithmetic: exact, and in floating point with a float
		{`new.n * 2`, `25.00`}, {`new.n + new.m`, `12.60`}, {`new.n - 12.5`, `0.00`}, {`-new.n`, `-12.50`}, {`new.n * 0.1`, `1.250`}, {`new.n + new.f`, `14`}, {`new.i / 4`, `10.5`}, {`new.i % 5`, `2`},
		{`new.j % 5`, `-2`}, {`2 ** 3`, `8`}, {`new.i + new.j * 2`, `28`}, {`"a" + new.t`, `"aa"`}, {`new.doc.big + 1`, `12345678901234567891`}, {`0.1 + 0.2`, `0.3`}, {`new.doc.n * 3`, `3.30`},
		{`9223372036854775807 + new.i`, `failed: ` + problemOverflow}, {`new.i * 9223372036854775807`, `failed: ` + problemOverflow}, {`new.i / (new.i - 42)`, `failed: ` + problemZero},
		{`new.i % 0`, `failed: ` + problemZero}, {`new.n / 0`, `failed: ` + problemZero}, {`new.doc.city * 2`, `failed: ` + problemOperand},
		// comparisons
		{`new.n == old.n`, `true`}, {`new.n == 12.5`, `true`}, {`new.i != old.i`, `true`}, {`new.n > 12.49`, `true`}, {`new.f == 1.5`, `true`}, {`new.s == "Zoë"`, `true`}, {`"a" == new.t`, `true`}, {`new.at > "2026-11-03"`, `true`},
		{`new.at == old.at`, `true`}, {`new.at == "2026-11-03T14:25:36.5+00:00"`, `true`}, {`new.b`, `true`}, {`new.b == true`, `true`}, {`not new.b or new.i > 3 and new.i <= 42`, `true`}, {`new.i in [1, 42]`, `true`}, {`new.t in ["a", "b"]`, `true`},
		{`new.t not in ["a", "b"]`, `false`}, {`new.n in [12.5]`, `true`}, {`"red" in new.tags`, `true`}, {`"city" in new.doc`, `true`}, {`new.s startsWith "Z" && new.s endsWith "ë" && new.s contains "o"`, `true`}, {`new.s matches "^Z.+$"`, `true`},
		{`new.tags == old.tags`, `true`}, {`new.doc == old.doc`, `true`}, {`new.p == old.p`, `true`}, {`new.doc.n == 1.1`, `true`}, {`new.doc.n == "1.1"`, `false`}, {`new.i == new.doc.n`, `false`},
		{`new != nil and old != nil`, `true`}, {`1 < new.i < 50`, `true`}, {`new.i > 0 ? "yes" : "no"`, `"yes"`}, {`if new.b { 1 } else { 2 }`, `1`}, {`let x = new.i; let y = x + 1; y * 2`, `86`},
		// JSON
		{`new.doc.city`, `"Bath"`}, {`new.doc.city.street`, `null`}, {`new.doc["city"]`, `"Bath"`}, {`new.doc.none?.x ?? 3`, `3`}, {`new.doc.list[0].price`, `0.10`}, {`new.doc.list[-1].qty`, `1`}, {`new.doc.list[7]`, `null`},
		{`sum(new.doc.list, #.qty * #.price)`, `0.40`}, {`map(new.doc.list, #.qty)`, `[2,1]`}, {`filter(new.doc.list, .qty > 1)`, `[{"qty":2,"price":0.10}]`}, {`any(new.doc.list, .qty == 2) and all(new.doc.list, .qty > 0)`, `true`},
		{`none(new.tags, # == "green")`, `true`}, {`one(new.tags, # == "red")`, `true`}, {`count(new.doc.list, .qty > 0)`, `2`}, {`find(new.doc.list, .qty == 1).price`, `0.20`}, {`map(new.doc.list, any(new.tags, # == "red"))`, `[true,true]`},
		{`map(new.doc.list, filter([1, 2, 3], # > 1))`, `[[2,3],[2,3]]`}, {`sum([1, 2.5])`, `3.5`},
		// functions
		{`lower(new.s)`, `"zoë"`}, {`upper(new.t) + upper("é")`, `"AÉ"`}, {`len(new.s)`, `3`}, {`len(new.tags)`, `3`}, {`len(new.doc)`, `5`}, {`string(new.n) + string(new.i) + string(new.b)`, `"12.5042true"`}, {`string(new.doc.list[0])`, `"{\"qty\":2,\"price\":0.10}"`},
		{`int(new.n)`, `12`}, {`int("7")`, `7`}, {`int(-1.9)`, `-1`}, {`int("x")`, `failed: the function int has no result for its argument`}, {`float(new.n)`, `12.5`}, {`abs(new.j)`, `7`}, {`abs(-new.n)`, `12.50`}, {`round(new.n)`, `13`},
		{`floor(new.n)`, `12`}, {`ceil(new.n)`, `13`}, {`max(new.i, new.n)`, `42`}, {`min(new.n, 1)`, `1`}, {`max([1, 3, 2])`, `3`}, {`trim(" x ")`, `"x"`}, {`trimPrefix(new.s, "Z")`, `"oë"`}, {`split("a,b", ",")`, `["a","b"]`}, {`len(split("a,b", ","))`, `2`},
		{`split(new.s + ",b", ",")[1]`, `"b"`}, {`split("a,b", ",")[-1]`, `"b"`}, {`split("a,b", ",") == ["a", "b"]`, `true`}, {`"b" in split("a,b", ",")`, `true`}, {`last(split("a,b", ","))`, `"b"`}, {`join(reverse(split("a,b", ",")), "-")`, `"b-a"`},
		{`uniq(split("a,b,a", ","))`, `["a","b"]`}, {`concat(split("a,b", ","), ["c"])`, `["a","b","c"]`}, {`{of: split("<a", ",")}`, `{"of":["<a"]}`}, {`map(split("a,b", ","), upper(#))[0]`, `"A"`}, {`join(split("a,b", ",")[1:], "-")`, `"b"`},
		{`join(filter(new.tags, # != nil), "+")`, `"red+dark blue"`}, {`replace("aba", "a", "c")`, `"cbc"`}, {`first(new.tags)`, `"red"`}, {`last([1, 2])`, `2`}, {`reverse([1, 2])`, `[2,1]`}, {`uniq([1, 1, 2])`, `[1,2]`}, {`concat([1], [2])`, `[1,2]`},
		{`toJSON(new.tags)`, `"[\"red\",\"dark blue\",null]"`}, {`fromJSON("{\"a\": 1.50}").a`, `1.50`}, {`fromJSON("{")`, `failed: the function fromJSON has no result for its arguments`}, {`new.s[0:2]`, `"Zo"`}, {`new.s[-1:]`, `"ë"`}, {`new.tags[1:2]`, `["dark blue"]`},
		{`fromJSON("1 2")`, `failed: the function fromJSON has no result for its arguments`}, {`fromJSON("[1e999]")`, `failed: the function fromJSON has no result for its arguments`}, {`fromJSON("[1e-999]")`, `failed: the function fromJSON has no result for its arguments`}, {`fromJSON("[1e30, 5e-2] ")`, `[1000000000000000000000000000000,0.05]`},
		{`join(new.tags, ",")`, `failed: the function join has no result for its arguments`}, {`replace(new.doc.n, "a", "b")`, `failed: the function replace has no result for its arguments`},
		{`new.t | upper()`, `"A"`}, {`round(new.doc.city)`, `failed: the function round has no result for its argument`}, {`any(new.doc.city, # == 1)`, `failed: the function any has no list to go through`},
		// the transaction
		{`op`, `"update"`}, {`table`, `"public.t"`}, {`tx`, `0`}, {`moved`, `false`}, {`time`, `"0001-01-01T00:00:00.000000Z"`}, {`lsn`, `"0/0"`},
	} {
		if got := evaluated(t, c.text, exprRow(), old); got != c.want {
			t.Errorf("%s is %s, want %s", c.text, got, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{`new.i`, `null`}, {`new.i == nil`, `true`}, {`new.i != 3`, `true`}, {`new.i == 3`, `false`}, {`new.i > 3`, `false`}, {`new.i <= 3`, `false`}, {`new.i + 1`, `null`}, {`new.n * 2`, `null`}, {`"a" + new.s`, `null`}, {`-new.i`, `null`},
		{`new.b`, `null`}, {`new.b or false`, `false`}, {`not new.b`, `true`}, {`new.b ? 1 : 2`, `2`}, {`new.i in [1, 2]`, `false`}, {`new.i not in [1]`, `true`}, {`new.s ?? "x"`, `"x"`}, {`lower(new.s)`, `null`}, {`len(new.tags)`, `null`}, {`any(new.tags, # == "x")`, `false`},
		{`map(new.tags, #)`, `[]`}, {`sum(new.doc.list, .qty)`, `0`}, {`new.doc.a.b`, `null`}, {`new.s contains "x"`, `false`}, {`new.s matches "x"`, `false`}, {`new.s[0:1]`, `null`}, {`new.s == new.t`, `true`}, {`new.n == new.m`, `true`}, {`max(new.i, 3)`, `null`},
		{`string(new.i)`, `null`}, {`old.i`, `null`}, {`old == nil`, `true`}, {`old.i == nil or old.i != new.i`, `true`}, {`op`, `"insert"`},
	} {
		if got := evaluated(t, c.text, null, nil); got != c.want {
			t.Errorf("of NULLs: %s is %s, want %s", c.text, got, c.want)
		}
	}
}

// A json column that holds null is nil in every way of asking, and one that holds anything else is not.
func TestJSONNull(t *testing.T) {
	row := exprRow()
	row[8].Data = []byte(" null")
	for text, want := range map[string]string{`new.doc == nil`: `true`, `nil != new.doc`: `false`, `new.doc ?? 3`: `3`, `new.doc.x`: `null`, `new.doc == fromJSON("null")`: `true`, `old.doc == nil`: `false`, `old.doc.none == nil`: `true`} {
		if got := evaluated(t, text, row, exprRow()); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

// A number of more digits than the library keeps is refused, and any other is what was written.
func TestNumbersInExpressions(t *testing.T) {
	for text, want := range map[string]string{`1_000.50`: `1000.5`, `.5`: `0.5`, `1e5`: `100000`, `1e-7`: `0.0000001`, `123456789.123456`: `123456789.123456`, `-0.30`: `-0.3`} {
		if got := evaluated(t, text, exprRow(), nil); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{`"é" == new.s or new.n > 12345678901234567.89`, `12345678901234567890.0`} {
		_, errs := ruleScope(exprRelation(), opsOf(change.Insert)).check(&Expr{Text: text})
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), "has more digits than are kept") {
			t.Errorf("%s: %v", text, joinErrors(errs))
		}
	}
}

// What is compared on the text that Postgres sent gives what the library's own
// machine makes of the same values, where both have the same meaning.
func TestExpressionsAgreeWithLibrary(t *testing.T) {
	const names = "ijfbst"
	ops := []string{"==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*"}
	rapid.Check(t, func(t *rapid.T) {
		new, old := exprRow(), exprRow()
		env := map[string]any{}
		for name, row := range map[string][]change.Value{"new": new, "old": old} {
			i, j := rapid.IntRange(-3, 3).Draw(t, "i"), rapid.IntRange(-300, 300).Draw(t, "j")
			f := rapid.SampledFrom([]float64{0, 1, -1.5, 2.25, 1e10}).Draw(t, "f")
			b := rapid.Bool().Draw(t, "b")
			s, u := rapid.SampledFrom([]string{"", "a", "ab", "é"}).Draw(t, "s"), rapid.StringMatching(`[ab]{0,2}`).Draw(t, "t")
			env[name] = map[string]any{"i": i, "j": j, "f": f, "b": b, "s": s, "t": u}
			for column, text := range map[int]string{0: fmt.Sprint(i), 1: fmt.Sprint(j), 2: fmt.Sprint(f), 5: fmt.Sprint(b)[:1], 6: s, 7: u} {
				row[column].Data = []byte(text)
			}
		}
		operand := func() (string, byte) {
			c := names[rapid.IntRange(0, len(names)-1).Draw(t, "column")]
			switch rapid.IntRange(0, 4).Draw(t, "operand") {
			case 0:
				return map[byte]string{'i': "1", 'j': "-2", 'f': "2.25", 'b': "true", 's': `"a"`, 't': `"ab"`}[c], c
			case 1:
				return "old." + string(c), c
			}
			return "new." + string(c), c
		}
		var condition func(depth int) string
		condition = func(depth int) string {
			if depth > 0 {
				switch rapid.IntRange(0, 3).Draw(t, "join") {
				case 0:
					return "(" + condition(depth-1) + " && " + condition(depth-1) + ")"
				case 1:
					return "(" + condition(depth-1) + " or " + condition(depth-1) + ")"
				case 2:
					return "not (" + condition(depth-1) + ")"
				}
			}
			a, kind := operand()
			b, other := operand()
			op := rapid.SampledFrom(ops[:7]).Draw(t, "operator")
			if op == "in" {
				return a + " in [" + b + ", " + a + "]"
			}
			numbers := strings.IndexByte("ijf", kind) >= 0 && strings.IndexByte("ijf", other) >= 0
			if numbers && rapid.Bool().Draw(t, "calculate") {
				a = "(" + a + " " + rapid.SampledFrom(ops[7:]).Draw(t, "arithmetic") + " " + b + ")"
			}
			return a + " " + op + " " + b
		}
		text := condition(3)
		typ := types.Map{"i": types.Int, "j": types.Int, "f": types.Float64, "b": types.Bool, "s": types.String, "t": types.String}
		program, err := expr.Compile(text, expr.Env(types.Map{"new": typ, "old": typ}))
		s := ruleScope(exprRelation(), opsOf(change.Update))
		if _, errs := s.check(&Expr{Text: text}); (err != nil) != (len(errs) > 0) {
			t.Fatalf("%s: the library says %v, we say %v", text, err, joinErrors(errs))
		}
		if err != nil {
			t.Skip("does not fit the types")
		}
		want, err := expr.Run(program, env)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := evaluated(t, text, new, old); got != fmt.Sprint(want) {
			t.Fatalf("%s with %v: %s, the library has %v", text, env, got, want)
		}
	})
}

// Decimals are exact, whatever their size.
func TestDecimals(t *testing.T) {
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		check := func(what string, got []byte, want *big.Rat) {
			v, ok := new(big.Rat).SetString(string(got))
			if !ok || v.Cmp(want) != 0 {
				t.Fatalf("%s %s %s = %s, want %s", a, what, b, got, want.FloatString(24))
			}
		}
		check("+", appendSum(nil, []byte(a), []byte(b), false), new(big.Rat).Add(x, y))
		check("-", appendSum(nil, []byte(a), []byte(b), true), new(big.Rat).Sub(x, y))
		check("*", appendProduct(nil, []byte(a), []byte(b)), new(big.Rat).Mul(x, y))
		if got := compareDecimals([]byte(a), []byte(b)); got != x.Cmp(y) {
			t.Fatalf("compare %s with %s: %d", a, b, got)
		}
	})
}

func TestFloatsCompareAsPostgresDoes(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	ordered := []float64{-inf, -1, 0, 1, inf, nan}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := compareFloats(a, b); got != compareOrdered(int64(i), int64(j)) {
				t.Errorf("%v and %v: %d", a, b, got)
			}
		}
	}
	rowNaN := exprRow()
	rowNaN[2].Data, rowNaN[3].Data = []byte("NaN"), []byte("-Infinity")
	for text, want := range map[string]string{`new.f`: `"NaN"`, `new.f == old.f`: `true`, `new.f > 1e300`: `true`, `new.n < -1`: `true`, `new.n`: `"-Infinity"`, `string(new.f)`: `"NaN"`, `new.n + 1`: `"-Infinity"`} {
		if got := evaluated(t, text, rowNaN, rowNaN); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

// Whatever is written, it is refused or has a value or a failure, for a row with values and for one without.
func FuzzExpression(f *testing.F) {
	for _, text := range []string{`new.i + 1 > old.j && new.s in ["a"]`, `sum(new.doc.list, #.qty * #.price) ?? 0`, `let x = new.tags; x[1:2]`, `{a: new.i, b: [1, -2.5]}`, `new.b ? upper(new.s) : nil`,
		`any(new.doc.list, .qty matches "x")`, `replace(new.s, "a", string(new.n)) | trim()`, `not (new.at startsWith "20") or op != "x"`, `max([1, new.i], 2) ** 3 % 2`, `fromJSON(toJSON(new.p)).x`} {
		f.Add(text)
	}
	rel := exprRelation()
	table := newTable(rel, nil)
	full, empty := exprRow(), make([]change.Value, len(rel.Columns))
	for i := range empty {
		empty[i].Kind = change.Null
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 {
			return
		}
		s := ruleScope(rel, opsOf(change.Update, change.Insert))
		e, errs := s.check(&Expr{Text: text})
		if len(errs) > 0 {
			return
		}
		value, cond := s.compiler(e).value(e.node), s.compiler(e).cond(e.node)
		var r row
		r.begin(rel, table.appenders)
		for _, values := range [][]change.Value{full, empty} {
			r.set(change.Update, values, values, nil, false)
			if _, err := appendValue(nil, value(&r)); err != nil {
				t.Skip(err)
			}
			cond(&r)
		}
	})
}

// What floating point cannot hold fails; NaN and the infinities that columns hold go on as they are.
func TestFloatsBeyondRange(t *testing.T) {
	row := exprRow()
	row[0].Data, row[2].Data, row[3].Data, row[4].Data = []byte("400"), []byte("1e308"), []byte("NaN"), append([]byte("1"), make([]byte, 400)...)
	for i := range row[4].Data[1:] {
		row[4].Data[1+i] = '0'
	}
	for text, want := range map[string]string{
		`10.0 ** new.i`: "failed: " + problemFloat, `-(10.0 ** new.i)`: "failed: " + problemFloat, `new.f * 10.0`: "failed: " + problemFloat, `new.f + new.f`: "failed: " + problemFloat,
		`-new.f - new.f`: "failed: " + problemFloat, `new.f / 0.01`: "failed: " + problemFloat, `(-1.0) ** 0.5`: "failed: " + problemFloat, `sum([new.f, new.f])`: "failed: " + problemFloat,
		`round(new.m)`: "failed: the function round has no result for its argument", `float(new.m)`: "failed: the function float has no result for its argument",
		`new.m * 1.0e300 / new.f`: "failed: " + problemFloat,
		`new.n`:                   `"NaN"`, `new.n + new.f`: `"NaN"`, `new.n * 2`: `"NaN"`, `float(new.n)`: `"NaN"`, `round(new.n)`: `"NaN"`, `2.0 ** 3`: "8", `new.f`: "1" + strings.Repeat("0", 308),
	} {
		if got := evaluated(t, text, row, row); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
