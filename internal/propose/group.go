package propose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
)

// family is a stream: a table and those whose rows are parts of its rows.
type family struct {
	root  *Table
	parts []part
	note  string // why the root is not a part of something else, or empty
}

// part is a table with the root's key.
type part struct {
	table *Table
	key   []string // the part's columns that hold the root's key
	why   string
}

// left is a table that is not captured.
type left struct {
	table *Table
	why   string
	fix   string // a statement that mends it, or empty: then it is left out on purpose
}

// link is a foreign key by which a table may be part of another.
type link struct {
	parent *Table
	key    *ForeignKey
	byName bool
}

// grouping is the whole of a catalogue, sorted.
type grouping struct {
	families []family
	left     []left
}

// group sorts the tables: which are captured, and which of them share a stream.
func group(tables []Table) grouping {
	var g grouping
	captured := map[string]*Table{}
	var order []*Table
	for i := range tables {
		t := &tables[i]
		if why, fix := unfit(t); why != "" {
			g.left = append(g.left, left{t, why, fix})
			continue
		}
		captured[t.String()] = t
		order = append(order, t)
	}
	links := map[*Table][]link{}
	parents := map[*Table]bool{} // of any link
	for _, t := range order {
		links[t] = findLinks(t, captured)
		for _, l := range links[t] {
			parents[l.parent] = true
		}
	}
	chosen := map[*Table]link{}
	notes := map[*Table]string{}
	for _, t := range order {
		l, note := choose(t, links, parents[t])
		if l.parent != nil {
			chosen[t] = l
		}
		notes[t] = note
	}
	g.families = families(order, chosen, notes)
	return g
}

// unfit says why a table is not captured, and the statement after which it can be.
func unfit(t *Table) (why, fix string) {
	switch {
	case t.PartitionOf != "":
		return "a partition: its changes are published as " + t.PartitionOf + "'s", ""
	case t.Kind == 'f':
		return "a foreign table: its changes are not in this database's WAL", ""
	case t.Unlogged:
		return "unlogged: its changes are not in the WAL", ""
	case t.Extension != "":
		return "part of the extension " + t.Extension, ""
	case slices.Contains(migrationTables, t.Name) || t.Schema == "sqitch":
		return "a migration tool's own", ""
	case badName(t.Schema) || badName(t.Name) || strings.ContainsAny(t.Schema+t.Name, ".*\"") || strings.Contains(t.Schema+t.Name, "${"):
		return "its name cannot be written in the configuration: it has a dot, a star, a quote or a space at an end", ""
	case !t.hasIdentity():
		return "it has no replica identity: Postgres could not say which row an update or delete was about", identityFix(t)
	}
	return "", ""
}

// identityFix gives a table the best replica identity that it can have as it is.
func identityFix(t *Table) string {
	alter := "ALTER TABLE " + sqlTable(t) + " "
	switch {
	case t.Identity != change.IdentityDefault && len(t.PrimaryKey) > 0:
		return alter + "REPLICA IDENTITY DEFAULT;"
	case len(t.Candidates) > 0:
		return alter + "REPLICA IDENTITY USING INDEX " + `"` + strings.ReplaceAll(t.Candidates[0], `"`, `""`) + `"` + ";"
	}
	return alter + "REPLICA IDENTITY FULL;"
}

// findLinks finds the foreign keys that may make t a part of another table: never null, to the
// columns that order the other's events, and either deleted with it or named after it.
func findLinks(t *Table, captured map[string]*Table) []link {
	var links []link
	for i := range t.ForeignKeys {
		f := &t.ForeignKeys[i]
		p := captured[f.Table]
		if p == nil || p == t || !t.notNull(f.Columns) || slices.ContainsFunc(f.Columns, badName) {
			continue
		}
		byName := partByName(t.Name, p.Name)
		if byName || f.Cascade && !isTenants(p.Name) {
			links = append(links, link{p, f, byName})
		}
	}
	return links
}

