package transform

import (
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// schemaColumns describes a table's rows for the catalogue.
func schemaColumns(rel *change.Relation) []event.SchemaColumn {
	columns := make([]event.SchemaColumn, len(rel.Columns))
	for i, c := range rel.Columns {
		columns[i] = event.SchemaColumn{Name: c.Name, Type: c.TypeName, JSON: jsonKind(c.Type)}
	}
	return columns
}

// jsonKind is the kind of JSON value that a type's values are, NULL apart. NaN and the infinities,
// which JSON has no number for, are strings all the same.
func jsonKind(t *change.Type) string {
	if t == nil {
		return "string"
	}
	switch t.Shape {
	case change.ShapeBool:
		return "boolean"
	case change.ShapeNumber:
		switch t.OID {
		case oidInt2, oidInt4, oidInt8:
			return "integer"
		}
		return "number"
	case change.ShapeJSON:
		return "any"
	case change.ShapeArray, change.ShapeVector:
		return "array"
	case change.ShapeComposite:
		return "object"
	}
	return "string"
}
