package transform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Declared is an event type of an outbox or of messages whose data is known. An event whose data is otherwise is an error.
type Declared struct {
	Type string
	// Columns are the members that data has, at least: Name, JSON, Optional and Fields. Each may be null.
	Columns []event.SchemaColumn
	Version int    // of the data, 0 when the catalogue counts
	Where   string // file:line for errors, optional
}

// declarations are the declared events of one outbox or of one stream's messages, by type.
type declarations map[string]*event.Schema

// declare makes the schemas. Table is empty for messages.
func declare(list []Declared, stream, table string, key []string, compatibility event.Compatibility) declarations {
	if len(list) == 0 {
		return nil
	}
	out := declarations{}
	for _, d := range list {
		out[d.Type] = &event.Schema{Stream: stream, Type: d.Type, Table: table, Key: append([]string{}, key...), Columns: append([]event.SchemaColumn{}, d.Columns...),
			Terms: &event.Terms{Compatibility: compatibility, Version: d.Version, Built: true, Declared: true, Where: d.Where}}
	}
	return out
}

// describe are the declared events, by type.
func (d declarations) describe(on ...change.Op) []PublishedEvent {
	var list []PublishedEvent
	for _, s := range d {
		list = append(list, PublishedEvent{Type: s.Type, On: on, Built: true, Declared: s.Terms.Where, Schema: s})
	}
	slices.SortFunc(list, func(a, b PublishedEvent) int { return strings.Compare(a.Type, b.Type) })
	return list
}

// fixDeclared is for what is in Postgres's log already, and so cannot be written again.
const fixDeclared = "let `events` say what the application writes, with `name?` for a member that is not always there, under the next `version` if that would break consumers, and start walrill: it goes on with this event"

// give sets the schema of an event whose type is declared. What it returns says why its data is not what is declared, no values of it.
func (d declarations) give(e *event.Event) (problem string) {
	e.Schema, e.Shape = 0, nil
	s := d[e.Type]
	if s == nil {
		return ""
	}
	e.Schema, e.Shape = s.Version, s
	decoder := json.NewDecoder(bytes.NewReader(e.Data))
	decoder.UseNumber()
	var data any
	if len(e.Data) > 0 && decoder.Decode(&data) != nil {
		data = nil
	}
	object, ok := data.(map[string]any)
	if !ok {
		return fmt.Sprintf("data is not an object, and `events` declares that of %s", e.Type)
	}
	if problem := misfit("", object, s.Columns); problem != "" {
		return fmt.Sprintf("%s, as `events` declares of %s", problem, e.Type)
	}
	return ""
}

// misfit says which member is not what it should be.
func misfit(prefix string, object map[string]any, want []event.SchemaColumn) string {
	for i := range want {
		c := &want[i]
		v, there := object[c.Name]
		switch {
		case !there && !c.Optional:
			return fmt.Sprintf("data has no %s", prefix+c.Name)
		case v == nil:
			continue
		case !fitsKind(v, c.JSON):
			return fmt.Sprintf("%s is no %s", prefix+c.Name, c.JSON)
		}
		if problem := misfitInside(prefix+c.Name, v, c.Fields); problem != "" {
			return problem
		}
	}
	return ""
}

func misfitInside(name string, v any, fields []event.SchemaColumn) string {
	switch v := v.(type) {
	case map[string]any:
		return misfit(name+".", v, fields)
	case []any:
		for i, element := range v {
			object, ok := element.(map[string]any)
			if len(fields) == 0 {
				break
			}
			at := fmt.Sprintf("%s[%d]", name, i)
			if !ok {
				return at + " is no object"
			}
			if problem := misfit(at+".", object, fields); problem != "" {
				return problem
			}
		}
	}
	return ""
}

func fitsKind(v any, kind string) (ok bool) {
	switch kind {
	case jsonInteger, jsonNumber:
		n, number := v.(json.Number)
		return number && (kind == jsonNumber || !strings.ContainsAny(n.String(), ".eE"))
	case jsonString:
		_, ok = v.(string)
	case jsonBoolean:
		_, ok = v.(bool)
	case jsonArray:
		_, ok = v.([]any)
	case jsonObject:
		_, ok = v.(map[string]any)
	default:
		ok = true
	}
	return ok
}
