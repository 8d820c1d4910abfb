package config

import (
	"strings"
)

// Forms of a document.
const (
	DocumentJSON = "json"
	DocumentHash = "hash"
)

// KeyPart is a part of a pattern of Redis keys: text as it stands, or a column's value.
type KeyPart struct {
	Text   string
	Column bool // Text is the name of a column
}

// keyPattern reads a pattern such as order:{order_id}. Braces that are to be in the key are doubled.
func (r *reader) keyPattern(path string, n *node) []KeyPart {
	written, ok := r.text(path, n, "a pattern of keys, such as \"order:{order_id}\"")
	if !ok {
		return nil
	}
	parts, msg := parseKeyPattern(written)
	if msg != "" {
		r.fail(n.at, path, "the pattern %s %s", show(written), msg)
		return nil
	}
	return parts
}

// parseKeyPattern returns what is wrong with a pattern, if something is.
func parseKeyPattern(text string) (parts []KeyPart, msg string) {
	var literal strings.Builder
	columns := 0
	flush := func() {
		if literal.Len() > 0 {
			parts = append(parts, KeyPart{Text: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case (c == '{' || c == '}') && strings.HasPrefix(text[i+1:], string(c)):
			literal.WriteByte(c)
			i++
		case c == '}':
			return nil, "has a `}` without a `{`; write `}}` for one that is to be in the key"
		case c == '{':
			name, _, ok := strings.Cut(text[i+1:], "}")
			if !ok || name == "" || strings.Contains(name, "{") {
				return nil, "has a `{` that names no column; write `{order_id}` for a column's value, or `{{` for a brace that is to be in the key"
			}
			if literal.Len() == 0 && columns > 0 {
				return nil, "has two columns next to each other, so that two rows could have the same key; put something between them, such as `:`"
			}
			flush()
			parts = append(parts, KeyPart{Text: name, Column: true})
			columns++
			i += len(name) + 1
		default:
			literal.WriteByte(c)
		}
	}
	flush()
	switch {
	case columns == 0:
		return nil, "names no column; write the key's columns in braces, such as `order:{order_id}`"
	case parts[0].Column:
		return nil, "must begin with text of its own, such as `order:`, so that no other key looks like it"
	}
	return parts, ""
}

// checkDocument says which fields go with documents.
func (r *reader) checkDocument(path string, e entry, v *View, columns bool) {
	switch {
	case (v.Mirror == "") == (v.From == ""):
		r.fail(e.at, path, "documents are made of a table's rows or of another view's; write one of `mirror: public.orders` and `from: order_summary`")
	case v.Query != "" || v.Key != nil || v.Affects != nil:
		r.fail(e.at, path, "`query`, `key` and `affects` make a view in Postgres: give it a name of its own, and write `from: that_name` here")
	case v.From != "" && columns:
		r.fail(e.at, path, "`columns` is for documents of a table; those of a view have the view's columns")
	case v.As == "":
		v.As = DocumentJSON
	}
}
