package config

import (
	"slices"
	"strings"
)

// reader turns the tree of nodes into a Config and gathers what is wrong.
// Only it knows which fields there are: one method a mapping of the file.
type reader struct {
	env func(string) (string, bool)
	// needs says which fields the file must have.
	needs string
	// unconnected leaves out the addresses, and with them what only the environment knows.
	unconnected bool
	cfg         *Config
	lines       []string // of the file
	errs        Errors
}

// readFunc reads the value of the field at path.
type readFunc func(path string, n *node)

// field is one field that a mapping may have.
type field struct {
	name string
	read readFunc
	need string // how to write the field when it is missing; "" when it may be
}

func newReader(env func(string) (string, bool)) *reader {
	return &reader{env: env, needs: "`pipeline`, `source`, `sink` and `streams`", cfg: &Config{
		Source: Source{Backfill: BackfillInitial, OnSlotLoss: OnSlotLossStop},
		Sink: Sink{
			Format:     FormatFields,
			Durability: Durability{Timeout: defaultTimeout},
			Retention:  Retention{KeepUnread: true},
		},
	}}
}

// config reads the whole file.
func (r *reader) config(root *node) {
	r.mapping("", root,
		field{"pipeline", r.name(&r.cfg.Pipeline, checkPipeline), "pipeline: shop"},
		field{"source", r.source, "source: {url: \"${DATABASE_URL}\"}"},
		field{"sink", r.sink, "sink: {url: \"redis://localhost:6379/0\"}"},
		field{"streams", r.streams, "streams: {\"*\": {tables: {\"public.*\": {}}}}"},
		field{name: "encryption", read: r.encryption},
		field{name: "views", read: r.views},
	)
	r.defaults()
	r.collisions()
	r.emitted()
	r.deletions()
	r.wantMasterKey(root)
}

// defaults fills in what follows from other fields.
func (r *reader) defaults() {
	own := "walrill_" + identifier(r.cfg.Pipeline)
	for _, name := range []*string{&r.cfg.Source.Slot, &r.cfg.Source.Publication} {
		if *name == "" {
			*name = own
		}
	}
}

func (r *reader) source(path string, n *node) {
	s := &r.cfg.Source
	r.mapping(path, n,
		field{"url", r.url(&s.URL, checkSource), "url: ${DATABASE_URL}"},
		field{name: "slot", read: r.name(&s.Slot, checkSlot)},
		field{name: "publication", read: r.name(&s.Publication, checkSlot)},
		field{name: "backfill", read: func(path string, n *node) {
			s.BackfillSet = true
			choose(r, path, n, &s.Backfill, BackfillInitial, BackfillNever)
		}},
		field{name: "on_slot_loss", read: func(path string, n *node) {
			choose(r, path, n, &s.OnSlotLoss, OnSlotLossStop, OnSlotLossBackfill)
		}},
	)
}

func (r *reader) sink(path string, n *node) {
	s := &r.cfg.Sink
	r.mapping(path, n,
		field{"url", r.url(&s.URL, checkSink), "url: redis://localhost:6379/0"},
		field{name: "format", read: func(path string, n *node) {
			choose(r, path, n, &s.Format, FormatFields, FormatCloudEvents, FormatDebezium)
		}},
		field{name: "durability", read: r.durability},
		field{name: "retention", read: r.retention},
	)
}

func (r *reader) durability(path string, n *node) {
	d := &r.cfg.Sink.Durability
	r.mapping(path, n,
		field{name: "replicas", read: func(path string, n *node) { integer(r, path, n, &d.Replicas, 0, maxReplicas) }},
		field{name: "fsync", read: r.boolean(&d.Fsync)},
		field{name: "timeout", read: r.duration(&d.Timeout, 1)},
		field{name: "replay_window", read: r.duration(&d.ReplayWindow, 0)},
	)
}

func (r *reader) retention(path string, n *node) {
	t := &r.cfg.Sink.Retention
	r.mapping(path, n,
		field{name: "max_age", read: r.duration(&t.MaxAge, 0)},
		field{name: "max_entries", read: func(path string, n *node) { integer(r, path, n, &t.MaxEntries, 0, maxEntries) }},
		field{name: "keep_unread", read: r.boolean(&t.KeepUnread)},
	)
	limited := slices.ContainsFunc(n.entries, func(e entry) bool { return e.name != "keep_unread" }) // or misspelt
	if !limited && (n.kind == kindMapping || n.kind == kindNothing) {
		r.fail(n.owner, path, "neither `max_age` nor `max_entries` is given, so nothing would be trimmed; write `max_age: 168h`, or remove it")
	}
}

