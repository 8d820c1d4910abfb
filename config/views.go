package config

import (
	"fmt"
	"slices"
	"time"
)

// Views are the read models of a pipeline and where they live.
type Views struct {
	// Store is the Postgres database of the views, in the forms of Source.URL; zero when all are documents of tables.
	Store URL
	// Documents is the Redis of the views that are documents, in the forms of Sink.URL; zero for that of the streams.
	Documents URL
	// Schema is that of the views' tables. Default public.
	Schema string
	// VerifyEvery is how often the daemon compares the views with the source; 0: never.
	VerifyEvery time.Duration
	// Workers is how many keep the views of ConsistencyKey together, over all processes: 1 to 64, default 4.
	Workers int
	// List is at least one view, in the order written, names distinct.
	List []View
}

// View is one read model: a mirror of a table, a query over mirrors, a fold of events, or documents in Redis made of a table's rows or
// another view's.
type View struct {
	Name string
	// Document is the pattern of the documents' keys; empty for a table in the store.
	Document []KeyPart
	// As is json or hash, for documents.
	As string
	// From is the view whose rows are the documents; empty when Mirror has them.
	From string
	// Mirror is the table, as schema.table, of which the view is a copy; empty for a query.
	Mirror  string
	Columns Columns // of Mirror
	// Key is the columns of a query's result, or of a fold's table, that tell its rows apart.
	Key []string
	// Query is one SELECT over the tables of the streams.
	Query string
	// Affects are SELECTs over `changed` that give the keys to recompute, for the tables for which that is not derived.
	Affects []Affects
	Fold    Fold // without events the view is no fold
	Emit    Emit
	// Consistency is ConsistencyTransaction or ConsistencyKey.
	Consistency string
	// Whole is why the view is kept in whole transactions although ConsistencyKey is written in it; "" when it is not.
	Whole string
	At    Pos
}

// Affects is for one table, by the name that the query has for it.
type Affects struct {
	Table, SQL string
	At         Pos
}

// views reads the store, and every other name as a view.
func (r *reader) views(path string, n *node) {
	v := &r.cfg.Views
	if !r.isMapping(path, n, "`store:` and the names of views") || n.kind == kindBad {
		return
	}
	v.Schema = "public"
	var all string
	var workers Pos
	own := *n
	own.entries = nil
	fields := []field{
		{name: "store", read: func(path string, n *node) { r.store(path, n, v) }},
		{name: "documents", read: r.url(&v.Documents, checkSink)},
		{name: "schema", read: r.name(&v.Schema, checkViewName)},
		{name: "verify", read: func(path string, n *node) {
			r.mapping(path, n, field{"every", r.duration(&v.VerifyEvery, time.Second), "every: 24h"})
		}},
		{name: "consistency", read: func(path string, n *node) { choose(r, path, n, &all, ConsistencyTransaction, ConsistencyKey) }},
		{name: "workers", read: func(path string, n *node) {
			workers = n.owner
			integer(r, path, n, &v.Workers, 1, maxWorkers)
		}},
	}
	for _, e := range n.entries {
		if slices.ContainsFunc(fields, func(f field) bool { return f.name == e.name }) {
			own.entries = append(own.entries, e)
			continue
		}
		if e.value.kind != kindMapping && e.value.kind != kindBad {
			own.entries = append(own.entries, e) // no view: a field that is mistyped
			continue
		}
		if view, ok := r.view(join(path, e.name), e); ok {
			v.List = append(v.List, view)
		}
	}
	r.mapping(path, &own, fields...)
	if len(v.List) == 0 && len(r.errs) == 0 {
		r.fail(n.owner, path, "no view is given; write one such as `orders_copy: {mirror: public.orders}`")
	}
	if len(r.errs) == 0 {
		r.checkViews(path, n)
		r.consistency(path, all, workers)
	}
}

// checkViews says which views need a store, and which other view.
func (r *reader) checkViews(path string, n *node) {
	v := &r.cfg.Views
	for _, w := range v.List {
		where := join(path, w.Name)
		i := slices.IndexFunc(v.List, func(o View) bool { return o.Name == w.From })
		switch {
		case w.From != "" && i < 0:
			var names []string
			for _, o := range v.List {
				if o.Document == nil {
					names = append(names, o.Name)
				}
			}
			r.fail(w.At, where, "`from` names no view in the store: %s%s", show(w.From), meant(w.From, names))
		case w.From != "" && v.List[i].Document != nil:
			r.fail(w.At, where, "`from: %s` is made of documents itself; name a view in the store", w.From)
		case !w.Direct() && v.Store.IsZero() && !r.unconnected:
			r.fail(n.owner, path, "the view %s needs a Postgres; write `store: ${DATABASE_URL}`, or make it a document of a table: `{document: \"order:{id}\", mirror: public.orders}`", w.Name)
		}
	}
}

// meant names the view that somebody may have meant.
func meant(got string, names []string) string {
	if near := Nearest(got, names); near != "" {
		return "; did you mean " + show(near) + "?"
	}
	return "; give the query or mirror that has the rows a name, and write it here"
}

// store reads where the views are: a Postgres, or a Redis for those that are documents of tables.
func (r *reader) store(path string, n *node, v *Views) {
	var url URL
	r.url(&url, checkStore)(path, n)
	if isRedis(url) {
		v.Documents = url
		return
	}
	v.Store = url
}

func isRedis(u URL) bool {
	return u.open != nil && slices.Contains(sinkSchemes, u.open().anatomy.scheme)
}

// Direct reports whether a view is made of the streams alone, without a store in Postgres.
func (v *View) Direct() bool { return v.Document != nil && v.From == "" }

