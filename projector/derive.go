package projector

import (
	"fmt"
	"slices"
	"strings"
)

// derive finds, for a table of a query, the SELECT over its changed rows that
// gives the keys whose rows of the result may have changed.
//
// A row of the result that differs before and after a change has a chain of
// rows that leads from a changed row to the key, in which all but the first
// are as they are now: the chain begins at the changed row nearest to the key. So
// it is enough to join the old and the new image of each changed row with the
// tables as they are now.
func (s *shape) derive(table string, key []string) (string, error) {
	if s.refused != "" {
		return "", fmt.Errorf("%s", s.refused)
	}
	if s.nested[table] {
		return "", fmt.Errorf("a subquery reads it")
	}
	root, columns, err := s.keyColumns(key)
	if err != nil {
		return "", err
	}
	var selects []string
	for _, src := range s.sources {
		if src.table != table {
			continue
		}
		path, ok := s.path(src.alias, root)
		if !ok {
			return "", fmt.Errorf("no equality of columns leads from %s to %s", src.alias, root)
		}
		selects = append(selects, s.selectKeys(src, root, columns, path))
	}
	if len(selects) == 0 {
		return "", fmt.Errorf("it is not in the FROM clause")
	}
	return strings.Join(selects, " UNION "), nil
}

// keyColumns finds the one table that all columns of the key are of.
func (s *shape) keyColumns(key []string) (root string, columns []string, err error) {
	for i, name := range key {
		ref, ok := s.columns[name]
		if !ok {
			return "", nil, fmt.Errorf("the key %s is not a column of one table as it is", name)
		}
		if ref.alias == "" && len(s.sources) == 1 {
			ref.alias = s.sources[0].alias
		}
		if i > 0 && ref.alias != root {
			return "", nil, fmt.Errorf("the key's columns are of several tables")
		}
		root, columns = ref.alias, append(columns, ref.column)
	}
	return root, columns, nil
}

// path is the shortest chain of conditions from one table to another.
func (s *shape) path(from, to string) ([]condition, bool) {
	type step struct {
		alias string
		path  []condition
	}
	seen := map[string]bool{from: true}
	for queue := []step{{alias: from}}; len(queue) > 0; queue = queue[1:] {
		now := queue[0]
		if now.alias == to {
			return now.path, true
		}
		for _, e := range s.edges {
			if e.from.alias == now.alias && !seen[e.to.alias] {
				seen[e.to.alias] = true
				queue = append(queue, step{e.to.alias, append(slices.Clone(now.path), e)})
			}
		}
	}
	return nil, false
}

// selectKeys writes the SELECT for a path. When the last condition equates the key with a column
// of the table before it, that column does as well.
func (s *shape) selectKeys(src source, root string, columns []string, path []condition) string {
	if n := len(path); n > 0 && len(columns) == 1 && path[n-1].bare && path[n-1].to.column == columns[0] {
		last := path[n-1]
		root, columns, path = last.from.alias, []string{last.from.column}, path[:n-1]
	}
	tables := map[string]string{}
	for _, x := range s.sources {
		tables[x.alias] = x.table
	}
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		} else {
			b.WriteString("SELECT ")
		}
		b.WriteString(quoteIdent(root) + "." + quoteIdent(c))
	}
	b.WriteString(" FROM changed " + quoteIdent(src.alias))
	for _, e := range path {
		fmt.Fprintf(&b, " JOIN %s %s ON %s", quoteIdent(tables[e.to.alias]), quoteIdent(e.to.alias), e.text)
	}
	return b.String()
}

// joined lists the columns of a table that are compared with those of others, and its part of the key:
// without an index on them, each recomputation would read the whole mirror.
func (s *shape) joined(table string, key []string) []string {
	var columns []string
	add := func(ref columnRef) {
		for _, src := range s.sources {
			if src.alias == ref.alias && src.table == table && !slices.Contains(columns, ref.column) {
				columns = append(columns, ref.column)
			}
		}
	}
	for _, e := range s.edges {
		add(e.from)
		add(e.to)
	}
	if root, names, err := s.keyColumns(key); err == nil {
		add(columnRef{root, names[0]})
	}
	return columns
}
