package projector

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// KeyPart is a part of a pattern of Redis keys: text as it stands, or the value of a column.
type KeyPart struct {
	Text   string `json:"text"`
	Column bool   `json:"column,omitempty"` // Text is the column's name in the view
}

// DocumentView is a view whose rows are documents in Redis: those of a table, or of a view in the store.
type DocumentView struct {
	Name    string
	Pattern []KeyPart // of the documents' keys; begins with text, and columns have text between them
	Hash    bool      // each document is a hash of its columns, else a JSON string
	From    string    // a view of the projector; "" for a table
	Table   View      // of a table: Mirror, Include, Exclude and Rename
	Where   string    // place in the configuration, for errors
}

func (v *DocumentView) fault(fix, format string, args ...any) error {
	return &SetupError{Where: v.Where, View: v.Name, Problem: fmt.Sprintf(format, args...), Fix: fix}
}

// form is what the values in Redis are, as scripts and definitions have it.
func (v *DocumentView) form() string {
	if v.Hash {
		return "hash"
	}
	return "json"
}

// pattern writes documents' keys for people.
func (v *DocumentView) pattern() string {
	var b strings.Builder
	for _, p := range v.Pattern {
		if p.Column {
			b.WriteString("{" + p.Text + "}")
		} else {
			b.WriteString(strings.NewReplacer("{", "{{", "}", "}}").Replace(p.Text))
		}
	}
	return b.String()
}

// tag is the hash tag that all documents of the view have; "" for none.
func (v *DocumentView) tag() string {
	_, rest, ok := strings.Cut(v.Pattern[0].Text, "{")
	if !ok {
		return ""
	}
	tag, _, ok := strings.Cut(rest, "}")
	if !ok {
		return ""
	}
	return tag
}

// StateKey is the hash that says how far a view's documents are: state, position (a decimal clock), and what walrill needs.
// It is in the slot of the documents when they have a hash tag of their own.
func (v *DocumentView) StateKey(pipeline string) string {
	if tag := v.tag(); tag != "" {
		return fmt.Sprintf("walrill:{%s}:document:%s:%s", tag, pipeline, v.Name)
	}
	return fmt.Sprintf("walrill:{%s}:document:%s", pipeline, v.Name)
}

// columns are those that the pattern names.
func (v *DocumentView) columns() (names []string) {
	for _, p := range v.Pattern {
		if p.Column && !slices.Contains(names, p.Text) {
			names = append(names, p.Text)
		}
	}
	return names
}

// check wants the pattern to tell rows apart by their key, and to name columns that there are.
func (v *DocumentView) check(columns, key []string) error {
	for _, name := range v.columns() {
		if !slices.Contains(columns, name) {
			return v.fault("", "the pattern %s names %s, which is no column of it; its columns are %s", v.pattern(), name, strings.Join(columns, ", "))
		}
	}
	for _, name := range key {
		if !slices.Contains(v.columns(), name) {
			return v.fault("", "the pattern %s lacks the key's column %s, so that several rows would be one document; write {%s} into it", v.pattern(), name, name)
		}
	}
	return nil
}

// checkCluster wants one slot for all documents of the view and its state.
func (v *DocumentView) checkCluster() error {
	if v.tag() == "" {
		return v.fault("", "in a Redis Cluster all documents of a view must be in one slot, to be written together, and the pattern %s spreads them; "+
			"begin it with a hash tag, such as {{%s}}:", v.pattern(), strings.Trim(strings.ReplaceAll(v.Pattern[0].Text, "{", ""), ":"))
	}
	return nil
}

// escaped are the characters that values must not have as they are, so that no two rows have the same key.
func (v *DocumentView) escaped() string {
	first := slices.IndexFunc(v.Pattern, func(p KeyPart) bool { return p.Column })
	escaped := ""
	for i := first + 1; i < len(v.Pattern)-1; i++ {
		if !v.Pattern[i].Column {
			escaped += v.Pattern[i].Text
		}
	}
	if escaped != "" {
		escaped += "%"
	}
	return escaped
}

// keyOf writes the key of a row's document. object has the pattern's columns as JSON. null is the column that is NULL, which leaves
// the row without a key.
func (v *DocumentView) keyOf(object []byte) (key, null string, err error) {
	values := map[string]string{}
	err = eachField(object, func(name, value []byte) {
		if string(value) == "null" {
			return
		}
		values[string(name)] = jsonText(value)
	})
	if err != nil {
		return "", "", fmt.Errorf("read the key of a document: %w", err)
	}
	var b strings.Builder
	escaped := v.escaped()
	for _, p := range v.Pattern {
		if !p.Column {
			b.WriteString(p.Text)
			continue
		}
		value, ok := values[p.Text]
		if !ok {
			return "", p.Text, nil
		}
		appendEscaped(&b, value, escaped)
	}
	return b.String(), "", nil
}

func appendEscaped(b *strings.Builder, value, escaped string) {
	for i := range len(value) {
		if strings.IndexByte(escaped, value[i]) >= 0 {
			fmt.Fprintf(b, "%%%02X", value[i])
		} else {
			b.WriteByte(value[i])
		}
	}
}

// jsonText is a JSON value as text: a string without its quotes, anything else as it is written.
func jsonText(value []byte) string {
	if len(value) == 0 || value[0] != '"' {
		return string(value)
	}
	var text string
	_ = json.Unmarshal(value, &text) // of a string that transform or Postgres wrote
	return text
}

// fieldsOf makes the names and values of a hash of a JSON object: NULL is no field.
func fieldsOf(object []byte) ([]string, error) {
	var list []string
	err := eachField(object, func(name, value []byte) {
		if string(value) != "null" {
			list = append(list, string(name), jsonText(value))
		}
	})
	return list, err
}
