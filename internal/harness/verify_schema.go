package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// schemaShape is a field of the hash :catalogue, as far as Verify looks.
type schemaShape struct {
	Stream, Table string
	Type          string // of events that rules make
	Version       int
	Key           []string
	Columns       []struct{ Name, Type, JSON string }
}

func (s *schemaShape) has(column string) bool {
	return slices.ContainsFunc(s.Columns, func(c struct{ Name, Type, JSON string }) bool { return c.Name == column })
}

// checkSchemas wants of every entry that the catalogue has its schema, and that its data are the columns named
// there: all of them, but of a deleted row.
func (v *verifier) checkSchemas(ctx context.Context, entries []streamEntry) error {
	client, err := v.pipeline.redis()
	if err != nil {
		return err
	}
	defer client.Close()
	fields, err := client.HGetAll(ctx, "walrill:{"+v.pipeline.Name+"}:catalogue").Result()
	if err != nil {
		return err
	}
	catalogue := map[string]*schemaShape{}
	for field, text := range fields {
		s := &schemaShape{}
		if err := json.Unmarshal([]byte(text), s); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if s.Type == "" {
			catalogue[fmt.Sprintf("%s/%s/%d", s.Stream, s.Table, s.Version)] = s
		}
	}
	for i := range entries {
		e := &entries[i]
		s := catalogue[e.stream+"/"+e.table+"/"+e.schema]
		if s == nil {
			v.errorf("%s: entry %v of table %s has schema %q, which the catalogue does not have", e.stream, e.at, e.table, e.schema)
			continue
		}
		v.checkColumns(e, s)
	}
	return nil
}

func (v *verifier) checkColumns(e *streamEntry, s *schemaShape) {
	known := slices.Clone(e.unchanged)
	for column := range e.data {
		known = append(known, column)
	}
	for _, column := range known {
		if !s.has(column) {
			v.errorf("%s: entry %v has column %s, its schema %s does not", e.stream, e.at, column, e.schema)
		}
	}
	if whole := e.op != OpDelete && e.op != OpTruncate; whole && len(known) != len(s.Columns) {
		v.errorf("%s: entry %v has %d columns, its schema %s has %d", e.stream, e.at, len(known), e.schema, len(s.Columns))
	}
}
