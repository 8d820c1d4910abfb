package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// text reads a value's text with its variables replaced; want says what it
// should be. A number or a truth value in the file is no text: `slot: 8` is
// a mistake more often than not. What a variable holds has no YAML type.
func (r *reader) text(path string, n *node, want string) (string, bool) {
	if n.kind == kindBad {
		return "", false
	}
	if n.kind == kindNumber || n.kind == kindBool {
		r.fail(n.at, path, "want %s, got %s; put %s in quotes", want, n.kind, show(n.text))
		return "", false
	}
	text, _, ok := r.scalar(path, n, want)
	return text, ok
}

// scalar reads a value that is written as one word, whatever its type.
// untyped is true for text that quotes do not make text: with a variable in it.
func (r *reader) scalar(path string, n *node, want string) (text string, untyped, ok bool) {
	switch n.kind {
	case kindBad:
		return "", false, false
	case kindNothing:
		r.fail(n.at, path, "want %s, got nothing; write a value, or remove the field", want)
		return "", false, false
	case kindList, kindMapping:
		r.fail(n.at, path, "want %s, got %s", want, n.kind)
		return "", false, false
	}
	text, untyped, problems := expand(n.text, r.env)
	for _, problem := range problems {
		r.fail(n.at, path, "%s", problem)
	}
	return text, untyped, len(problems) == 0
}

// showValue quotes a value as it is written in the file, never what its
// variables hold.
func showValue(n *node) string { return show(n.text) }

// name reads a name that check accepts; check gives "" or what is wrong.
func (r *reader) name(dst *string, check func(string) string) readFunc {
	return func(path string, n *node) {
		name, ok := r.text(path, n, "text")
		if !ok {
			return
		}
		if msg := check(name); msg != "" {
			r.fail(n.at, path, "the name %s %s", showValue(n), msg)
		}
		*dst = name
	}
}

// choose reads one of several words.
func choose[T ~string](r *reader, path string, n *node, dst *T, words ...T) {
	names := make([]string, len(words))
	for i, word := range words {
		names[i] = string(word)
	}
	want := enumerate(names, "or")
	got, _, ok := r.scalar(path, n, want)
	if !ok {
		return
	}
	for _, word := range words {
		if got == string(word) {
			*dst = word
			return
		}
	}
	meant := ""
	if near := Nearest(n.text, names); near != "" {
		meant = "; did you mean `" + near + "`?"
	}
	r.fail(n.at, path, "want %s, got %s%s", want, showValue(n), meant)
}

// word reads one of several words that the configuration keeps in another form.
func (r *reader) word(path string, n *node, words ...string) (got string) {
	choose(r, path, n, &got, words...)
	return got
}

// integer reads a whole number from low to high, in decimal digits only.
func integer[T int | int64](r *reader, path string, n *node, dst *T, low, high int64) {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	if high == maxEntries {
		want = fmt.Sprintf("a whole number, %d or more", low)
	}
	text, untyped, ok := r.scalar(path, n, want)
	if !ok {
		return
	}
	v, err := strconv.ParseInt(text, 10, 64)
	switch {
	case n.quoted && !untyped && err == nil:
		r.fail(n.at, path, "want %s, got text; remove the quotes", want)
	case err != nil || v < low || v > high || strings.HasPrefix(text, "+"):
		r.fail(n.at, path, "want %s, got %s", want, showValue(n))
	default:
		*dst = T(v)
	}
}

// boolean reads true or false.
func (r *reader) boolean(dst *bool) readFunc {
	return func(path string, n *node) {
		text, untyped, ok := r.scalar(path, n, "true or false")
		if !ok {
			return
		}
		word := text == "true" || text == "false"
		switch {
		case n.quoted && !untyped && word:
			r.fail(n.at, path, "want true or false, got text; remove the quotes")
		case !word:
			r.fail(n.at, path, "want true or false, got %s", showValue(n))
		default:
			*dst = text == "true"
		}
	}
}

// duration reads a length of time of at least low.
func (r *reader) duration(dst *time.Duration, low time.Duration) readFunc {
	const want = "a length of time such as 5s, 90m, 36h or 7d"
	return func(path string, n *node) {
		text, _, ok := r.scalar(path, n, want)
		if !ok {
			return
		}
		v, err := parseDuration(text)
		_, unitless := strconv.ParseFloat(text, 64)
		switch {
		case unitless == nil && text != "0":
			r.fail(n.at, path, "want %s, got %s; add its unit", want, showValue(n))
		case err != nil:
			r.fail(n.at, path, "want %s, got %s", want, showValue(n))
		case v < low && low > 0:
			r.fail(n.at, path, "want a length of time above 0, got %s", showValue(n))
		case v < 0:
			r.fail(n.at, path, "want a length of time of 0 or more, got %s", showValue(n))
		default:
			*dst = v
		}
	}
}

// parseDuration is time.ParseDuration with days of 24 hours in front: 7d, 1d12h, 0.5d.
func parseDuration(s string) (time.Duration, error) {
	daysText, rest, found := strings.Cut(s, "d")
	if !found {
		return time.ParseDuration(s)
	}
	days, err := strconv.ParseFloat(daysText, 64)
	if err != nil {
		return 0, err
	}
	var d time.Duration
	if rest != "" {
		if d, err = time.ParseDuration(rest); err != nil {
			return 0, err
		}
	}
	total := days*float64(24*time.Hour) + float64(d)
	if d < 0 || !(math.Abs(total) < float64(math.MaxInt64)) {
		return 0, strconv.ErrRange
	}
	return time.Duration(days*float64(24*time.Hour)) + d, nil
}
