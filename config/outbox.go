package config

import (
	"slices"
	"strconv"
	"strings"
)

// Outbox says that a table's rows are events already.
type Outbox struct {
	// The columns; one without a name has the default, which is the field's own: id, aggregatetype and so on.
	ID, AggregateType, AggregateID, Type, Payload, Headers Name

	For  []string // aggregate types whose rows the stream takes, distinct; nil is all
	Read bool     // rows that a backfill reads are events too
	// Events are the types whose data is declared, in the order written. There may be others.
	Events []Declared
	Delete DeleteConsumed
	At     Pos
}

// DeleteConsumed says that an outbox's rows are deleted once their events are durable. No entry depends on it.
type DeleteConsumed bool

// Messages says which logical messages a stream takes; without a prefix, none.
type Messages struct {
	Prefix string
	Events []Declared // as an Outbox's
	At     Pos
}

// outbox reads an outbox's columns. Nothing at all is one with the usual names.
func (r *reader) outbox(path string, n *node, t *Table) {
	o := &Outbox{At: n.at}
	column := func(dst *Name) readFunc {
		return func(path string, n *node) {
			*dst = Name{At: n.at}
			r.name(&dst.Name, func(name string) string { return checkColumn(name, nil, "") })(path, n)
		}
	}
	r.mapping(path, n,
		field{name: "id", read: column(&o.ID)},
		field{name: "aggregatetype", read: column(&o.AggregateType)},
		field{name: "aggregateid", read: column(&o.AggregateID)},
		field{name: "type", read: column(&o.Type)},
		field{name: "payload", read: column(&o.Payload)},
		field{name: "headers", read: column(&o.Headers)},
		field{name: "for", read: func(path string, n *node) {
			o.For = r.texts(path, n, "an aggregate type, such as Order, or a list of them")
		}},
		field{name: "delete", read: func(path string, n *node) { o.Delete = r.word(path, n, "never", "consumed") == "consumed" }},
		field{name: "on", read: func(path string, n *node) {
			on := r.on(path, n)
			o.Read = slices.Contains(on, OnRead)
			other := func(on On) bool { return on != OnInsert && on != OnRead }
			if len(on) > 0 && (slices.ContainsFunc(on, other) || !slices.Contains(on, OnInsert)) {
				r.fail(n.at, path, "rows that are inserted are the events of an outbox: write `insert`, or `[insert, read]` for the rows that are there already, too")
			}
		}},
		field{name: "events", read: func(path string, n *node) { o.Events = r.declared(path, n) }},
	)
	t.Outbox = o
}

// checkOutbox says what does not go together with an outbox.
func (r *reader) checkOutbox(path string, t *Table, n *node) {
	if t.Outbox == nil {
		return
	}
	if strings.HasSuffix(t.Pattern, ".*") {
		r.fail(t.Outbox.At, path, "`outbox` is for one table; name it instead of %s", show(t.Pattern))
	}
	for _, e := range n.entries {
		if slices.Contains([]string{"key", "columns", "mask", "encrypt", "numbers", "events"}, e.name) {
			r.fail(e.at, path, "`%s` does not go with `outbox`, whose rows say key, type and data themselves; remove one of the two", e.name)
		}
	}
}

// deletions checks that nobody else needs the rows that an outbox deletes: streams agree, and none parks the table's changes.
func (r *reader) deletions() {
	for _, s := range r.cfg.Streams {
		for _, t := range s.Tables {
			if t.Outbox == nil || !t.Outbox.Delete {
				continue
			}
			path := join(join("streams", s.Name), "tables") + "[" + t.Pattern + "]"
			schema, _, _ := strings.Cut(t.Pattern, ".")
			for _, other := range r.cfg.Streams {
				for _, o := range other.Tables {
					switch same := o.Pattern == t.Pattern; {
					case same && o.Outbox != nil && !bool(o.Outbox.Delete):
						r.fail(t.Outbox.At, path, "consumed rows would be deleted here, and stream %s, at %s, keeps them; write `delete: consumed` in both or in none", show(other.Name), lineOf(o.At))
					case other.Park && (same || o.Pattern == schema+".*"):
						r.fail(t.Outbox.At, path, "consumed rows would be deleted, and stream %s, at %s, parks changes of the table; leave `delete` out, or write `on_error: stop` there", show(other.Name), lineOf(o.At))
					}
				}
			}
		}
	}
}

// messages reads which logical messages a stream takes.
func (r *reader) messages(path string, n *node, s *Stream) {
	s.Messages.At = n.at
	r.mapping(path, n, field{"prefix", r.name(&s.Messages.Prefix, checkPrefix), "prefix: orders"},
		field{name: "events", read: func(path string, n *node) { s.Messages.Events = r.declared(path, n) }})
	if s.Name == "*" {
		r.fail(n.at, path, "messages have no table to name a stream after; give them a stream with a name")
	}
}

func checkPrefix(prefix string) string {
	switch {
	case prefix == "" || len(prefix) > maxType:
		return "has " + strconv.Itoa(len(prefix)) + " bytes; write 1 to " + strconv.Itoa(maxType)
	case strings.HasPrefix(prefix, "walrill"):
		return "starts with `walrill`, which is kept for walrill's own messages; choose another"
	case strings.ContainsFunc(prefix, notPrinted):
		return "holds a space or a character that does not print; leave it out"
	}
	return ""
}

// texts reads a text or a list of them, distinct and not empty.
func (r *reader) texts(path string, n *node, want string) []string {
	items := []*node{n}
	if n.kind == kindList {
		items = n.items
		if len(items) == 0 {
			r.fail(n.at, path, "the list is empty; write %s, or remove the field", want)
		}
	}
	var list []string
	for _, item := range items {
		text, ok := r.text(path, item, want)
		switch {
		case !ok:
			continue
		case text == "":
			r.fail(item.at, path, "want %s, got nothing", want)
		case slices.Contains(list, text):
			r.fail(item.at, path, "%s is written twice; keep one", showValue(item))
		}
		list = append(list, text)
	}
	return list
}
