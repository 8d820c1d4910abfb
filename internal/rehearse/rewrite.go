package rehearse

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/walrill/walrill/config"
)

// Rewrite writes what has happened into the `then` of tests, and leaves every other line of the file alone. got has the events of
// the tests by their index. An event keeps the fields that were expected of the one in its place.
func Rewrite(file []byte, tests []config.Test, got map[int][]Event) ([]byte, error) {
	lines := strings.Split(string(file), "\n")
	for _, i := range slices.Backward(slices.Sorted(maps.Keys(got))) { // from below, so that places above stay
		t := &tests[i]
		at := t.ThenAt.Line - 1
		before := []rune(lines[at])[:t.ThenAt.Column-1]
		if strings.Trim(string(before), " -") != "" {
			return nil, fmt.Errorf("%s: `then` does not begin its line; write it on a line of its own, so that it can be rewritten", t.ThenAt)
		}
		end := blockEnd(lines, at, len(before))
		lines = slices.Replace(lines, at, end, written(string(before), t, got[i])...)
	}
	return []byte(strings.Join(lines, "\n")), nil
}

// blockEnd is the line behind a field's value: the next that is not deeper, but for items of a list, which may stand
// as deep as its name. Empty lines and comments before it are the next one's.
func blockEnd(lines []string, at, depth int) int {
	end := at + 1
	for i := at + 1; i < len(lines); i++ {
		text := strings.TrimLeft(lines[i], " ")
		indent := len(lines[i]) - len(text)
		switch {
		case strings.TrimSpace(text) == "" || strings.HasPrefix(text, "#") && indent <= depth:
		case indent > depth || indent == depth && strings.HasPrefix(text, "- "):
			end = i + 1
		default:
			return end
		}
	}
	return end
}

const maxLine = 120

// written is `then` with events, indented as the field was; before is what stands in front of it.
func written(before string, t *config.Test, got []Event) []string {
	if len(got) == 0 {
		return []string{before + "then: []"}
	}
	out := []string{before + "then:"}
	indent := strings.Repeat(" ", len(before)+2)
	for i, e := range got {
		fields := defaultFields
		if i < len(t.Then) {
			fields = fieldsOf(t.Then[i].Fields)
		}
		var parts []string
		for _, name := range fields {
			if text, ok := e[name]; ok {
				parts = append(parts, name+": "+exact(decode(text)))
			}
		}
		if line := indent + "- {" + strings.Join(parts, ", ") + "}"; len(line) <= maxLine {
			out = append(out, line)
			continue
		}
		for n, part := range parts {
			out = append(out, indent+[]string{"- ", "  "}[min(n, 1)]+part)
		}
	}
	return out
}
