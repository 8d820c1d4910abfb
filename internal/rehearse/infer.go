package rehearse

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
)

// Infer makes a table of rows when there is nobody to ask: whole numbers are bigint, other numbers numeric,
// lists and objects jsonb, the rest is text. Its key is id, or else nothing; Postgres sends the whole old row.
func Infer(table string, rows ...Row) (*change.Relation, error) {
	types := map[string]string{}
	for _, row := range rows {
		for name, v := range row {
			if types[name] == "" || v != nil {
				types[name] = typeFor(v)
			}
		}
	}
	var columns []Column
	for _, name := range slices.Sorted(maps.Keys(types)) {
		columns = append(columns, Column{name, types[name]})
	}
	var key []string
	if types["id"] != "" {
		key = []string{"id"}
	}
	return NewRelation(1, table, columns, key, "full")
}

func typeFor(v any) string {
	switch v := v.(type) {
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "numeric"
		}
		return "bigint"
	case bool:
		return "boolean"
	case []any, map[string]any:
		return "jsonb"
	}
	return "text"
}
