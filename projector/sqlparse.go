package projector

import (
	"strings"
	"unicode"
)

// token is a word, a number, a quoted thing or a sign of SQL.
type token struct {
	text  string
	ident string // of an identifier: its name without quotes; else ""
	start int    // where it is in the text
	end   int
}

// is reports whether the token is a keyword or a sign, in lower case.
func (t token) is(word string) bool {
	return strings.EqualFold(t.text, word)
}

// tokens takes SQL apart, as far as finding names and brackets needs it. It is
// used on what Postgres prints itself (pg_get_viewdef), which has no comments.
func tokens(sql string) []token {
	var list []token
	for i := 0; i < len(sql); {
		c := rune(sql[i])
		start := i
		switch {
		case unicode.IsSpace(c):
			i++
			continue
		case c == '\'' || c == '"':
			i = quotedEnd(sql, i)
		case c == 'E' && i+1 < len(sql) && sql[i+1] == '\'':
			i = quotedEnd(sql, i+1)
		case isWord(sql[i]):
			for i < len(sql) && isWord(sql[i]) {
				i++
			}
		case c == ':' && strings.HasPrefix(sql[i:], "::"):
			i += 2
		default:
			i++
		}
		t := token{text: sql[start:i], start: start, end: i}
		switch {
		case c == '"' && len(t.text) > 1:
			t.ident = strings.ReplaceAll(t.text[1:len(t.text)-1], `""`, `"`)
		case isWord(sql[start]) && (c < '0' || c > '9') && c != '\'' && !strings.HasSuffix(t.text, "'"):
			t.ident = t.text
		}
		list = append(list, t)
	}
	return list
}

// quotedEnd is behind the quote that ends what starts at i. A backslash is no
// escape in the forms that Postgres prints but for E'…'.
func quotedEnd(sql string, i int) int {
	quote, escapes := sql[i], i > 0 && sql[i-1] == 'E'
	for j := i + 1; j < len(sql); j++ {
		switch {
		case sql[j] == '\\' && escapes:
			j++
		case sql[j] == quote && j+1 < len(sql) && sql[j+1] == quote:
			j++
		case sql[j] == quote:
			return j + 1
		}
	}
	return len(sql)
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// columnRef is alias.column; alias is "" when the query has one table only.
type columnRef struct{ alias, column string }

// source is a table of the FROM clause.
type source struct{ alias, table string }

// condition is an equality of columns of two tables, which holds in every row
// of the result in which the table from has a part.
type condition struct {
	from, to columnRef
	text     string // as it was written
	bare     bool   // two columns and no cast
}

// shape is a plain SELECT: what joins what, and where its columns come from.
type shape struct {
	columns map[string]columnRef // of the result, those that are plain columns
	sources []source
	edges   []condition
	nested  map[string]bool // names that subqueries mention
	refused string          // why keys cannot be derived; "" when they can
}

// parseShape reads a view's definition as Postgres prints it.
func parseShape(viewdef string) *shape {
	viewdef = strings.TrimSuffix(strings.TrimSpace(viewdef), ";")
	p := &shapeParser{sql: viewdef, list: tokens(viewdef), shape: &shape{columns: map[string]columnRef{}, nested: map[string]bool{}}}
	p.parse()
	return p.shape
}

type shapeParser struct {
	sql   string
	list  []token
	at    int
	shape *shape
}

func (p *shapeParser) peek() token {
	if p.at < len(p.list) {
		return p.list[p.at]
	}
	return token{}
}

func (p *shapeParser) take(words ...string) bool {
	for i, w := range words {
		if p.at+i >= len(p.list) || !p.list[p.at+i].is(w) {
			return false
		}
	}
	p.at += len(words)
	return true
}

// whole are clauses that make one row of the result depend on rows of other keys.
var whole = []string{"UNION", "INTERSECT", "EXCEPT", "LIMIT", "OFFSET", "FETCH", "OVER", "WINDOW"}

func (p *shapeParser) parse() {
	p.findNested()
	depth := 0
	for _, t := range p.list {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		}
		for _, w := range whole {
			if t.is(w) && (depth == 0 || w == "OVER") {
				p.shape.refused = "it has " + w
			}
		}
	}
	if !p.take("SELECT") {
		p.shape.refused = "it does not start with SELECT"
	}
	if p.shape.refused != "" {
		return
	}
	if p.take("DISTINCT") && p.peek().is("ON") {
		p.shape.refused = "it has DISTINCT ON"
		return
	}
	p.selectList()
	if !p.take("FROM") {
		p.shape.refused = "it has no FROM"
		return
	}
	for {
		p.join()
		if p.shape.refused != "" || !p.take(",") {
			break
		}
	}
	if t := p.peek(); p.shape.refused == "" && t.text != "" && !t.is("WHERE") && !t.is("GROUP") && !t.is("HAVING") && !t.is("ORDER") {
		p.shape.refused = "its FROM is not plain"
	}
	if p.shape.refused == "" && p.take("WHERE") {
		p.conditions(p.expression("GROUP", "HAVING", "ORDER", "WINDOW"), "INNER")
	}
}

