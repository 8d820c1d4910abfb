package event

import (
	"fmt"
	"slices"
	"strings"
)

// Compatibility is what a new version of a schema must keep of the one before.
type Compatibility string

// The kinds of Compatibility.
const (
	CompatibleNone Compatibility = "none"
	// CompatibleBackward keeps consumers going that know the earlier version.
	CompatibleBackward Compatibility = "backward"
	// CompatibleFull lets consumers that know the new version read the earlier entries too.
	CompatibleFull Compatibility = "full"
)

// Terms are what the mapping says of a schema. They are no part of the catalogue.
type Terms struct {
	Compatibility Compatibility
	Version       int  // that the data must have; 0 leaves it to the catalogue
	Built         bool // by data of a rule; else whole rows, which change with their table
	Declared      bool // by `events` of an outbox or of messages
	// Aggregate schemas are of rows of several tables. Such a version is Least or more: what the tables do to the rows counts on from there.
	Aggregate bool
	Least     int
	Columns   []string // of the table; those of an aggregate's children with the members around them: lines.row.sku
	// Upcasts says what of the steps from earlier versions to this one, which are for readers, does not fit those that are known;
	// nil without steps.
	Upcasts func(s *Schema, known []Schema) error
	Where   string // file:line for errors, may be empty
}

// Difference is a member that breaks readers.
type Difference struct {
	Name          string // with those around it: ship_to.city
	Before, After string // JSON kinds; empty where there is no such member
	ByTable       bool   // the table has changed, and not the mapping
}

// String is the difference as lines that begin with - and +.
func (d Difference) String() string {
	var lines []string
	if d.Before != "" {
		lines = append(lines, "- "+d.Name+": "+d.Before)
	}
	if d.After != "" {
		lines = append(lines, "+ "+d.Name+": "+d.After)
	}
	return strings.Join(lines, "\n")
}

// Breaks compares s with an earlier version and returns what is not as compatible as its terms want.
func (s *Schema) Breaks(before *Schema) []Difference {
	if s.Terms == nil || s.Terms.Compatibility == CompatibleNone {
		return nil
	}
	c := comparison{terms: s.Terms, full: s.Terms.Compatibility == CompatibleFull}
	c.members("", before.Columns, s.Columns)
	return c.found
}

type comparison struct {
	terms *Terms
	full  bool
	found []Difference
}

func (c *comparison) members(prefix string, before, after []SchemaColumn) {
	for i := range before {
		b := &before[i]
		at := slices.IndexFunc(after, func(a SchemaColumn) bool { return a.Name == b.Name })
		if at < 0 {
			c.found = append(c.found, Difference{Name: prefix + b.Name, Before: b.kind(), ByTable: c.dropped(prefix, b)})
			continue
		}
		c.member(prefix, b, &after[at])
	}
	for i := range after {
		a := &after[i]
		if c.full && !a.Optional && !slices.ContainsFunc(before, func(b SchemaColumn) bool { return b.Name == a.Name }) {
			c.found = append(c.found, Difference{Name: prefix + a.Name, After: a.kind(), ByTable: !c.terms.Built})
		}
	}
}

func (c *comparison) member(prefix string, before, after *SchemaColumn) {
	same := before.JSON == after.JSON || !c.full && (before.JSON == "any" || before.JSON == "number" && after.JSON == "integer")
	missing := after.Optional && !before.Optional || c.full && before.Optional && !after.Optional
	if !same || missing {
		c.found = append(c.found, Difference{prefix + before.Name, before.kind(), after.kind(), !c.terms.Built && before.Type != after.Type})
		return
	}
	unknown := c.terms.Aggregate && len(after.Fields) == 0 // as long as a child's table is not there
	if (before.JSON == "object" || before.JSON == "array") && len(before.Fields) > 0 && !unknown {
		c.members(prefix+before.Name+".", before.Fields, after.Fields)
	}
}

