package rehearse

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/walrill/walrill/change"
)

// value makes of a JSON value what Postgres sends of a column of this type: the inverse of to_jsonb.
func value(t *change.Type, v any) (change.Value, error) {
	if v == nil {
		return change.Value{Kind: change.Null}, nil
	}
	text, err := textOf(t, v)
	if err != nil {
		return change.Value{}, err
	}
	return change.Value{Kind: change.Text, Data: []byte(text)}, nil
}

func textOf(t *change.Type, v any) (string, error) {
	shape := change.ShapeText
	if t != nil {
		shape = t.Shape
	}
	switch shape {
	case change.ShapeJSON:
		text, err := json.Marshal(v)
		return string(text), err
	case change.ShapeBool:
		if b, ok := v.(bool); ok {
			return map[bool]string{true: "t", false: "f"}[b], nil
		}
		return "", unlike("true or false", v)
	case change.ShapeNumber:
		return numberText(t, v)
	case change.ShapeArray:
		if list, ok := v.([]any); ok {
			return arrayText(t, list)
		}
		return "", unlike("a list", v)
	case change.ShapeComposite:
		if object, ok := v.(map[string]any); ok {
			return compositeText(t, object)
		}
		return "", unlike("an object", v)
	}
	text, ok := v.(string)
	switch {
	case !ok:
		return "", unlike("text in quotes", v)
	case shape == change.ShapeTimestamp:
		return strings.Replace(text, "T", " ", 1), nil
	case shape == change.ShapeTimestampTZ:
		return timestampText(text)
	}
	return text, nil
}

func unlike(want string, v any) error {
	got, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return fmt.Errorf("want %s, got %s", want, got)
}

// numberText takes a number, and text for what JSON has no number for: NaN, and numbers written as strings.
func numberText(t *change.Type, v any) (string, error) {
	text, whole := "", t.OID == 20 || t.OID == 21 || t.OID == 23
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		if _, err := json.Number(v).Float64(); err != nil {
			return "", unlike("a number", v)
		}
		text = v
	default:
		return "", unlike("a number", v)
	}
	if _, err := json.Number(text).Int64(); whole && err != nil {
		return "", unlike("a whole number", v)
	}
	return text, nil
}

// timestampText is a time as Postgres prints it in UTC.
func timestampText(text string) (string, error) {
	if strings.HasSuffix(text, "infinity") {
		return text, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z07"} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC().Format("2006-01-02 15:04:05.999999") + "+00", nil
		}
	}
	return "", fmt.Errorf("want a time with its zone such as 2026-03-01T08:00:00Z, got %q", text)
}

func arrayText(t *change.Type, list []any) (string, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range list {
		if i > 0 {
			b.WriteByte(t.Delim)
		}
		if v == nil {
			b.WriteString("NULL")
			continue
		}
		inner := t.Elem
		if _, nested := v.([]any); nested && inner.Shape != change.ShapeJSON {
			inner = t // another dimension
		}
		text, err := textOf(inner, v)
		if err != nil {
			return "", err
		}
		if inner == t {
			b.WriteString(text)
		} else {
			quoteInto(&b, text)
		}
	}
	return b.String() + "}", nil
}

// compositeText is a row's text; a field that is not given is NULL, which is no text at all.
func compositeText(t *change.Type, object map[string]any) (string, error) {
	var b strings.Builder
	for i, f := range t.Fields {
		b.WriteByte("(,"[min(i, 1)])
		v := object[f.Name]
		if v == nil {
			continue
		}
		text, err := textOf(f.Type, v)
		if err != nil {
			return "", fmt.Errorf("%s: %w", f.Name, err)
		}
		quoteInto(&b, text)
	}
	return b.String() + ")", nil
}

func quoteInto(b *strings.Builder, text string) {
	b.WriteByte('"')
	b.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text))
	b.WriteByte('"')
}
