package transform

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Mapping says which tables go to which streams. It is what the configuration
// says, in the file's order, and events are made in that order.
type Mapping struct {
	Streams []StreamMapping
	// Envelope makes the events that an envelope of before and after needs: KeyData is set,
	// and Old is all that Postgres sent of the row before instead of what differs.
	Envelope bool
	// Parked is the Redis key of the stream for changes that a rule failed on.
	Parked string
}

// StreamMapping is one stream. The name "*" stands for a stream per table,
// named after the table.
type StreamMapping struct {
	Name       string
	Partitions int // 0 is 1
	Tables     []TableMapping
	Aggregates []AggregateMapping
	Messages   Messages // without a prefix the stream takes none
	// Park sets a change aside on which a rule fails, with all later ones of its key, instead of stopping.
	Park bool
	// Compatibility is what new versions of data must keep; none when empty.
	Compatibility event.Compatibility
	Where         string // file:line for errors, optional
}

// TableMapping is one table, public.orders, or every table of a schema, public.*.
type TableMapping struct {
	Pattern string
	Key     []string // columns; empty is the default key (see keyColumns)
	KeyExpr *Expr    // instead of Key: text or a whole number, made of `row`
	Columns Columns
	// NumbersAsText writes bigint and numeric columns as JSON strings.
	NumbersAsText bool
	Masks         []Mask
	Encrypt       *Encrypt
	Rules         []Rule  // empty is an event a change
	Outbox        *Outbox // instead of Rules, and of all that shapes rows: the table's rows are events already
	Where         string  // file:line for errors, optional
	KeyWhere      string  // file:line of Key, optional
}

// Columns chooses the columns of a row that is published whole.
type Columns struct {
	Include []Name // all when empty
	Exclude []Name
	Rename  []Rename
}

// all reports whether every column is published under its own name.
func (c *Columns) all() bool { return len(c.Include)+len(c.Exclude)+len(c.Rename) == 0 }

// Name is a name in the mapping and its place.
type Name struct{ Name, Where string }

// Rename gives a column another name in events.
type Rename struct {
	From Name
	To   string
}

// eachTable is the name of the stream that stands for a stream per table.
const eachTable = "*"

// exact reports whether the pattern names one table.
func (t *TableMapping) exact() bool { return !strings.HasSuffix(t.Pattern, ".*") }

// matches reports whether the pattern, not an exact name, takes the table.
func (t *TableMapping) matches(rel *change.Relation) bool {
	schema, ok := strings.CutSuffix(t.Pattern, ".*")
	return ok && schema == rel.Namespace
}

// find returns what the stream says of the table: an exact name before a
// pattern, and the first pattern of several; nil when it does not take it.
func (s *StreamMapping) find(rel *change.Relation) *TableMapping {
	name := rel.String()
	var pattern *TableMapping
	for i := range s.Tables {
		t := &s.Tables[i]
		if t.Pattern == name {
			return t
		}
		if pattern == nil && t.matches(rel) {
			pattern = t
		}
	}
	return pattern
}

// Taking is an entry of the mapping that takes a table.
type Taking struct {
	Stream *StreamMapping
	Table  *TableMapping
}

// Takings are the entries that take a table, in the order in which its events come.
func (m *Mapping) Takings(rel *change.Relation) []Taking {
	var list []Taking
	for i := range m.Streams {
		s := &m.Streams[i]
		if t := m.takes(s, rel); t != nil {
			list = append(list, Taking{s, t})
		}
	}
	return list
}

// Takes reports whether a stream or an aggregate takes the table.
func (m *Mapping) Takes(rel *change.Relation) bool {
	return len(m.Takings(rel)) > 0 || slices.ContainsFunc(m.Streams, func(s StreamMapping) bool { return s.aggregated(rel) != nil })
}

// names reports whether the stream names the table exactly.
func (s *StreamMapping) names(rel *change.Relation) bool {
	t := s.find(rel)
	return t != nil && t.exact()
}

// ownStream is the name of the stream that "*" gives a table.
func ownStream(rel *change.Relation) string {
	if rel.Namespace == "public" {
		return rel.Name
	}
	return rel.String()
}

