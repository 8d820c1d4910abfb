package config

import "slices"

// Emit is the events that are made when a view's rows change.
type Emit struct {
	Stream        string // of views only; empty when nothing is emitted
	Compatibility Compatibility
	Events        []EmitEvent // at least one, in the order written, types distinct
	At            Pos
}

// EmitEvent is one type of event. When, Key and Data are SQL of `old` and `new`, a view's row before and after.
type EmitEvent struct {
	Type, When string
	Key        string       // "" is the view's key
	Data       []EmitMember // nil is the row
	Version    int          // of the data; 0 leaves it to the catalogue
	About      About
	At         Pos
}

// EmitMember is a member of an event's data.
type EmitMember struct{ Name, SQL string }

func (r *reader) emit(path string, n *node) Emit {
	e := Emit{Compatibility: CompatibilityBackward, At: n.owner}
	r.mapping(path, n,
		field{"stream", r.name(&e.Stream, func(name string) string {
			if name == "*" {
				return "cannot be a stream of views; write one such as `alerts`"
			}
			return checkStream(name)
		}), "stream: alerts"},
		r.compatibility(&e.Compatibility),
		field{"events", func(path string, n *node) { e.Events = r.emitEvents(path, n) }, "events: {account.overdrawn: {when: old.balance >= 0 AND new.balance < 0}}"},
	)
	return e
}

// emitted refuses a stream of views that carries changes of tables, too, and a fold of one.
func (r *reader) emitted() {
	r.foldsOfEmitted()
	for _, v := range r.cfg.Views.List {
		for _, s := range r.cfg.Streams {
			if v.Emit.Stream != "" && slices.Contains(s.keys(), v.Emit.Stream) {
				r.fail(v.Emit.At, join(join(join("views", v.Name), "emit"), "stream"), "the stream %s carries changes of tables, as %s says; views need one of their own", show(v.Emit.Stream), lineOf(s.At))
			}
		}
	}
}

// foldsOfEmitted refuses folds that read what views emit: that comes later than the streams of tables, by a watermark of its own, so no
// one position is behind both.
func (r *reader) foldsOfEmitted() {
	by := map[string]string{} // view, by stream
	for _, v := range r.cfg.Views.List {
		if v.Emit.Stream != "" {
			by[v.Emit.Stream] = v.Name
		}
	}
	for _, v := range r.cfg.Views.List {
		for _, s := range v.Fold.Streams {
			if from := by[s]; from != "" {
				r.fail(v.At, join("views", v.Name), "the fold reads the stream %s, which the view %s emits to and which has a watermark of its own; keep such a view in Go, with `Pipeline: \"%s\"`, or follow the stream by a consumer",
					show(s), show(from), r.cfg.Pipeline+"+views")
			}
		}
	}
}

func (r *reader) emitEvents(path string, n *node) []EmitEvent {
	if !r.isMapping(path, n, "types of events") {
		return nil
	}
	if len(n.entries) == 0 && n.kind != kindBad {
		r.fail(n.at, path, "no type of event is given; write one such as `account.overdrawn: {when: old.balance >= 0 AND new.balance < 0}`")
	}
	const condition = "a condition in SQL, such as old.balance >= 0 AND new.balance < 0"
	var list []EmitEvent
	for _, e := range n.entries {
		out := EmitEvent{Type: e.name, At: e.at}
		at := join(path, e.name)
		if msg := checkType(e.name); msg != "" {
			r.fail(e.at, at, "the type %s %s", show(e.name), msg)
		}
		r.mapping(at, e.value,
			field{"when", r.sql(&out.When, condition), "when: old.balance >= 0 AND new.balance < 0"},
			field{name: "key", read: r.sql(&out.Key, "SQL, such as new.account_id")},
			field{name: "data", read: func(path string, n *node) { out.Data = r.emitData(path, n) }},
			field{name: "version", read: func(path string, n *node) { integer(r, path, n, &out.Version, 1, maxVersion) }},
			r.description(&out.About), r.owner(&out.About),
		)
		if out.Version > 0 && out.Data == nil {
			r.fail(out.At, at, "`version` is for events with `data`; whole rows have versions by themselves")
		}
		list = append(list, out)
	}
	return list
}

func (r *reader) emitData(path string, n *node) []EmitMember {
	if !r.isMapping(path, n, "members with SQL for each, such as `balance: new.balance`") {
		return nil
	}
	list := []EmitMember{}
	for _, e := range n.entries {
		m := EmitMember{Name: e.name}
		r.sql(&m.SQL, "SQL, such as new.balance")(join(path, e.name), e.value)
		list = append(list, m)
	}
	return list
}
