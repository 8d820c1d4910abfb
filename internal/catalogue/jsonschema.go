package catalogue

import (
	"github.com/walrill/walrill/event"
)

// JSONSchema is a JSON Schema (draft 2020-12) whose $defs have a schema of the data of each event type and version, as
// <stream>/<event type>/<version>, where % and / in a name are escaped as in :catalogue.
func (c *Catalogue) JSONSchema() any {
	defs, taken := object{}, map[string]bool{}
	for i := range c.Streams {
		s := &c.Streams[i]
		for j := range s.Events {
			e := &s.Events[j]
			if e.Version == 0 || !e.hasData() {
				continue
			}
			add := func(version int, schema object) {
				named := event.Schema{Stream: s.Name, Type: e.Type, Version: version}
				name := named.Field()
				if taken[name] { // of a table of the same name in another schema
					name += "/" + e.Table
				}
				taken[name] = true
				defs = append(defs, member{name, schema})
			}
			for k := range e.Earlier {
				add(e.Earlier[k].Version, earlierSchema(e, &e.Earlier[k]))
			}
			add(e.Version, e.dataSchema())
		}
	}
	return object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", "urn:walrill:" + c.Pipeline + ":catalogue"},
		{"title", "Events of the pipeline " + c.Pipeline},
		{"description", "Under $defs: the data of each event, by <stream>/<event type>/<version>."},
		{"$defs", defs},
	}
}

// dataSchema is the schema of an event's data as it is published now.
func (e *Event) dataSchema() object {
	schema := object{{"title", e.Type}}.with("description", e.Description)
	if e.Opaque {
		return schema
	}
	return append(schema, members(e.Fields)...)
}

// earlierSchema knows of an earlier version what :catalogue does: not which values may be missing or null.
func earlierSchema(e *Event, s *event.Schema) object {
	return append(object{{"title", e.Type}}.with("description", "An earlier version."), members(FieldsOf(s.Columns))...)
}

// FieldsOf are the fields of a version as far as its schema tells them.
func FieldsOf(columns []event.SchemaColumn) []Field {
	var fields []Field
	for _, c := range columns {
		f := Field{Name: c.Name, JSON: c.JSON, Type: c.Type, Column: c.Column, Mask: c.Mask, Nullable: true}
		if len(c.Fields) > 0 {
			f.Fields = FieldsOf(c.Fields)
		}
		fields = append(fields, f)
	}
	return fields
}

// members are the keywords of an object. More members are allowed: consumers should let them be.
func members(fields []Field) object {
	o := object{{"type", "object"}}
	properties, required := object{}, []string{}
	for i := range fields {
		f := &fields[i]
		properties = append(properties, member{f.Name, f.schema()})
		if f.Required {
			required = append(required, f.Name)
		}
	}
	if len(properties) > 0 {
		o = append(o, member{"properties", properties})
	}
	return o.with("required", required)
}

// notNumbers are the values of float and numeric columns that JSON has no number for.
var notNumbers = []string{"NaN", "Infinity", "-Infinity"}

func (f *Field) schema() object {
	var o object
	switch {
	case f.JSON == "any" || f.JSON == "":
	case f.JSON == "number":
		forms := []object{{{"type", "number"}}, {{"enum", notNumbers}}}
		if f.Nullable {
			forms = append(forms, object{{"type", "null"}})
		}
		o = object{{"anyOf", forms}}
	case f.JSON == "object" && len(f.Fields) > 0:
		o = members(f.Fields)
		o[0].value = f.types("object")
	case f.JSON == "array" && len(f.Fields) > 0:
		o = object{{"type", f.types("array")}, {"items", members(f.Fields)}}
	case len(f.Enum) > 0 && f.JSON == "string":
		values := make([]any, len(f.Enum))
		for i := range f.Enum {
			values[i] = f.Enum[i]
		}
		if f.Nullable {
			values = append(values, nil)
		}
		o = object{{"enum", values}}
	default:
		o = object{{"type", f.types(f.JSON)}}
	}
	o = o.with("description", f.Description)
	if f.Type != "" {
		o = append(o, member{"x-postgres-type", f.Type})
	}
	if f.Column != "" && f.Column != f.Name {
		o = append(o, member{"x-column", f.Column})
	}
	if f.Mask != "" {
		o = append(o, member{"x-mask", f.Mask})
	}
	if o == nil {
		return object{}
	}
	return o
}

func (f *Field) types(json string) any {
	if f.Nullable {
		return []string{json, "null"}
	}
	return json
}
