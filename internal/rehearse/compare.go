package rehearse

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/walrill/walrill/config"
)

// Compare says how the events differ from those that a test expects, or "" when they do not. Of an event only the fields
// that the test writes count.
func Compare(t *config.Test, got []Event) string {
	var want, have []string
	for i, e := range t.Then {
		want = append(want, lines(e.Fields, fieldsOf(e.Fields))...)
		if i < len(got) {
			have = append(have, lines(got[i], fieldsOf(e.Fields))...)
		}
	}
	for _, e := range got[min(len(t.Then), len(got)):] {
		have = append(have, lines(e, defaultFields)...)
	}
	if slices.Equal(want, have) {
		return ""
	}
	return diff(want, have)
}

// defaultFields are those that a test has when nobody chose others.
var defaultFields = []string{"type", "key", "data"}

// fieldsOf are the fields that an expectation writes, in their usual order.
func fieldsOf(fields map[string]string) []string {
	return slices.DeleteFunc(slices.Clone(config.TestEventFields), func(name string) bool { _, ok := fields[name]; return !ok })
}

// lines prints fields of an event, a line each, and a line for each member of an object.
func lines(e map[string]string, fields []string) []string {
	var out []string
	for _, name := range fields {
		text, ok := e[name]
		if !ok {
			continue
		}
		v := decode(text)
		object, isObject := v.(map[string]any)
		if !isObject || len(object) == 0 {
			out = append(out, "  "+name+": "+plain(v))
			continue
		}
		out = append(out, "  "+name+":")
		for _, member := range slices.Sorted(maps.Keys(object)) {
			out = append(out, "    "+word(member)+": "+plain(object[member]))
		}
	}
	if len(out) == 0 {
		return []string{"- {}"}
	}
	out[0] = "-" + out[0][1:]
	return out
}

// decode reads JSON with the digits of its numbers.
func decode(text string) any {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return text
	}
	return v
}

// plain prints a value as YAML on one line, members sorted, and numbers that are equal alike.
func plain(v any) string { return yamlText(v, number) }

// exact is plain with all digits of numbers.
func exact(v any) string { return yamlText(v, func(digits string) string { return digits }) }

func yamlText(v any, number func(string) string) string {
	switch v := v.(type) {
	case map[string]any:
		var members []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			members = append(members, word(name)+": "+yamlText(v[name], number))
		}
		return "{" + strings.Join(members, ", ") + "}"
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, yamlText(item, number))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case json.Number:
		return number(v.String())
	case string:
		return word(v)
	}
	out, _ := json.Marshal(v) // true, false and null
	return string(out)
}

// number drops the zeros behind a decimal point's digits: 42.50 is 42.5.
func number(text string) string {
	if strings.Contains(text, ".") && !strings.ContainsAny(text, "eE") {
		return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// word prints text as YAML, in quotes unless it is plainly a word.
func word(s string) string {
	isPlain := s != "" && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
	for _, c := range s {
		isPlain = isPlain && (c == '_' || c == '.' || c == '-' || c == ' ' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	}
	if isPlain && !slices.Contains(yamlWords, strings.ToLower(s)) && strings.TrimSpace(s) == s {
		return s
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // text can always be
	return strings.TrimSuffix(out.String(), "\n")
}

// yamlWords are not text without quotes, for one or another reader of YAML.
var yamlWords = []string{"true", "false", "null", "yes", "no", "on", "off"}

// diff prints lines with - before those that only want has and + before those that only got has, in the fewest.
func diff(want, got []string) string {
	// longest[i][j] is how much want[i:] and got[j:] have in common.
	longest := make([][]int, len(want)+1)
	for i := range longest {
		longest[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			if want[i] == got[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(want) || j < len(got); {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			out.WriteString("    " + want[i] + "\n")
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && longest[i+1][j] >= longest[i][j+1]:
			out.WriteString("  - " + want[i] + "\n")
			i++
		default:
			out.WriteString("  + " + got[j] + "\n")
			j++
		}
	}
	return out.String()
}