// findNested gathers the names within subqueries.
func (p *shapeParser) findNested() {
	depth, inside := 0, []int{}
	for i, t := range p.list {
		switch {
		case t.is("("):
			depth++
			if i+1 < len(p.list) && (p.list[i+1].is("SELECT") || p.list[i+1].is("WITH") || p.list[i+1].is("VALUES")) {
				inside = append(inside, depth)
			}
		case t.is(")"):
			if n := len(inside); n > 0 && inside[n-1] == depth {
				inside = inside[:n-1]
			}
			depth--
		case len(inside) > 0 && t.ident != "":
			p.shape.nested[t.ident] = true
		}
	}
}

// selectList notes the columns of the result that are plain columns.
func (p *shapeParser) selectList() {
	for p.at < len(p.list) && !p.peek().is("FROM") {
		item := p.expression(",", "FROM")
		if ref, name, ok := selectItem(item); ok {
			p.shape.columns[name] = ref
		}
		if !p.take(",") {
			return
		}
	}
}

func selectItem(item []token) (ref columnRef, name string, ok bool) {
	if n := len(item); n >= 3 && item[n-2].is("AS") {
		name, item = item[n-1].ident, item[:n-2]
	}
	ref, ok = asColumn(item)
	if name == "" {
		name = ref.column
	}
	return ref, name, ok
}

// asColumn reads alias.column, or column.
func asColumn(list []token) (columnRef, bool) {
	switch {
	case len(list) == 3 && list[0].ident != "" && list[1].is(".") && list[2].ident != "":
		return columnRef{list[0].ident, list[2].ident}, true
	case len(list) == 1 && list[0].ident != "":
		return columnRef{"", list[0].ident}, true
	}
	return columnRef{}, false
}

// expression is what comes before one of the words, outside of brackets.
func (p *shapeParser) expression(until ...string) []token {
	start, depth := p.at, 0
	for ; p.at < len(p.list); p.at++ {
		t := p.peek()
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			if depth == 0 {
				return p.list[start:p.at]
			}
			depth--
		case depth == 0:
			for _, w := range until {
				if t.is(w) {
					return p.list[start:p.at]
				}
			}
		}
	}
	return p.list[start:]
}

// join reads tables joined from left to right, and returns their aliases.
func (p *shapeParser) join() []string {
	left := p.item()
	for p.shape.refused == "" {
		kind := "INNER"
		switch {
		case p.take("JOIN"):
		case p.take("LEFT", "JOIN"):
			kind = "LEFT"
		case p.take("RIGHT", "JOIN"):
			kind = "RIGHT"
		case p.take("FULL", "JOIN"):
			kind = "FULL"
		case p.take("CROSS", "JOIN"):
		default:
			return left
		}
		right := p.item()
		switch {
		case p.take("ON"):
			p.joinConditions(p.expression(joinEnd...), kind, left, right)
		case p.take("USING"):
			p.using(kind, left, right)
		}
		left = append(left, right...)
	}
	return left
}

var joinEnd = []string{"JOIN", "LEFT", "RIGHT", "FULL", "CROSS", "WHERE", "GROUP", "HAVING", "ORDER", "WINDOW", ","}

// item reads a table, or joined tables in brackets.
func (p *shapeParser) item() []string {
	if p.take("(") {
		if p.peek().is("SELECT") || p.peek().is("VALUES") || p.peek().is("WITH") {
			p.shape.refused = "its FROM has a subquery"
			return nil
		}
		aliases := p.join()
		if p.shape.refused == "" && !p.take(")") {
			p.shape.refused = "its FROM is not plain"
		}
		return aliases
	}
	name := p.peek().ident
	p.at++
	if name == "" || p.peek().is("(") || p.peek().is(".") || strings.EqualFold(name, "LATERAL") {
		p.shape.refused = "its FROM is not made of tables alone"
		return nil
	}
	s := source{alias: name, table: name}
	if t := p.peek(); t.ident != "" && !reserved(t.text) {
		s.alias = t.ident
		p.at++
	}
	p.shape.sources = append(p.shape.sources, s)
	return []string{s.alias}
}

