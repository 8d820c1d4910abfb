package transform

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
)

// keyer makes the ordering key of a row, of columns or by an expression.
type keyer struct {
	columns []int // in the key's order
	expr    *Expr
	refs    []ref // of expr
	value   evalFunc
	doubt   error // why the key of an update or delete may not be known; nil when it is
}

// newKeyer compiles what the mapping says of a table's key.
func newKeyer(rel *change.Relation, t *TableMapping) (keyer, error) {
	if t.KeyExpr != nil {
		return exprKey(rel, t)
	}
	columns, doubt, err := keyColumns(rel, t)
	return keyer{columns: columns, doubt: doubt}, err
}

// reads are the columns that the key is made of.
func (k *keyer) reads() []int {
	columns := slices.Clone(k.columns)
	for i := range k.refs {
		columns = append(columns, k.refs[i].column)
	}
	return columns
}

// schema is the key as the catalogue has it: columns, or the expression.
func (k *keyer) schema(rel *change.Relation) []string {
	if k.expr != nil {
		return []string{k.expr.Text}
	}
	return append([]string{}, columnNames(rel, k.columns)...)
}

// exprKey is a key made by an expression of `row`, which is the new row or
// the old one: the key of both must be known.
func exprKey(rel *change.Relation, t *TableMapping) (keyer, error) {
	s := &scope{rel: rel, rows: map[string]side{"row": newRow}, missing: map[string]string{
		"new": "a key is made of row, which is the new row, or the old one of a delete: write row.column",
		"old": "a key is made of row, which is the new row, or the old one of a delete: write row.column"}}
	e, errs := s.check(t.KeyExpr)
	if len(errs) > 0 {
		return keyer{}, joinErrors(errs)
	}
	if !e.result.IsString() && !e.result.IsInteger {
		return keyer{}, s.fail(t.KeyExpr, 0, "make text of it with string()", "a key must be text or a whole number, and this is %s", typeName(e))
	}
	k := keyer{expr: t.KeyExpr, refs: e.refs, value: s.compiler(e).value(e.node)}
	identity := identityColumns(rel)
	var outside []string
	for _, ref := range e.refs {
		name := rel.Columns[ref.column].Name
		if !slices.Contains(identity, ref.column) && !slices.Contains(outside, name) {
			outside = append(outside, name)
		}
	}
	if len(outside) > 0 {
		k.doubt = outsideIdentity(rel, t.KeyExpr.where(0), identity, outside, outside)
	}
	return k, nil
}

// keyColumns chooses the columns that make a table's ordering key, as indexes
// into the relation's columns:
//
//   - what the mapping says; else
//   - the primary key in its own order, when it is the replica identity or part of the
//     whole row that is; else
//   - the replica identity, in the table's column order.
//
// Postgres promises the old values of the replica identity only, so a key of
// other columns could not be known for a delete, nor its change seen in an update. Such a key
// comes with a doubt, which refuses the table at the start. In the stream it refuses only what
// it is about: an insert, made before the identity was mended, has all columns.
func keyColumns(rel *change.Relation, t *TableMapping) (key []int, doubt, err error) {
	if len(t.Key) > 0 {
		return configuredKey(rel, t)
	}
	identity := identityColumns(rel)
	if pk := columnsNamed(rel, rel.PrimaryKey); len(pk) > 0 && (rel.Identity == change.IdentityFull || sameColumns(pk, identity)) {
		return pk, nil, nil
	}
	if len(identity) > 0 || rel.Identity == change.IdentityFull { // a table may have no columns
		return identity, nil, nil
	}
	if key = columnsNamed(rel, rel.PrimaryKey); key == nil {
		for i := range rel.Columns {
			key = append(key, i) // as under REPLICA IDENTITY FULL
		}
	}
	return key, &Error{Where: t.Where, Table: rel.String(),
		Problem: "it has no replica identity to order its events by, and once it is published Postgres refuses its updates and deletes",
		Fix: fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL; or add a primary key that is not deferrable, or a unique index "+
			"on columns that are NOT NULL and ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX its_name", sqlName(rel))}, nil
}

func configuredKey(rel *change.Relation, t *TableMapping) (key []int, doubt, err error) {
	identity := identityColumns(rel)
	var outside []string
	for _, name := range t.Key {
		i := rel.Column(name)
		if i < 0 {
			return nil, nil, unknownColumn(rel, t.KeyWhere, "key column", name)
		}
		if !slices.Contains(identity, i) {
			outside = append(outside, name)
		}
		key = append(key, i)
	}
	if len(outside) > 0 {
		return key, outsideIdentity(rel, t.KeyWhere, identity, outside, t.Key), nil
	}
	return key, nil, nil
}