// validate refuses what can be seen to be wrong without any table.
func (m *Mapping) validate() error {
	seen := map[string]bool{}
	for i := range m.Streams {
		s := &m.Streams[i]
		switch {
		case s.Name == "":
			return &Error{Where: s.Where, Problem: "a stream has no name", Fix: "name it"}
		case seen[s.Name]:
			return &Error{Where: s.Where, Stream: s.Name, Problem: "the stream is there twice", Fix: "put its tables under one entry"}
		case s.Partitions < 0:
			return &Error{Where: s.Where, Stream: s.Name, Problem: fmt.Sprintf("%d partitions", s.Partitions), Fix: "give 1 or more"}
		case s.Messages.Prefix != "" && s.Name == eachTable:
			return &Error{Where: s.Messages.Where, Stream: s.Name, Problem: "messages have no table to name a stream after", Fix: "give them a stream with a name"}
		}
		seen[s.Name] = true
		if err := errors.Join(s.validateTables(), s.validateVersions()); err != nil {
			return err
		}
		for i := range s.Aggregates {
			if err := s.Aggregates[i].validate(s); err != nil {
				return err
			}
		}
	}
	_, err := m.Upcasts()
	return err
}

func (t *TableMapping) validateMasks() error {
	for i := range t.Masks {
		if problem := t.Masks[i].validate(); problem != "" {
			return &Error{Where: t.Masks[i].Column.Where, Table: t.Pattern, Columns: []string{t.Masks[i].Column.Name}, Problem: problem}
		}
	}
	return nil
}

// validateVersions refuses a version that would mean several things: it is of one type of one table.
func (s *StreamMapping) validateVersions() error {
	type maker struct {
		table *TableMapping
		rule  *Rule
	}
	first := map[string]maker{}
	var errs []error
	for i := range s.Tables {
		t := &s.Tables[i]
		for j := range t.Rules {
			r := &t.Rules[j]
			e := &Error{Where: r.Where, Table: t.Pattern}
			if _, seen := first[r.Type]; !seen {
				first[r.Type] = maker{t, r}
			}
			switch other := first[r.Type]; {
			case r.Version > 0 && !t.exact():
				e.Problem, e.Fix = "version is given to events of many tables", "name the table, or leave version out"
			case other.table != t && max(r.Version, other.rule.Version) > 0:
				e.Problem = fmt.Sprintf("%s has a version, and events of %s are called so too", r.Type, other.table.Pattern)
				e.Fix = "give one of them another type, or leave version out of both"
			case r.Data != nil && other.rule.Data != nil && r.Version != other.rule.Version:
				e.Problem, e.Fix = fmt.Sprintf("%s has two versions", r.Type), "give its rules the same"
			default:
				continue
			}
			errs = append(errs, e)
		}
	}
	return errors.Join(errs...)
}

func (s *StreamMapping) validateTables() error {
	seen := map[string]bool{}
	var syntax []error
	for i := range s.Tables {
		t := &s.Tables[i]
		schema, table, ok := strings.Cut(t.Pattern, ".")
		e := &Error{Where: t.Where, Stream: s.Name, Table: t.Pattern}
		switch {
		case !ok || schema == "" || table == "":
			e.Problem = "not a table's full name"
			e.Fix = "write schema and table, such as public.orders, or public.* for every table of a schema"
			return e
		case strings.Contains(schema, "*") || table != "*" && strings.Contains(table, "*"):
			e.Problem = "a * inside a name"
			e.Fix = fmt.Sprintf("name the table, or take every table of a schema with %s.*", strings.Trim(schema, "*"))
			if strings.Contains(schema, "*") {
				e.Fix = "name the schema: public.*"
			}
			return e
		case seen[t.Pattern]:
			e.Problem, e.Fix = "the table is in this stream twice", "keep one of the two"
			return e
		}
		seen[t.Pattern] = true
		if err := t.validateMasks(); err != nil {
			return err
		}
		for _, e := range t.expressions() {
			syntax = append(syntax, e.syntax())
		}
	}
	return errors.Join(syntax...)
}