func reserved(word string) bool {
	for _, w := range append([]string{"ON", "USING", "TABLESAMPLE"}, joinEnd...) {
		if strings.EqualFold(word, w) {
			return true
		}
	}
	return false
}

// using makes conditions of USING (column, …): the column of any table on the
// left that has it is meant, which the plain case has but one of.
func (p *shapeParser) using(kind string, left, right []string) {
	p.take("(")
	names := p.expression()
	p.take(")")
	if len(left) != 1 || len(right) != 1 {
		return
	}
	for _, t := range names {
		if t.ident == "" {
			continue
		}
		l, r := columnRef{left[0], t.ident}, columnRef{right[0], t.ident}
		text := quoteIdent(l.alias) + "." + quoteIdent(l.column) + " = " + quoteIdent(r.alias) + "." + quoteIdent(r.column)
		p.edge(kind, condition{from: l, to: r, text: text, bare: true}, right)
	}
}

func (p *shapeParser) conditions(expr []token, kind string) { p.joinConditions(expr, kind, nil, nil) }

// joinConditions takes the equalities of two columns out of a conjunction.
func (p *shapeParser) joinConditions(expr []token, kind string, _, right []string) {
	for _, part := range conjuncts(expr) {
		l, r, bare, ok := equality(part)
		if !ok || l.alias == "" || r.alias == "" || l.alias == r.alias {
			continue
		}
		text := p.sql[part[0].start:part[len(part)-1].end]
		p.edge(kind, condition{from: l, to: r, text: text, bare: bare}, right)
	}
}

// edge adds a condition in the directions in which it can be followed: from a table that may
// be missing from a row to the one that is there for it, never the other way. What the ON of an outer join says of two tables that are
// there without a match holds in no other rows.
func (p *shapeParser) edge(kind string, c condition, right []string) {
	back := c
	back.from, back.to = c.to, c.from
	may := func(alias string) bool { // be missing, and then the condition need not hold
		return kind == "INNER" || kind != "FULL" && contains(right, alias) == (kind == "LEFT")
	}
	for _, e := range []condition{c, back} {
		if may(e.from.alias) {
			p.shape.edges = append(p.shape.edges, e)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// strip takes brackets off that enclose the whole.
func strip(expr []token) []token {
	for len(expr) >= 2 && expr[0].is("(") && closing(expr) == len(expr)-1 {
		expr = expr[1 : len(expr)-1]
	}
	return expr
}

// closing is where the bracket closes that opens the expression.
func closing(expr []token) int {
	depth := 0
	for i, t := range expr {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// split cuts at a word outside of brackets.
func split(expr []token, word string) [][]token {
	var parts [][]token
	start, depth := 0, 0
	for i, t := range expr {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && t.is(word):
			parts = append(parts, expr[start:i])
			start = i + 1
		}
	}
	return append(parts, expr[start:])
}

// conjuncts are what AND joins. Anything with an OR in it stays whole.
func conjuncts(expr []token) [][]token {
	expr = strip(expr)
	parts := split(expr, "AND")
	if len(parts) == 1 {
		return parts
	}
	var all [][]token
	for _, part := range parts {
		all = append(all, conjuncts(part)...)
	}
	return all
}

// equality reads column = column, each perhaps with casts around it.
func equality(expr []token) (l, r columnRef, bare, ok bool) {
	sides := split(expr, "=")
	if len(sides) != 2 || len(split(expr, "OR")) > 1 || len(sides[0]) == 0 || len(sides[1]) == 0 {
		return l, r, false, false
	}
	// <= and >= are two signs here
	if last := sides[0][len(sides[0])-1]; last.ident == "" && !last.is(")") {
		return l, r, false, false
	}
	l, bareL, okL := castColumn(sides[0])
	r, bareR, okR := castColumn(sides[1])
	return l, r, bareL && bareR, okL && okR
}

// castColumn is the column within ((a.b)::text).
func castColumn(expr []token) (ref columnRef, bare, ok bool) {
	bare = true
	for {
		expr = strip(expr)
		parts := split(expr, "::")
		if len(parts) == 1 {
			ref, ok = asColumn(expr)
			return ref, bare, ok
		}
		expr, bare = parts[0], false
	}
}
