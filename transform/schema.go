package transform

import "github.com/walrill/walrill/change"

// jsonKind is the kind of JSON value that a type's values are, NULL apart. NaN and the infinities,
// which JSON has no number for, are strings all the same.
func (e encoding) jsonKind(t *change.Type) string {
	if t == nil {
		return "string"
	}
	switch t.Shape {
	case change.ShapeBool:
		return "boolean"
	case change.ShapeNumber:
		switch k := columnKind(t); {
		case e.numbersAsText && (t.OID == oidInt8 || k == kindDecimal):
			return "string"
		case k == kindInt:
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