func (r *reader) streams(path string, n *node) {
	if !r.isMapping(path, n, "stream names, such as `orders:`") {
		return
	}
	if len(n.entries) == 0 && n.kind != kindBad {
		r.fail(n.owner, path, "no stream is given; write `\"*\": {tables: {\"public.*\": {}}}` for a stream of each table")
	}
	for _, e := range n.entries {
		s := Stream{Name: e.name, Partitions: 1, Compatibility: CompatibilityBackward, At: e.at}
		at := join(path, e.name)
		if msg := checkStream(e.name); msg != "" {
			r.fail(e.at, at, "the stream's name %s", msg)
		}
		var parkAt Pos
		need := "tables: {public.orders: {}}"
		if slices.ContainsFunc(e.value.entries, func(e entry) bool { return e.name == "messages" || e.name == "aggregates" }) {
			need = ""
		}
		r.mapping(at, e.value,
			field{name: "partitions", read: func(path string, n *node) { integer(r, path, n, &s.Partitions, 1, maxPartitions) }},
			field{name: "on_error", read: func(path string, n *node) { s.Park, parkAt = r.word(path, n, "stop", "park") == "park", n.at }},
			field{"tables", func(path string, n *node) { s.Tables = r.tables(path, n) }, need},
			field{name: "aggregates", read: func(path string, n *node) { r.aggregates(path, n, &s) }},
			field{name: "messages", read: func(path string, n *node) { r.messages(path, n, &s) }},
			r.compatibility(&s.Compatibility), r.description(&s.About), r.owner(&s.About),
		)
		if written := s.Messages.Prefix != "" || s.Aggregates != nil || slices.ContainsFunc(s.Tables, func(t Table) bool { return t.Outbox != nil }); s.Park && written {
			r.fail(parkAt, join(at, "on_error"), "events of an outbox, of messages and of aggregates are not parked, so they could overtake a key that is; put the rules into a stream of their own, or write `stop`")
		}
		r.cfg.Streams = append(r.cfg.Streams, s)
	}
}

func (r *reader) tables(path string, n *node) []Table {
	if !r.isMapping(path, n, "table names, such as `public.orders: {}`") {
		return nil
	}
	if len(n.entries) == 0 && n.kind != kindBad {
		r.fail(n.owner, path, "no table is given; write one such as `public.orders: {}`")
	}
	var tables []Table
	for _, e := range n.entries {
		at := join(path, e.name)
		t, msg := newTable(e.name, e.at, tables)
		if msg != "" {
			r.fail(e.at, at, "%s", msg)
		}
		r.mapping(at, e.value,
			field{name: "key", read: func(path string, n *node) { r.key(path, n, &t) }},
			field{name: "columns", read: func(path string, n *node) { r.columns(path, n, &t.Columns) }},
			field{name: "mask", read: func(path string, n *node) { t.Masks = r.masks(path, n) }},
			field{name: "encrypt", read: func(path string, n *node) { t.Encrypt = r.encrypt(path, n) }},
			field{name: "numbers", read: func(path string, n *node) { t.NumbersAsText = r.word(path, n, "number", "string") == "string" }},
			field{name: "toast", read: r.toast},
			field{name: "events", read: func(path string, n *node) { t.Events = r.rules(path, n) }},
			r.description(&t.About), r.owner(&t.About),
			field{name: "outbox", read: func(path string, n *node) { r.outbox(path, n, &t) }},
		)
		r.checkOutbox(at, &t, e.value)
		if msg == "" {
			tables = append(tables, t)
		}
	}
	return tables
}

// toast accepts what is always done with large values that an update left alone, which Postgres does not send.
func (r *reader) toast(path string, n *node) {
	if n.text == "fetch" {
		r.fail(n.at, path, "`fetch` cannot be done right: by the time that a value is read from the table it may be that of a later update, and the one that belongs to "+
			"the event is gone; write `mark`, which names such columns in `unchanged`, or have Postgres send them: ALTER TABLE … REPLICA IDENTITY FULL")
		return
	}
	choose(r, path, n, new(string), "mark")
}

// mapping reads the fields of a mapping, which may be empty, and reports
// those that are unknown, not in this version, or missing.
func (r *reader) mapping(path string, n *node, fields ...field) {
	if !r.isMapping(path, n, "fields, such as `"+fields[0].name+":`") || n.kind == kindBad {
		return
	}
	var present []string // or misspelt: one error is enough then
	for _, e := range n.entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == e.name })
		present = append(present, e.name)
		switch {
		case i < 0:
			msg, meant := unknown(e.name, fields)
			r.fail(e.at, path, "%s", msg)
			present = append(present, meant)
		case e.value.kind != kindBad:
			fields[i].read(join(path, e.name), e.value)
		}
	}
	for _, f := range fields {
		if f.need != "" && !slices.Contains(present, f.name) {
			r.fail(n.owner, path, "the field `%s` is missing; write `%s`", f.name, f.need)
		}
	}
}

// isMapping reports whether n can be read as a mapping; nothing at all is an
// empty one, as when all fields below a name are commented out.
func (r *reader) isMapping(path string, n *node, want string) bool {
	if n.kind == kindMapping || n.kind == kindNothing || n.kind == kindBad {
		return true
	}
	r.fail(n.at, path, "want %s; got %s%s", want, n.kind, missingSpace(n))
	return false
}

// missingSpace recognises `name:value`, which YAML reads as one text.
func missingSpace(n *node) string {
	name, _, colon := strings.Cut(n.text, ":")
	if colon && !n.quoted && isVariable(name) && !strings.Contains(n.text, "://") {
		return "; is the space missing after the `:`?"
	}
	return ""
}

// unknown says what is wrong with a field that the mapping does not have,
// and which of its fields was meant, if that can be guessed.
func unknown(name string, fields []field) (msg, meant string) {
	msg = "unknown field " + show(name)
	if where := home(name); where != "" {
		return msg + " here; it belongs " + where, ""
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	if meant = Nearest(name, names); meant != "" {
		return msg + "; did you mean `" + meant + "`?", meant
	}
	return msg + "; valid here: " + enumerate(names, "and"), ""
}

// join appends a field's name to a path; a name that is not a plain word
// stands in brackets.
func join(path, name string) string {
	switch {
	case !isVariable(name):
		return path + "[" + strings.Trim(show(name), "`") + "]"
	case path == "":
		return name
	}
	return path + "." + name
}
