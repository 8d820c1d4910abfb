package event

import (
	"slices"
	"strconv"
	"strings"
)

// Schema is one version of what `data` holds in a stream's events of a table: an entry of the
// catalogue. Versions count from 1 for each stream and table, and a number never gets another meaning.
type Schema struct {
	Stream  string `json:"stream"`
	Table   string `json:"table"` // such as public.orders
	Version int    `json:"version"`
	// Since is the commit LSN of the transaction that first used it, such as 0/16B3748.
	Since string `json:"since"`
	// Key is the columns of the ordering key, in its order.
	Key []string `json:"key"`
	// Columns are the members of data, in their order.
	Columns []SchemaColumn `json:"columns"`
}

// SchemaColumn is one member of data.
type SchemaColumn struct {
	Name string `json:"name"`
	Type string `json:"type"` // as Postgres declares it, such as numeric(10,2)
	JSON string `json:"json"` // integer, number, string, boolean, array, object, or any
}

// Describes reports whether both describe the same data: whether one version does for both.
func (s *Schema) Describes(o *Schema) bool {
	return s.Stream == o.Stream && s.Table == o.Table && slices.Equal(s.Key, o.Key) && slices.Equal(s.Columns, o.Columns)
}

// Field is the field of the catalogue's hash that holds a version: orders/public.orders/2.
func (s *Schema) Field() string { return s.name() + "/" + strconv.Itoa(s.Version) }

// HighestField is the field of the hash :meta that holds the highest version ever given, so that
// no number is given again when the catalogue is lost.
func (s *Schema) HighestField() string { return metaSchema + s.name() }

var schemaEscape = strings.NewReplacer("%", "%25", "/", "%2F")

func (s *Schema) name() string {
	return schemaEscape.Replace(s.Stream) + "/" + schemaEscape.Replace(s.Table)
}
