package harness

// foldedTable is a table as the entries of one stream make it: rows by key.
type foldedTable map[string]map[string]any

// tableOf is a table in a stream.
type tableOf struct{ stream, table string }

// folding is a table in the middle of being folded.
type folding struct {
	rows    foldedTable
	removed map[string]any  // by the last delete
	gone    map[string]bool // keys that the entries said are no more
	wiped   map[int]bool    // partitions that a truncate emptied
}

// fold applies the entries one by one.
func (v *verifier) fold(entries []streamEntry) map[tableOf]foldedTable {
	all := map[tableOf]*folding{}
	for _, e := range entries {
		at := tableOf{e.stream, e.table}
		if all[at] == nil {
			all[at] = &folding{rows: foldedTable{}, gone: map[string]bool{}, wiped: map[int]bool{}}
		}
		v.apply(all[at], e)
	}
	state := map[tableOf]foldedTable{}
	for at, f := range all {
		state[at] = f.rows
	}
	return state
}

func (v *verifier) apply(f *folding, e streamEntry) {
	before, known := f.rows[e.key]
	v.checkKnown(f, e, known)
	switch e.op {
	case OpInsert:
		f.rows[e.key] = e.onto(f.removed) // of a key that moved, which may have values that were not sent
	case OpUpdate:
		f.rows[e.key] = e.onto(before)
	case OpRead:
		f.rows[e.key] = e.data
	case OpDelete:
		f.removed = before
		f.gone[e.key] = true
		delete(f.rows, e.key)
		return
	case OpTruncate:
		for key := range f.rows {
			if v.streams[e.stream].partition(key) == e.partition {
				delete(f.rows, key)
			}
		}
		f.wiped[e.partition] = true
		return
	}
	delete(f.gone, e.key)
}

// checkKnown compares what an entry presumes of the row before it with what the entries before it said. Of a table
// that is being backfilled they need not have said anything yet.
func (v *verifier) checkKnown(f *folding, e streamEntry, known bool) {
	if v.pipeline.Gaps {
		return
	}
	absent := !known && (!v.pipeline.Backfilled || f.gone[e.key] || f.wiped[e.partition])
	switch e.op {
	case OpTruncate:
		return
	case OpInsert:
		if known {
			v.errorf("entry %v of %s: op c of %s %q, which is there", e.at, e.stream, e.table, e.key)
		}
		return
	case OpRead:
		for name, was := range f.rows[e.key] {
			if d := differentValue(map[string]any{name: e.data[name]}, map[string]any{name: was}); d != "" {
				v.errorf("entry %v of %s: %s %q was read stale: %s", e.at, e.stream, e.table, e.key, d)
			}
		}
	}
	if absent {
		v.errorf("entry %v of %s: op %s of %s %q, which is not there", e.at, e.stream, e.op, e.table, e.key)
	}
}

// onto is the row after the entry: its data, and what it calls unchanged from
// the row before, as far as that is known.
func (e *streamEntry) onto(before map[string]any) map[string]any {
	if len(e.unchanged) == 0 {
		return e.data
	}
	row := map[string]any{}
	for name, value := range e.data {
		row[name] = value
	}
	for _, name := range e.unchanged {
		if was, ok := before[name]; ok {
			row[name] = was
		}
	}
	return row
}

// withoutReads takes the backfilled rows out: Postgres has no transaction that changed them.
func (v *verifier) withoutReads(entries []streamEntry) []streamEntry {
	if !v.pipeline.Backfilled {
		return entries
	}
	var rest []streamEntry
	for _, e := range entries {
		if e.op != OpRead {
			rest = append(rest, e)
		}
	}
	return rest
}