func unknownColumn(rel *change.Relation, where, what, name string) *Error {
	e := &Error{Where: where, Table: rel.String(), Columns: []string{name},
		Problem: fmt.Sprintf("%s %s does not exist or is not published", what, name)}
	names := allColumns(rel)
	if near := nearest(name, names); near != "" {
		e.Fix = fmt.Sprintf("did you mean %s?", near)
	} else {
		e.Fix = "choose among " + strings.Join(names, ", ")
	}
	return e
}

func outsideIdentity(rel *change.Relation, where string, identity []int, outside, key []string) error {
	// With the identity's columns behind the key's the index is sure to be unique.
	index := slices.Clone(key)
	for _, name := range columnNames(rel, identity) {
		if !slices.Contains(index, name) {
			index = append(index, name)
		}
	}
	for i := range index {
		index[i] = quoteIdent(index[i])
	}
	return &Error{Where: where, Table: rel.String(), Columns: outside,
		Problem: fmt.Sprintf("cannot be keyed by %s: Postgres sends old values of the replica identity only, %s, "+
			"so a delete or a change of the key could not be placed", strings.Join(outside, ", "), identityText(rel)),
		Fix: fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL; or a unique index on (%s), all NOT NULL, "+
			"and ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX its_name", sqlName(rel), strings.Join(index, ", "))}
}

// identityText tells what a table's replica identity is, to go on with a sentence.
func identityText(rel *change.Relation) string {
	if identity := identityColumns(rel); rel.Identity != change.IdentityNothing && len(identity) > 0 {
		return "which is " + strings.Join(columnNames(rel, identity), ", ")
	}
	return "and the table has none"
}

// identityColumns are the columns whose old values Postgres sends.
func identityColumns(rel *change.Relation) []int {
	var cols []int
	for i := range rel.Columns {
		if rel.Columns[i].Key || rel.Identity == change.IdentityFull {
			cols = append(cols, i)
		}
	}
	return cols
}

// columnsNamed finds the named columns, or none of them when one is missing.
func columnsNamed(rel *change.Relation, names []string) []int {
	var cols []int
	for _, name := range names {
		i := rel.Column(name)
		if i < 0 {
			return nil
		}
		cols = append(cols, i)
	}
	return cols
}

func columnNames(rel *change.Relation, cols []int) []string {
	var names []string
	for _, i := range cols {
		names = append(names, rel.Columns[i].Name)
	}
	return names
}

func allColumns(rel *change.Relation) []string {
	var names []string
	for i := range rel.Columns {
		names = append(names, rel.Columns[i].Name)
	}
	return names
}

func sameColumns(a, b []int) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// appendKey appends the key's text of a row. A value that Postgres did not
// send with the row is taken from fallback, the row before, when there is one.
// It returns the index of the first column whose value is not known, or -1.
func appendKey(dst []byte, cols []int, row, fallback []change.Value) ([]byte, int) {
	for n, i := range cols {
		v := &row[i]
		if v.Kind == change.Unchanged && fallback != nil {
			v = &fallback[i]
		}
		if n > 0 {
			dst = append(dst, '/')
		}
		switch {
		case v.Kind == change.Null: // no text
		case v.Kind != change.Text:
			return dst, i
		case len(cols) == 1:
			dst = append(dst, v.Data...)
		default:
			dst = appendKeyPart(dst, v.Data)
		}
	}
	return dst, -1
}

// appendKeyPart appends one of several columns, so that the '/' between them
// stays unambiguous.
func appendKeyPart(dst, text []byte) []byte {
	for {
		i := bytes.IndexAny(text, "%/")
		if i < 0 {
			return append(dst, text...)
		}
		dst = append(dst, text[:i]...)
		if text[i] == '%' {
			dst = append(dst, "%25"...)
		} else {
			dst = append(dst, "%2F"...)
		}
		text = text[i+1:]
	}
}

// sqlName is the table's name as SQL wants it.
func sqlName(rel *change.Relation) string {
	return quoteIdent(rel.Namespace) + "." + quoteIdent(rel.Name)
}

// quoteIdent quotes an SQL identifier unless it is plain.
func quoteIdent(s string) string {
	plain := s != "" && !(s[0] >= '0' && s[0] <= '9')
	for i := range len(s) {
		c := s[i]
		plain = plain && (c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9')
	}
	if plain {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}
