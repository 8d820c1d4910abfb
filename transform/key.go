package transform

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
)

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
			return nil, nil, unknownColumn(rel, t, name)
		}
		if !slices.Contains(identity, i) {
			outside = append(outside, name)
		}
		key = append(key, i)
	}
	if len(outside) > 0 {
		return key, outsideIdentity(rel, t, identity, outside), nil
	}
	return key, nil, nil
}

func unknownColumn(rel *change.Relation, t *TableMapping, name string) error {
	e := &Error{Where: t.KeyWhere, Table: rel.String(), Columns: []string{name},
		Problem: fmt.Sprintf("key column %s does not exist or is not published", name)}
	var names []string
	for i := range rel.Columns {
		names = append(names, rel.Columns[i].Name)
	}
	if near := nearest(name, names); near != "" {
		e.Fix = fmt.Sprintf("did you mean %s?", near)
	} else {
		e.Fix = "choose among " + strings.Join(names, ", ")
	}
	return e
}

func outsideIdentity(rel *change.Relation, t *TableMapping, identity []int, outside []string) error {
	has := "and the table has none"
	if rel.Identity != change.IdentityNothing && len(identity) > 0 {
		has = "which is " + strings.Join(columnNames(rel, identity), ", ")
	}
	// With the identity's columns behind the key's the index is sure to be unique.
	index := slices.Clone(t.Key)
	for _, name := range columnNames(rel, identity) {
		if !slices.Contains(index, name) {
			index = append(index, name)
		}
	}
	for i := range index {
		index[i] = quoteIdent(index[i])
	}
	return &Error{Where: t.KeyWhere, Table: rel.String(), Columns: outside,
		Problem: fmt.Sprintf("cannot be keyed by %s: Postgres sends old values of the replica identity only, %s, "+
			"so a delete or a change of the key could not be placed", strings.Join(outside, ", "), has),
		Fix: fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL; or a unique index on (%s), all NOT NULL, "+
			"and ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX its_name", sqlName(rel), strings.Join(index, ", "))}
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
