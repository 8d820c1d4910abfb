package config

import "slices"

// Fold is a view whose rows are made of events, one after the other.
type Fold struct {
	// Table is the columns, in the order written, names distinct.
	Table []FoldColumn
	// Events are at least one in a fold, in the order written, types distinct.
	Events []FoldEvent
	// Streams are those that are read; nil is all that carry the events.
	Streams []string
	// Now leaves out what was in the streams before the view; else it begins with their first entries.
	Now bool
	// Unmatched takes an UPDATE that finds no row for a row that needs none; else its key is parked.
	Unmatched bool
}

// FoldColumn is a column of a fold's table.
type FoldColumn struct{ Name, Type string }

// FoldEvent is the SQL for events of a type.
type FoldEvent struct {
	Type, SQL string
	At        Pos
}

func (r *reader) foldTable(path string, n *node) []FoldColumn {
	if !r.isMapping(path, n, "columns with their types, such as `balance: numeric`") {
		return nil
	}
	if len(n.entries) == 0 && n.kind != kindBad {
		r.fail(n.at, path, "no column is given; write columns with their types, such as `{account_id: bigint, balance: numeric}`")
	}
	var list []FoldColumn
	for _, e := range n.entries {
		if msg := checkColumn(e.name, nil, ""); msg != "" {
			r.fail(e.at, join(path, e.name), "the column's name %s", msg)
		}
		c := FoldColumn{Name: e.name}
		r.sql(&c.Type, "a type of Postgres, such as numeric")(join(path, e.name), e.value)
		list = append(list, c)
	}
	return list
}

func (r *reader) foldEvents(path string, n *node) []FoldEvent {
	const want = "SQL, such as UPDATE balance SET balance = balance + :data.amount WHERE account_id = :key"
	if !r.isMapping(path, n, "types of events with SQL for each") {
		return nil
	}
	if len(n.entries) == 0 && n.kind != kindBad {
		r.fail(n.at, path, "no type of event is given; write types of events with SQL for each")
	}
	list := []FoldEvent{}
	for _, e := range n.entries {
		f := FoldEvent{Type: e.name, At: e.at}
		r.sql(&f.SQL, want)(join(path, e.name), e.value)
		list = append(list, f)
	}
	return list
}

// checkFold says what a fold needs and what does not go with it.
func (r *reader) checkFold(path string, e entry, v *View, columns bool) {
	switch {
	case v.Key == nil:
		r.fail(e.at, path, "the field `key` is missing; write `key: account_id`, the columns of the table that tell its rows apart")
	case v.Fold.Table == nil:
		r.fail(e.at, path, "the field `table` is missing; write `table: {account_id: bigint, balance: numeric}`, the columns with their types")
	case columns || v.Affects != nil:
		r.fail(e.at, path, "`columns` is for mirrors and `affects` for queries; a fold has its columns in `table`")
	}
	for _, k := range v.Key {
		if v.Fold.Table != nil && !slices.ContainsFunc(v.Fold.Table, func(c FoldColumn) bool { return c.Name == k }) {
			r.fail(e.at, path, "the key %s is not a column of `table`", show(k))
		}
	}
}

// onlyFolds refuses what only folds have in a view that is none.
func (r *reader) onlyFolds(path string, e entry) bool {
	for _, f := range e.value.entries {
		if slices.Contains([]string{"table", "fold", "streams", "start", "unmatched"}, f.name) {
			r.fail(f.at, join(path, f.name), "`%s` is for folds; remove it", f.name)
			return true
		}
	}
	return false
}
