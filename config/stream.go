package config

import (
	"slices"
	"strconv"
	"strings"
)

// Stream is a named stream and the tables whose events it holds.
type Stream struct {
	// Name is the stream's, or `*`, which stands for a stream of each table.
	Name string
	// Partitions is how many Redis keys the stream, or each of the streams of
	// `*`, is spread over: 1 to 1024, default 1.
	Partitions int
	// Park sets a change aside that a rule fails on, with all later ones of its key; else the pipeline stops.
	Park bool
	// Tables is at least one unless there are Messages or Aggregates, in the order written, patterns distinct.
	Tables     []Table
	Aggregates []Aggregate // in the order written
	// Messages are the logical messages that it takes; a stream with some, or with Aggregates, needs no tables.
	Messages Messages
	// Compatibility is what new versions of the data must keep of those before. Default backward.
	Compatibility Compatibility
	About         About
	At            Pos
}

// Compatibility is what a new version of an event's data must keep of the one before.
type Compatibility string

const (
	CompatibilityBackward Compatibility = "backward" // consumers of the earlier version go on
	CompatibilityFull     Compatibility = "full"     // and those of the new one can read earlier entries
	CompatibilityNone     Compatibility = "none"
)

// Table is a table of a stream, or all tables of a schema.
type Table struct {
	// Pattern is `schema.table` or `schema.*`, names as Postgres keeps them.
	// A stream may have both for one table; then its own entry counts.
	Pattern string
	// Key is the columns of the ordering key; nil is the replica identity.
	Key []string
	// KeyExpr makes the key instead of Key, when it is not nil.
	KeyExpr *Expr
	KeyAt   Pos // where the file says Key
	Columns Columns
	// Masks are in the order written, columns distinct.
	Masks   []Mask
	Encrypt *Encrypt // nil when nothing is
	// NumbersAsText writes bigint and numeric columns as strings.
	NumbersAsText bool
	// Events are the rules; without any, a change is an event.
	Events []Rule
	About  About
	Outbox *Outbox // instead of Key, Columns, Masks, NumbersAsText and Events; nil unless the table is an outbox
	At     Pos
}

// Hides reports whether any stream masks or encrypts a column of a table, given as schema.table.
func (c *Config) Hides(table, column string) bool {
	schema, _, _ := strings.Cut(table, ".")
	for _, s := range c.Streams {
		for _, t := range s.AllTables() {
			if t.Pattern != table && t.Pattern != schema+".*" {
				continue
			}
			named := func(n Name) bool { return n.Name == column }
			if slices.ContainsFunc(t.Masks, func(m Mask) bool { return named(m.Column) }) || t.Encrypt != nil && slices.ContainsFunc(t.Encrypt.Columns, named) {
				return true
			}
		}
	}
	return false
}

// Named are the tables that the stream names one by one: its tables, and the roots and children of its aggregates.
func (s Stream) Named() []Table {
	return slices.DeleteFunc(s.AllTables(), func(t Table) bool { return strings.HasSuffix(t.Pattern, ".*") })
}

// AllTables are the stream's tables and patterns, and the roots and children of its aggregates.
func (s Stream) AllTables() []Table {
	list := slices.Clone(s.Tables)
	for _, a := range s.Aggregates {
		list = append(list, a.Root)
		for _, c := range a.Children {
			list = append(list, c.Table)
		}
	}
	return list
}

// keys names the stream's Redis keys as package event does.
func (s Stream) keys() []string {
	if s.Partitions == 1 {
		return []string{s.Name}
	}
	keys := make([]string, s.Partitions)
	for i := range keys {
		keys[i] = s.Name + ":" + strconv.Itoa(i)
	}
	return keys
}

// collisions reports streams that would write to one Redis key. Those of `*`
// are not among them: they get their names when their tables are met.
func (r *reader) collisions() {
	taken := map[string]Stream{}
	for _, s := range r.cfg.Streams {
		if s.Name != "*" {
			r.claim(taken, s)
		}
	}
}

// claim takes a stream's keys, unless one of them is another's.
func (r *reader) claim(taken map[string]Stream, s Stream) {
	for _, key := range s.keys() {
		if other, ok := taken[key]; ok {
			r.fail(s.At, join("streams", s.Name), "the stream writes to the Redis key %s, as does the stream %s at %s; rename one of them",
				show(key), show(other.Name), lineOf(other.At))
			return
		}
	}
	for _, key := range s.keys() {
		taken[key] = s
	}
}