// choose is the table that t is part of, or none and perhaps a note why.
func choose(t *Table, links map[*Table][]link, hasParts bool) (link, string) {
	var named, cascading []link
	for _, l := range links[t] {
		if l.byName {
			named = append(named, l)
		} else if !isAbove(l.parent, t, links) {
			cascading = append(cascading, l)
		}
	}
	if len(named) > 0 {
		return slices.MaxFunc(named, func(a, b link) int { return len(words(a.parent.Name)) - len(words(b.parent.Name)) }), ""
	}
	// A table that is deleted with another and has parts itself stands for itself.
	if hasParts || len(cascading) == 0 {
		return link{}, ""
	}
	for _, l := range cascading[1:] {
		if l.parent != cascading[0].parent {
			return link{}, fmt.Sprintf("Belongs to %s as much as to %s, so it has a stream of its own.", cascading[0].parent, l.parent)
		}
	}
	return cascading[0], ""
}

// isAbove reports whether another link of t leads to a table that is part of p: a comment on
// a user's post is part of the post.
func isAbove(p, t *Table, links map[*Table][]link) bool {
	for _, l := range links[t] {
		for _, up := range links[l.parent] {
			if l.parent != p && up.parent == p {
				return true
			}
		}
	}
	return false
}

// families follows the links to their roots, from the top down. A part that does not hold the root's key
// has a stream of its own, and may be the root of others.
func families(order []*Table, chosen map[*Table]link, notes map[*Table]string) []family {
	depth := map[*Table]int{}
	for _, t := range order {
		for l, ok := chosen[t]; ok; l, ok = chosen[l.parent] {
			depth[t]++
		}
	}
	parts := map[*Table][]part{}
	for _, t := range slices.SortedStableFunc(slices.Values(order), func(a, b *Table) int { return depth[a] - depth[b] }) {
		l, isPart := chosen[t]
		if !isPart {
			continue
		}
		if root, key := climb(t, chosen); key != nil {
			parts[root] = append(parts[root], part{t, key, why(l)})
		} else {
			delete(chosen, t)
			notes[t] = fmt.Sprintf("Part of %s, but without a column that holds the key of %s; so it has a stream of its own.", l.parent, root)
		}
	}
	var all []family
	for _, t := range order {
		if _, isPart := chosen[t]; !isPart {
			all = append(all, family{root: t, parts: parts[t], note: notes[t]})
		}
	}
	return all
}

func why(l link) string {
	if l.byName {
		return "named after " + l.parent.Name
	}
	return "deleted with its row of " + l.parent.Name
}

// climb goes from a table to the one that it is, in the end, a part of, and finds the table's columns
// that hold that one's key: nil when it is a root itself or does not hold it.
func climb(t *Table, chosen map[*Table]link) (root *Table, key []string) {
	var way []*ForeignKey
	root = t
	for l, ok := chosen[root]; ok; l, ok = chosen[root] {
		way = append(way, l.key)
		root = l.parent
	}
	if root == t {
		return t, nil
	}
	key = slices.Clone(root.orderingKey())
	for _, f := range slices.Backward(way) {
		for i, name := range key {
			at := slices.Index(f.RefColumns, name)
			if at < 0 {
				return root, nil
			}
			key[i] = f.Columns[at]
		}
	}
	return root, key
}

// orderingKey is the key that events have when the configuration names none, as package transform chooses it.
func (t *Table) orderingKey() []string {
	var identity []string
	for _, c := range t.Columns {
		if c.Identity {
			identity = append(identity, c.Name)
		}
	}
	same := slices.Equal(slices.Sorted(slices.Values(identity)), slices.Sorted(slices.Values(t.PrimaryKey)))
	if len(t.PrimaryKey) > 0 && (t.Identity == change.IdentityFull || same) {
		return t.PrimaryKey
	}
	return identity
}
