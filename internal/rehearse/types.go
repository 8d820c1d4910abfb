// Package rehearse plays changes of rows that somebody wrote down through a mapping, without any server:
// for `walrill explain` and `walrill test`. It stands in for Postgres: rows become the text that Postgres
// would send, and of old rows only what their replica identity lets through.
package rehearse

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/walrill/walrill/change"
)

// shapes are the types whose text is not simply a JSON string, by all names that SQL has for them.
var shapes = map[string]change.Type{
	"smallint": {OID: 21, Shape: change.ShapeNumber}, "int2": {OID: 21, Shape: change.ShapeNumber},
	"integer": {OID: 23, Shape: change.ShapeNumber}, "int": {OID: 23, Shape: change.ShapeNumber}, "int4": {OID: 23, Shape: change.ShapeNumber},
	"bigint": {OID: 20, Shape: change.ShapeNumber}, "int8": {OID: 20, Shape: change.ShapeNumber},
	"real": {OID: 700, Shape: change.ShapeNumber}, "float4": {OID: 700, Shape: change.ShapeNumber},
	"double precision": {OID: 701, Shape: change.ShapeNumber}, "float8": {OID: 701, Shape: change.ShapeNumber}, "float": {OID: 701, Shape: change.ShapeNumber},
	"numeric": {OID: 1700, Shape: change.ShapeNumber}, "decimal": {OID: 1700, Shape: change.ShapeNumber},
	"boolean": {OID: 16, Shape: change.ShapeBool}, "bool": {OID: 16, Shape: change.ShapeBool},
	"timestamp": {OID: 1114, Shape: change.ShapeTimestamp}, "timestamp without time zone": {OID: 1114, Shape: change.ShapeTimestamp},
	"timestamptz": {OID: 1184, Shape: change.ShapeTimestampTZ}, "timestamp with time zone": {OID: 1184, Shape: change.ShapeTimestampTZ},
	"json": {OID: 114, Shape: change.ShapeJSON}, "jsonb": {OID: 3802, Shape: change.ShapeJSON},
}

var modifier = regexp.MustCompile(`\([^)]*\)`)

// TypeOf is the type of a name as SQL has it: numeric(10,2), text[], timestamp with time zone. A name
// that is not known here, such as that of an enum, is of a type whose values are text.
func TypeOf(name string) *change.Type {
	plain := strings.Join(strings.Fields(modifier.ReplaceAllString(strings.ToLower(name), "")), " ")
	if elem, ok := strings.CutSuffix(plain, "[]"); ok {
		return &change.Type{Name: name, Shape: change.ShapeArray, Elem: TypeOf(strings.TrimSpace(elem)), Delim: ','}
	}
	t := shapes[plain] // or text
	t.Name = name
	return &t
}

// Column is a column of a table that is written down.
type Column struct{ Name, Type string }

// NewRelation makes a table of its description. Identity is default, full or nothing; key is the primary key.
func NewRelation(oid uint32, table string, columns []Column, key []string, identity string) (*change.Relation, error) {
	schema, name, _ := strings.Cut(table, ".")
	rel := &change.Relation{OID: oid, Namespace: schema, Name: name, PrimaryKey: key, Identity: change.IdentityDefault}
	switch identity {
	case "full":
		rel.Identity = change.IdentityFull
	case "nothing":
		rel.Identity = change.IdentityNothing
	}
	for _, c := range columns {
		rel.Columns = append(rel.Columns, change.Column{Name: c.Name, Type: TypeOf(c.Type), TypeName: c.Type, Key: rel.Identity == change.IdentityFull})
	}
	for _, k := range key {
		i := rel.Column(k)
		if i < 0 {
			return nil, fmt.Errorf("the key column %s is not among the columns of %s", k, table)
		}
		rel.Columns[i].Key = rel.Identity != change.IdentityNothing
	}
	return rel, nil
}