func (r *reader) view(path string, e entry) (View, bool) {
	v := View{Name: e.name, At: e.at}
	before := len(r.errs)
	if msg := checkViewName(e.name); msg != "" {
		r.fail(e.at, path, "the view's name %s", msg)
	}
	r.mapping(path, e.value,
		field{name: "mirror", read: func(path string, n *node) {
			written, ok := r.text(path, n, "a table's name, such as public.orders")
			if !ok {
				return
			}
			pattern, msg := tablePattern(written)
			if msg == "" && pattern[len(pattern)-1] == '*' {
				msg = "the table's name " + show(written) + " is a pattern; a view mirrors one table, write its name"
			}
			if msg != "" {
				r.fail(n.at, path, "%s", msg)
			}
			v.Mirror = pattern
		}},
		field{name: "columns", read: func(path string, n *node) { r.columns(path, n, &v.Columns) }},
		field{name: "document", read: func(path string, n *node) { v.Document = r.keyPattern(path, n) }},
		field{name: "from", read: r.name(&v.From, checkViewName)},
		field{name: "as", read: func(path string, n *node) { choose(r, path, n, &v.As, DocumentJSON, DocumentHash) }},
		field{name: "key", read: func(path string, n *node) { v.Key = r.columnList(path, n, "key") }},
		field{name: "query", read: r.sql(&v.Query, "a SELECT")},
		field{name: "affects", read: func(path string, n *node) { v.Affects = r.affects(path, n) }},
		field{name: "emit", read: func(path string, n *node) { v.Emit = r.emit(path, n) }},
		field{name: "consistency", read: func(path string, n *node) { choose(r, path, n, &v.Consistency, ConsistencyTransaction, ConsistencyKey) }},
		field{name: "table", read: func(path string, n *node) { v.Fold.Table = r.foldTable(path, n) }},
		field{name: "fold", read: func(path string, n *node) { v.Fold.Events = r.foldEvents(path, n) }},
		field{name: "streams", read: func(path string, n *node) { v.Fold.Streams = r.texts(path, n, "a stream's name or a list of them") }},
		field{name: "start", read: func(path string, n *node) { v.Fold.Now = r.word(path, n, "beginning", "now") == "now" }},
		field{name: "unmatched", read: func(path string, n *node) { v.Fold.Unmatched = r.word(path, n, "park", "ignore") == "ignore" }},
	)
	if len(r.errs) == before {
		r.checkView(path, e, &v)
	}
	return v, len(r.errs) == before
}

// checkView says which fields go together.
func (r *reader) checkView(path string, e entry, v *View) {
	columns := v.Columns.Include != nil || v.Columns.Exclude != nil || v.Columns.Rename != nil
	switch {
	case v.Document != nil && r.onlyFolds(path, e):
	case v.Document != nil:
		r.checkDocument(path, e, v, columns)
	case v.From != "" || v.As != "":
		r.fail(e.at, path, "`from` and `as` are for documents in Redis; write `document: \"order:{order_id}\"` with them, the pattern of their keys")
	case v.Mirror != "" && v.Query != "" || v.Fold.Events != nil && v.Mirror+v.Query != "":
		r.fail(e.at, path, "a view is one of `mirror`, `query` and `fold`; make two of it")
	case v.Fold.Events != nil:
		r.checkFold(path, e, v, columns)
	case v.Mirror == "" && v.Query == "" && v.Fold.Table != nil:
		r.fail(e.at, path, "the field `fold` is missing; write `fold: {account.opened: \"INSERT INTO %s VALUES (:key, 0)\"}`, SQL for each type of event", v.Name)
	case v.Mirror == "" && v.Query == "":
		r.fail(e.at, path, "a view needs `mirror: public.orders`, a copy of a table, `query: SELECT …` with `key: …`, or `fold: …` with `key: …` and `table: …`")
	case r.onlyFolds(path, e):
	case v.Mirror != "" && (v.Query != "" || v.Key != nil || v.Affects != nil):
		r.fail(e.at, path, "`mirror` is a copy of a table and takes `columns` only; leave `query`, `key` and `affects` out, or `mirror`")
	case v.Query != "" && v.Key == nil:
		r.fail(e.at, path, "the field `key` is missing; write `key: order_id`, the columns of the query's result that tell its rows apart")
	case v.Query != "" && columns:
		r.fail(e.at, path, "`columns` is for mirrors; a query chooses its columns itself")
	}
}

func (r *reader) affects(path string, n *node) []Affects {
	if !r.isMapping(path, n, "tables, such as `orders: SELECT id FROM changed`") {
		return nil
	}
	var list []Affects
	for _, e := range n.entries {
		a := Affects{Table: e.name, At: e.at}
		r.sql(&a.SQL, "a SELECT over `changed`")(join(path, e.name), e.value)
		list = append(list, a)
	}
	return list
}

// sql reads SQL as it stands: a `$` in it is Postgres's.
func (r *reader) sql(dst *string, want string) readFunc {
	return func(path string, n *node) {
		if n.kind != kindText || n.text == "" {
			r.fail(n.at, path, "want %s, got %s", want, n.kind)
			return
		}
		*dst = n.text
	}
}

func checkViewName(name string) string {
	switch {
	case badIdentifier(name):
		return "cannot be a name in Postgres; write 1 to 63 bytes, without line breaks and without spaces at the ends"
	case name == "walrill":
		return "is that of walrill's own schema; choose another"
	case len(name) > maxViewName:
		return fmt.Sprintf("has %d bytes; write at most %d, walrill makes longer names of it", len(name), maxViewName)
	}
	return ""
}

const maxViewName = 50

// checkStore checks the address of the view store. A Redis takes documents of tables only, which checkViews sees to.
func checkStore(a anatomy) string {
	if slices.Contains(sinkSchemes, a.scheme) {
		return checkSink(a)
	}
	return checkSource(a)
}
