package transform

import (
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// The kinds of JSON value that schemas tell apart.
const (
	jsonInteger = "integer"
	jsonNumber  = "number"
	jsonString  = "string"
	jsonBoolean = "boolean"
	jsonArray   = "array"
	jsonObject  = "object"
	jsonAny     = "any"
)

// jsonKind is the kind of JSON value that a type's values are, NULL apart. NaN and the infinities,
// which JSON has no number for, are strings all the same.
func (e encoding) jsonKind(t *change.Type) string {
	if t == nil {
		return jsonString
	}
	switch t.Shape {
	case change.ShapeBool:
		return jsonBoolean
	case change.ShapeNumber:
		switch k := columnKind(t); {
		case e.numbersAsText && (t.OID == oidInt8 || k == kindDecimal):
			return jsonString
		case k == kindInt:
			return jsonInteger
		}
		return jsonNumber
	case change.ShapeJSON:
		return jsonAny
	case change.ShapeArray, change.ShapeVector:
		return jsonArray
	case change.ShapeComposite:
		return jsonObject
	}
	return jsonString
}

// jsonKind is the kind of an expression's value, NULL apart, as far as its types tell.
func (c *checked) jsonKind() string {
	if kind := c.kindOf(c.node); kind != "" {
		return kind
	}
	return jsonAny
}

// kindOf is empty for nil. Of `c ? 0 : new.price` the library says only that it may be anything.
func (c *checked) kindOf(node ast.Node) string {
	switch n := node.(type) {
	case *ast.ConditionalNode:
		return eitherKind(c.kindOf(n.Exp1), c.kindOf(n.Exp2))
	case *ast.BinaryNode:
		if n.Operator == "??" {
			return eitherKind(c.kindOf(n.Left), c.kindOf(n.Right))
		}
	}
	switch result := node.Nature(); {
	case result.Nil:
		return ""
	case result.IsUnknown(c.fast):
		return jsonAny
	case result.IsBool():
		return jsonBoolean
	case result.IsInteger:
		return jsonInteger
	case result.IsNumber():
		return jsonNumber
	case result.IsString():
		return jsonString
	case result.IsArray():
		return jsonArray
	case result.IsMap():
		return jsonObject
	}
	return jsonAny
}

// eitherKind is the kind of values that are of one of two.
func eitherKind(a, b string) string {
	switch {
	case a == b || b == "":
		return a
	case a == "":
		return b
	case slices.Contains(numberKinds, a) && slices.Contains(numberKinds, b):
		return jsonNumber
	}
	return jsonAny
}

var numberKinds = []string{jsonInteger, jsonNumber}

// jsonKindOf is the kind of a constant that is a number, a truth value or null.
func jsonKindOf(text string) string {
	switch {
	case text == "true" || text == "false":
		return jsonBoolean
	case text == "null":
		return jsonAny
	case strings.ContainsAny(text, ".eE"):
		return jsonNumber
	}
	return jsonInteger
}

// rowFields are the members of a row inside of data. What Postgres may not send may be missing.
func (c *ruleCompiler) rowFields(ops opSet) []event.SchemaColumn {
	fields := withoutTypes(c.row)
	if c.rel.Identity != change.IdentityFull && ops != opsOf(change.Read) {
		for i := range fields {
			fields[i].Optional = true
		}
	}
	return fields
}

// withoutTypes leaves Postgres's types out and names each column: data that a mapping builds keeps its version when a column's type
// changes and its JSON does not.
func withoutTypes(columns []event.SchemaColumn) []event.SchemaColumn {
	out := slices.Clone(columns)
	for i := range out {
		if out[i].Type = ""; out[i].Column == "" {
			out[i].Column = out[i].Name
		}
	}
	return out
}

// schemas makes one schema of each event type of the route's rules: several rules that make one type are
// one to its readers.
func (s *ruleSet) schemas(rows *event.Schema) {
	byType := map[string]*event.Schema{}
	built := map[string]bool{}
	for i := range s.rules {
		built[s.rules[i].typ] = built[s.rules[i].typ] || s.rules[i].data != nil
	}
	for i := range s.rules {
		r := &s.rules[i]
		columns := rows.Columns
		if r.data != nil {
			columns = r.data.schema
		} else if built[r.typ] {
			columns = withoutTypes(columns)
		}
		if r.schema = byType[r.typ]; r.schema != nil {
			r.schema.Columns = mergeColumns(r.schema.Columns, columns)
			r.schema.Terms.Version = max(r.schema.Terms.Version, r.version)
			continue
		}
		terms := *rows.Terms
		terms.Version, terms.Built, terms.Where = r.version, built[r.typ], r.where
		r.schema = &event.Schema{Terms: &terms, Stream: rows.Stream, Type: r.typ, Table: rows.Table, Key: rows.Key, Columns: append([]event.SchemaColumn{}, columns...)}
		byType[r.typ] = r.schema
	}
	for i := range s.rules {
		if r := &s.rules[i]; len(r.upcasts) > 0 {
			r.schema.Terms.Upcasts = func(newest *event.Schema, known []event.Schema) error { return checkUpcasts(r.upcasts, newest, known) }
		}
	}
}

// mergeColumns are the members of data that may be in the form of a or of b.
func mergeColumns(a, b []event.SchemaColumn) []event.SchemaColumn {
	merged := []event.SchemaColumn{}
	for _, c := range a {
		i := slices.IndexFunc(b, func(o event.SchemaColumn) bool { return o.Name == c.Name })
		if i < 0 {
			c.Optional = true
		} else {
			c = mergeColumn(c, b[i])
		}
		merged = append(merged, c)
	}
	for _, c := range b {
		if !slices.ContainsFunc(a, func(o event.SchemaColumn) bool { return o.Name == c.Name }) {
			c.Optional = true
			merged = append(merged, c)
		}
	}
	return merged
}

func mergeColumn(a, b event.SchemaColumn) event.SchemaColumn {
	a.Optional = a.Optional || b.Optional
	if a.Column != b.Column {
		a.Column = ""
	}
	if a.Mask != b.Mask {
		a.Mask = "" // it is not always masked
	}
	if a.JSON == jsonObject && b.JSON == jsonObject && len(a.Fields) > 0 && len(b.Fields) > 0 {
		a.Fields = mergeColumns(a.Fields, b.Fields)
		return a
	}
	a.JSON, a.Fields = eitherKind(a.JSON, b.JSON), nil
	return a
}
