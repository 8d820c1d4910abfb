package event

import (
	"slices"
	"strconv"
	"strings"
)

// Schema is one version of what `data` holds in a stream's events: an entry of the catalogue. It is of a
// table's rows or, for events that rules make and those of aggregates, of an event type. Versions count from 1 for each, and a number never
// gets another meaning.
type Schema struct {
	Stream  string `json:"stream"`
	Type    string `json:"type,omitempty"` // of events that rules make or aggregates, such as order.paid; empty for rows
	Table   string `json:"table"`          // such as public.orders
	Version int    `json:"version"`
	// Since is the commit LSN of the transaction that first used it, such as 0/16B3748.
	Since string `json:"since"`
	// Key is the columns of the ordering key, in its order.
	Key []string `json:"key"`
	// Columns are the members of data, in their order.
	Columns []SchemaColumn `json:"columns"`
	Terms   *Terms         `json:"-"` // nil for what was read from the catalogue
}

// SchemaColumn is one member of data.
type SchemaColumn struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"` // as Postgres declares it, such as numeric(10,2); of rows only
	JSON string `json:"json"`           // integer, number, string, boolean, array, object, or any
	// Mask is how the values are hidden: hash, redact, truncate or last; empty when they are not.
	Mask string `json:"mask,omitempty"`
	// Column is the column that the value is a copy of; empty when it is no copy, and for a column of a row under its own name.
	Column string `json:"column,omitempty"`
	// Optional members are not in every event of the type.
	Optional bool `json:"optional,omitempty"`
	// Fields are the members of an object, or of each object of an array, in their order, when they are known.
	Fields []SchemaColumn `json:"fields,omitempty"`
}

// equal does not look at where the values of built data come from: their readers do not see it.
func (c SchemaColumn) equal(o SchemaColumn) bool {
	return c.Name == o.Name && c.Type == o.Type && c.JSON == o.JSON && c.Mask == o.Mask && (c.Type == "" || c.Column == o.Column) && c.Optional == o.Optional &&
		slices.EqualFunc(c.Fields, o.Fields, SchemaColumn.equal)
}

// Describes reports whether both describe the same data: whether one version does for both.
func (s *Schema) Describes(o *Schema) bool {
	return s.Stream == o.Stream && s.Type == o.Type && s.Table == o.Table && slices.Equal(s.Key, o.Key) &&
		slices.EqualFunc(s.Columns, o.Columns, SchemaColumn.equal)
}

// SharesNumbers reports whether both have their versions from one series: those of a name, and those of an event type
// that is called as a table's rows are without rules, so that an entry's type, table and version always lead to one schema.
func (s *Schema) SharesNumbers(o *Schema) bool {
	return s.Stream == o.Stream && (s.subject() == o.subject() || s.shadows(o) || o.shadows(s))
}

func (s *Schema) shadows(rows *Schema) bool {
	if rows.Type != "" || s.Type == "" || s.Table != rows.Table {
		return false
	}
	_, table, _ := strings.Cut(rows.Table, ".")
	kind, ok := strings.CutPrefix(s.Type, table+".")
	return ok && slices.Contains(rowKinds, kind)
}

// rowKinds end the types of events that no rule makes: orders.created.
var rowKinds = []string{"created", "updated", "deleted", "truncated", "read"}

// Field is the field of the catalogue's hash that holds a version: orders/public.orders/2, or orders/order.paid/2.
func (s *Schema) Field() string { return s.Name() + "/" + strconv.Itoa(s.Version) }

// HighestField is the field of the hash :meta that holds the highest version ever given, so that
// no number is given again when the catalogue is lost.
func (s *Schema) HighestField() string { return metaSchema + s.Name() }

var schemaEscape = strings.NewReplacer("%", "%25", "/", "%2F")

// Name is what the versions are of: a stream and a table, or an event type, as in Field.
func (s *Schema) Name() string {
	return schemaEscape.Replace(s.Stream) + "/" + schemaEscape.Replace(s.subject())
}

func (s *Schema) subject() string {
	if s.Type != "" {
		return s.Type
	}
	return s.Table
}