// dropped reports whether a row lacks a member because the table does.
func (c *comparison) dropped(prefix string, b *SchemaColumn) bool {
	column := b.Column
	if column == "" {
		column = b.Name
	}
	if c.terms.Aggregate && b.Type == "" { // a child, and no column
		return false
	}
	return !c.terms.Built && !slices.Contains(c.terms.Columns, prefix+column)
}

func (c *SchemaColumn) kind() string {
	if c.Optional {
		return c.JSON + ", not in every event"
	}
	return c.JSON
}

// MayBe reports whether k, a version of the catalogue, is one that s may have: it describes the same, and the mapping asks for no other.
func (s *Schema) MayBe(k *Schema) bool {
	return s.Describes(k) && (s.Terms == nil || (s.Terms.Version == 0 || s.Terms.Version == k.Version) && k.Version >= s.Terms.Least)
}

// Next is the number that s gets when it is new and highest was the last one given.
func (s *Schema) Next(highest int) int {
	if s.Terms == nil {
		return highest + 1
	}
	if s.Terms.Version > 0 {
		return s.Terms.Version
	}
	return max(highest+1, s.Terms.Least)
}

// Judge says whether the catalogue's versions let s become one of them: what of it breaks readers, and an error when the
// mapping asks for what cannot be. known is the catalogue.
func (s *Schema) Judge(known []Schema) ([]Difference, error) {
	if s.Terms.Upcasts != nil {
		if err := s.Terms.Upcasts(s, known); err != nil {
			return nil, err
		}
	}
	var last, taken *Schema
	highest, terms := 0, s.Terms
	for i := range known {
		k := &known[i]
		if !k.SharesNumbers(s) {
			continue
		}
		highest = max(highest, k.Version)
		switch mine := k.Name() == s.Name(); {
		case s.MayBe(k):
			return nil, nil
		case mine && terms.Version == k.Version:
			taken = k
		case mine && k.Table == s.Table && k.Version >= terms.Least && (last == nil || last.Version < k.Version):
			last = k
		}
	}
	switch {
	case taken != nil:
		return nil, s.refused(taken, s.allDifferences(taken), fmt.Sprintf("raise `version` to %d", highest+1))
	case terms.Version > 0 && terms.Version < highest:
		return nil, fmt.Errorf("%sversion %d of %s is below %d, which there is already; raise it to %d", place(terms.Where), terms.Version, s.Name(), highest, highest+1)
	case last == nil || terms.Version > 0:
		return nil, nil
	}
	breaks := s.Breaks(last)
	var ours []Difference
	for _, d := range breaks {
		if !d.ByTable {
			ours = append(ours, d)
		}
	}
	if len(ours) == 0 {
		return breaks, nil
	}
	ways := "set `compatibility: none` for the stream"
	switch {
	case terms.Aggregate:
		ways = fmt.Sprintf("accept it as another version, `version: %d` in the aggregate; or set `compatibility: none` for it", highest+1)
	case terms.Declared:
		ways = fmt.Sprintf("publish it as another version, `version: %d` in `events`, or as another event type; or %s", highest+1, ways)
	case terms.Built:
		ways = fmt.Sprintf("publish it as another version, `version: %d` in the rule, or as another event type; or %s", highest+1, ways)
	}
	return nil, s.refused(last, ours, ways)
}

// allDifferences are those of two schemas that must be the same.
func (s *Schema) allDifferences(k *Schema) []Difference {
	c := comparison{terms: &Terms{Built: true}, full: true}
	c.members("", k.Columns, s.Columns)
	return c.found
}

func (s *Schema) refused(k *Schema, differences []Difference, ways string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%sthe data of %s would break consumers of version %d", place(s.Terms.Where), s.Name(), k.Version)
	for _, d := range differences {
		for line := range strings.Lines(d.String()) {
			b.WriteString("\n    " + strings.TrimSuffix(line, "\n"))
		}
	}
	b.WriteString("\n  fix: " + ways)
	return fmt.Errorf("%s", b.String())
}

func place(where string) string {
	if where == "" {
		return ""
	}
	return where + ": "
}
