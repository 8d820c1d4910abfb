package projector

import (
	"strconv"
	"strings"
)

// valuesOf is the inverse of keyOf: the texts of the pattern's columns in a document's key. ok is false for what cannot be one.
func (v *DocumentView) valuesOf(key string) (values map[string]string, ok bool) {
	values = map[string]string{}
	rest, ok := strings.CutPrefix(key, v.Pattern[0].Text)
	escaped := v.escaped() != ""
	for i := 1; ok && i < len(v.Pattern); i++ {
		p := v.Pattern[i]
		if !p.Column {
			continue // it was cut with the column before
		}
		value := rest
		switch left := v.Pattern[i+1:]; len(left) {
		case 0:
			rest = ""
		case 1:
			value, ok = strings.CutSuffix(rest, left[0].Text)
			rest = ""
		default:
			value, rest, ok = strings.Cut(rest, left[0].Text)
		}
		if escaped && ok {
			value, ok = unescaped(value)
		}
		if before, twice := values[p.Text]; twice && before != value {
			return nil, false
		}
		values[p.Text] = value
	}
	return values, ok && rest == ""
}

// unescaped undoes appendEscaped.
func unescaped(text string) (string, bool) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "%")
		b.WriteString(before)
		if !found {
			return b.String(), true
		}
		if len(rest) < 2 {
			return "", false
		}
		c, err := strconv.ParseUint(rest[:2], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		text = rest[2:]
	}
}
