package config

import "slices"

// What a view promises about several rows.
const (
	// ConsistencyTransaction is that the view is at every moment some committed state of the source.
	ConsistencyTransaction = "transaction"
	// ConsistencyKey is that each row is, and goes through its states in order; two rows of one transaction may be seen apart.
	ConsistencyKey = "key"
)

const (
	defaultWorkers = 4
	maxWorkers     = 64
)

// consistency gives each view the consistency that it has: its own, or that of all views. Whole transactions promise more than key
// by key, so a view that cannot be kept otherwise is kept in those.
func (r *reader) consistency(path string, all string, workers Pos) {
	v := &r.cfg.Views
	asked := all == ConsistencyKey
	for i := range v.List {
		w := &v.List[i]
		why := w.wholeOnly(v.List)
		switch {
		case w.Consistency == ConsistencyKey && why != "":
			w.Consistency, w.Whole, asked = ConsistencyTransaction, why, true
		case w.Consistency == ConsistencyKey:
			asked = true
		case w.Consistency == "" && all == ConsistencyKey && why == "":
			w.Consistency = ConsistencyKey
		case w.Consistency == "":
			w.Consistency = ConsistencyTransaction
		}
	}
	switch {
	case v.Workers == 0:
		v.Workers = defaultWorkers
	case !asked:
		r.fail(workers, join(path, "workers"), "no view has `consistency: key`, and others are kept by one process at a time; remove it, or write `consistency: key` beside it")
	}
}

// wholeOnly says why a view must be kept in whole transactions; "" when it need not.
func (v *View) wholeOnly(all []View) string {
	switch {
	case v.Document != nil:
		return "documents are written in whole transactions"
	case v.Emit.Stream != "":
		return "the events of a view have IDs that ascend with the transactions of the source"
	case v.Query != "":
		return "a row of a query is made of several rows, and two workers that each see one of them change would both miss the other's"
	case v.Fold.Events != nil:
		return "folds need whole transactions in this version"
	case slices.ContainsFunc(all, func(o View) bool { return o.From == v.Name }):
		return "documents are made of its rows, in whole transactions"
	}
	return ""
}
