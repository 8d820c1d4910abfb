package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Pos is a place in a file. A flag's place is its name in File, Line 0.
type Pos struct {
	File   string
	Line   int // from 1
	Column int // from 1, in characters
}

// String prints the place as file:line:column.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	s := strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
	if p.File != "" {
		s = p.File + ":" + s
	}
	return s
}

// Error is one thing wrong with a configuration.
type Error struct {
	Pos
	// Path is the field as written down the file: streams.orders.partitions.
	// Empty when the error is not about one field.
	Path string
	// Msg says what is wrong and how to mend it, in one line. It holds no
	// secret: neither what a variable expanded to nor a connection string.
	Msg string
}

// Error prints `file:line:column: path: message`.
func (e Error) Error() string {
	parts := []string{e.Pos.String(), e.Path, e.Msg}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// Errors is everything wrong with a configuration, in the order of the file
// and never empty.
type Errors []Error

// Error prints the errors one a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single errors to errors.As.
func (es Errors) Unwrap() []error {
	list := make([]error, len(es))
	for i, e := range es {
		list[i] = e
	}
	return list
}

// fail notes an error. The format's arguments are quoted by whoever passes
// them: show for text of the file, nothing else of the file goes in.
func (r *reader) fail(at Pos, path, format string, args ...any) {
	r.errs = append(r.errs, Error{Pos: at, Path: path, Msg: fmt.Sprintf(format, args...)})
}

// finish gives the configuration, or all errors in the order of the file.
func (r *reader) finish() (*Config, error) {
	if len(r.errs) == 0 {
		return r.cfg, nil
	}
	slices.SortStableFunc(r.errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return nil, r.errs
}

// show quotes text of the file for an error: one line, of bounded length,
// without a password that was written in the wrong place.
func show(text string) string {
	const most = 60
	if text == "" {
		return `""`
	}
	if schemePattern.MatchString(text) {
		text = NewURL(text).String()
	}
	text = Redact(text)
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	if quoted := strconv.Quote(text); strings.Contains(text, "`") || quoted != `"`+text+`"` {
		return quoted
	}
	return "`" + text + "`"
}
