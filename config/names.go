package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// The checks of this file give "" for a name that will do, and otherwise the
// end of a sentence that starts with the name: what is wrong and what to do.

const (
	maxPipeline   = 40
	maxIdentifier = 63 // NAMEDATALEN - 1: Postgres cuts longer names off
	maxStream     = 200
)

func checkPipeline(name string) string {
	for _, c := range name {
		if !isLetter(c) && !strings.ContainsRune("_.-", c) {
			return "holds a character other than letters, digits, `_`, `.` and `-`; write one such as `shop`"
		}
	}
	if name == "" || len(name) > maxPipeline {
		return fmt.Sprintf("has %d characters; write 1 to %d", len(name), maxPipeline)
	}
	return ""
}

// checkSlot checks the name of a slot, and of a publication, for which
// Postgres would take more: one rule, and no quoting anywhere.
func checkSlot(name string) string {
	if identifier(name) != name {
		return "holds a character other than a-z, 0-9 and `_`; write one such as `walrill_shop`"
	}
	if name == "" || len(name) > maxIdentifier {
		return fmt.Sprintf("has %d characters; write 1 to %d", len(name), maxIdentifier)
	}
	return ""
}

// identifier makes a slot's name of a pipeline's.
func identifier(name string) string {
	return strings.Map(func(c rune) rune {
		if c < unicode.MaxASCII && isLetter(c) {
			return unicode.ToLower(c)
		}
		return '_'
	}, name)
}

func isLetter(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func checkStream(name string) string {
	switch {
	case name == "*":
		return ""
	case name == "":
		return "is empty; name the stream, or write `\"*\"` for a stream of each table"
	case len(name) > maxStream:
		return fmt.Sprintf("has %d bytes; write at most %d", len(name), maxStream)
	case strings.Contains(name, "${"):
		return "holds a variable; variables are replaced in values only, write the name out"
	case strings.ContainsAny(name, "{}"):
		return "holds a brace, which would choose the slot of a Redis Cluster; leave the braces out"
	case strings.Contains(name, "*"):
		return "holds a `*`; write `\"*\"` alone for a stream of each table, or the name without it"
	case strings.HasPrefix(name, "walrill:"):
		return "starts with `walrill:`, which is kept for walrill's own keys; choose another"
	case strings.ContainsFunc(name, notPrinted):
		return "holds a space or a character that does not print; leave it out"
	}
	return ""
}

func notPrinted(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }

// newTable reads a table's name or pattern; seen are the stream's tables so far.
func newTable(written string, at Pos, seen []Table) (Table, string) {
	pattern, msg := tablePattern(written)
	for _, t := range seen {
		if msg == "" && t.Pattern == pattern {
			msg = fmt.Sprintf("the table `%s` is in this stream twice, first at %s; keep one", pattern, lineOf(t.At))
		}
	}
	return Table{Pattern: pattern, At: at}, msg
}

func lineOf(p Pos) string {
	if p.Line == 0 {
		return p.String()
	}
	return "line " + strconv.Itoa(p.Line)
}

// tablePattern gives `schema.table` or `schema.*` for what is written, and
// what is wrong with it, as a whole sentence.
func tablePattern(written string) (pattern, msg string) {
	schema, table, dot := strings.Cut(written, ".")
	if !dot {
		schema, table = "public", written
	}
	name := "the table's name " + show(written)
	switch {
	case strings.Contains(written, "${"):
		msg = "holds a variable; variables are replaced in values only, write the name out"
	case written == "*" || schema == "*":
		msg = "names no schema; write `public.*` for all tables of the schema public"
	case schema == "" || table == "":
		msg = "lacks a part; write `schema.table`, such as `public.orders`"
	case strings.Contains(schema, "*") || strings.Contains(table, "*") && table != "*":
		msg = "has a `*` within a name; write `schema.*` for a whole schema, or the table's full name"
	case strings.Contains(table, "."):
		msg = "has more than one dot; write `schema.table`, names that hold a dot are not available in this version"
	case strings.ContainsAny(written, `"`):
		msg = "holds quotes; write the name as Postgres keeps it, capitals included, without them"
	case badIdentifier(schema) || badIdentifier(table):
		msg = "cannot be a name in Postgres; write 1 to 63 bytes, without line breaks and without spaces at the ends"
	case strings.HasPrefix(schema, "pg_") || schema == "information_schema":
		msg = "is of Postgres's own catalogue, which no publication can hold; remove it"
	case schema == "walrill" || strings.HasPrefix(schema, "walrill_"):
		msg = "is of walrill's own schema, which is never captured; remove it"
	}
	if msg != "" {
		msg = name + " " + msg
	}
	return schema + "." + table, msg
}

// badIdentifier reports what no table or column is called on purpose.
func badIdentifier(name string) bool {
	return name == "" || len(name) > maxIdentifier || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, unicode.IsControl)
}

// checkColumn checks a column of a key or a list; seen are those before it.
func checkColumn(name string, seen []Name, within string) string {
	if badIdentifier(name) {
		return "cannot be a name in Postgres; write 1 to 63 bytes, without line breaks and without spaces at the ends"
	}
	for _, other := range seen {
		if other.Name == name {
			return "is in the " + within + " twice; keep one"
		}
	}
	return ""
}
