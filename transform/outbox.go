package transform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Outbox says that a table is an outbox: each row that is inserted is an event that the application
// has written itself. Updates, deletes and truncates make no events: they are how rows are removed.
type Outbox struct {
	// The columns; one without a name has the default, which is that of Debezium's outbox event router:
	// type, aggregateid and payload, and if the table has them, id, aggregatetype and headers.
	Type, AggregateID, Payload, ID, AggregateType, Headers Name
	// For are the aggregate types whose rows the stream takes; empty is all. A row that no stream takes is an error.
	For []string
	// Read makes events of rows that a backfill has read, too.
	Read bool
	// Events are the types whose data is declared. There may be others.
	Events []Declared
	// Delete says that a row may be deleted once its event is durable.
	Delete bool
}

// Consumes reports whether rows of the table are to be deleted once their events are durable.
func (m *Mapping) Consumes(rel *change.Relation) bool {
	for i := range m.Streams {
		if t := m.Streams[i].find(rel); t != nil && t.Outbox != nil && t.Outbox.Delete {
			return true
		}
	}
	return false
}

// Outboxes are the tables that the mapping takes as outboxes, sorted: public.outbox.
func (m *Mapper) Outboxes() []string {
	var names []string
	for i := range m.mapping.Streams {
		for _, t := range m.mapping.Streams[i].Tables {
			if t.Outbox != nil {
				names = append(names, t.Pattern)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Consumed reports whether the row of a change, of which all events are made or were made by this mapping, is to be deleted when they are
// durable: a row that is inserted into such an outbox, or one that a backfill has read and that made an event.
func (m *Mapper) Consumed(c *change.Change) bool {
	if c.Relation == nil || c.Op != change.Insert && c.Op != change.Read {
		return false
	}
	if m.consumes.rel != c.Relation { // rows of one table come in runs
		m.consumes.rel, m.consumes.does = c.Relation, m.mapping.Consumes(c.Relation)
	}
	if !m.consumes.does || c.Op == change.Insert {
		return m.consumes.does
	}
	t := m.tables[c.Relation.OID]
	if t == nil || t.rel != c.Relation {
		return false
	}
	told := false
	for i := range t.routes {
		if o := t.routes[i].outbox; o != nil && o.wants(c.New) {
			if told = o.read; !told {
				return false
			}
		}
	}
	return told
}

// outbox is an Outbox, compiled for a table. Columns are indexes, -1 without one.
type outbox struct {
	typ, payload, headers int
	id, aggregateType     int
	appendPayload         appender
	takes                 []string
	read                  bool
	events                []Declared
	declared              declarations
}

// compileOutbox finds the columns. The key is the aggregate's id.
func compileOutbox(rel *change.Relation, tm *TableMapping) (*outbox, keyer, []*Error) {
	c := outboxCompiler{rel: rel, where: tm.Where}
	o := tm.Outbox
	key := c.column(o.AggregateID, "aggregateid", true)
	out := &outbox{
		typ:           c.column(o.Type, "type", true),
		payload:       c.column(o.Payload, "payload", true),
		id:            c.column(o.ID, "id", false),
		aggregateType: c.column(o.AggregateType, "aggregatetype", len(o.For) > 0),
		headers:       c.column(o.Headers, "headers", false),
		takes:         o.For,
		read:          o.Read,
		events:        o.Events,
	}
	if len(c.errs) > 0 {
		return out, keyer{}, c.errs
	}
	if out.headers >= 0 {
		if t := rel.Columns[out.headers].Type; t != nil && t.Shape != change.ShapeJSON && t.Shape != change.ShapeText {
			c.errs = append(c.errs, &Error{Where: c.place(o.Headers), Table: rel.String(), Columns: []string{rel.Columns[out.headers].Name},
				Problem: "headers must be a JSON object, and column " + rel.Columns[out.headers].Name + " is " + t.Name, Fix: "make the column jsonb"})
		}
	}
	out.appendPayload = payloadAppender(rel.Columns[out.payload].Type)
	// Rows are only inserted, so the key is always known; what is left is that Postgres must let the application delete them.
	_, doubt, _ := keyColumns(rel, &TableMapping{Where: tm.Where})
	return out, keyer{columns: []int{key}, doubt: doubt}, c.errs
}

type outboxCompiler struct {
	rel   *change.Relation
	where string
	errs  []*Error
}

func (c *outboxCompiler) place(n Name) string {
	if n.Where != "" {
		return n.Where
	}
	return c.where
}

func (c *outboxCompiler) column(n Name, usual string, needed bool) int {
	name := n.Name
	if name == "" {
		name = usual
	}
	i := c.rel.Column(name)
	if i < 0 && (needed || n.Name != "") {
		e := unknownColumn(c.rel, c.place(n), "the outbox's column", name)
		if n.Name == "" {
			e.Fix = fmt.Sprintf("name the one that has it: outbox: {%s: …}, among %s", usual, strings.Join(allColumns(c.rel), ", "))
		}
		c.errs = append(c.errs, e)
	}
	return i
}

// payloadAppender writes a payload as to_jsonb would, but for text that is a JSON object or list itself, which stays one.
func payloadAppender(t *change.Type) appender {
	plain := encoding{}.appender(t)
	if t != nil && t.Shape != change.ShapeText {
		return plain
	}
	return func(dst, text []byte) ([]byte, error) {
		if isJSON(text, '{') || isJSON(text, '[') {
			return appendCompact(dst, text), nil
		}
		return plain(dst, text)
	}
}

// isJSON reports whether text is a JSON object or list, which begin with such a byte.
func isJSON(text []byte, first byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return len(text) > 0 && text[0] == first && json.Valid(text)
}

// appendCompact appends well-formed JSON without white space.
func appendCompact(dst, text []byte) []byte {
	b := bytes.NewBuffer(dst)
	if err := json.Compact(b, text); err != nil { // what is left of it would not be JSON
		return append(dst, "null"...)
	}
	return b.Bytes()
}

// wants reports whether the stream takes a row.
func (o *outbox) wants(row []change.Value) bool {
	return len(o.takes) == 0 || slices.Contains(o.takes, string(row[o.aggregateType].Data))
}

// outboxEvent makes the event of a row, and reports false when the stream does not take it.
func (m *Mapper) outboxEvent(t *table, r *route, c *change.Change) (bool, error) {
	o, row := r.outbox, c.New
	if c.Op == change.Read && !o.read {
		return true, nil
	}
	if !o.wants(row) {
		return false, nil
	}
	key, err := m.key(t, r, row, nil)
	if err == nil && m.blocked.Has(r.stream.Name, key) {
		err = r.mustPark(t.rel, key)
	}
	if err != nil {
		return true, err
	}
	typ := string(row[o.typ].Data)
	if problem := badType(typ); problem != "" {
		return true, m.outboxFailed(t, r, key, t.rel.Columns[o.typ].Name, problem)
	}
	var data []byte
	if v := &row[o.payload]; v.Kind == change.Text {
		start := len(m.buf)
		if m.buf, err = o.appendPayload(m.buf, v.Data); err != nil {
			return true, valueError(t.rel, o.payload, err)
		}
		data = m.buf[start:]
	}
	headers, ok := m.outboxHeaders(t, o, row)
	if !ok {
		return true, m.outboxFailed(t, r, key, t.rel.Columns[o.headers].Name, "is not a JSON object")
	}
	e := m.emit(t, r, typ, c.Op, key)
	e.Data, e.Headers = data, headers
	if problem := o.declared.give(e); problem != "" {
		m.events = m.events[:len(m.events)-1]
		failed := m.outboxFailed(t, r, key, t.rel.Columns[o.payload].Name, "does not fit: "+problem)
		failed.Fix = fixDeclared
		return true, failed
	}
	return true, m.addKeyData(e, r, row, nil)
}

// outboxHeaders are the row's id and aggregate type and behind them what its headers say, which may have
// those two itself. It is false when they are no object.
func (m *Mapper) outboxHeaders(t *table, o *outbox, row []change.Value) ([]byte, bool) {
	var own []byte
	if o.headers >= 0 && row[o.headers].Kind == change.Text {
		if own = row[o.headers].Data; !isJSON(own, '{') {
			return nil, false
		}
	}
	start := len(m.buf)
	m.buf = append(m.buf, '{')
	for _, h := range [...]struct {
		name   string
		column int
	}{{"id", o.id}, {"aggregatetype", o.aggregateType}} {
		if h.column < 0 || row[h.column].Kind != change.Text || hasMember(own, h.name) {
			continue
		}
		if len(m.buf) > start+1 {
			m.buf = append(m.buf, ',')
		}
		m.buf = append(appendString(m.buf, []byte(h.name)), ':')
		m.buf, _ = appendText(m.buf, row[h.column].Data)
	}
	return m.closeHeaders(start, own), true
}

// closeHeaders ends the object that begins at start with the members of another one.
func (m *Mapper) closeHeaders(start int, own []byte) []byte {
	first := len(m.buf)
	if own != nil {
		m.buf = appendCompact(m.buf, own)
		if m.buf[first+1] == '}' || first == start+1 {
			m.buf = append(m.buf[:first], m.buf[first+1:len(m.buf)-1]...)
		} else {
			m.buf[first] = ','
			m.buf = m.buf[:len(m.buf)-1]
		}
	}
	if len(m.buf) == start+1 {
		m.buf = m.buf[:start]
		return nil
	}
	m.buf = append(m.buf, '}')
	return m.buf[start:]
}

// hasMember reports whether a JSON object has a member of that name.
func hasMember(object []byte, name string) bool {
	if len(object) == 0 || !bytes.Contains(object, []byte(name)) && !bytes.Contains(object, []byte(`\u`)) {
		return false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil {
		return false
	}
	_, ok := members[name]
	return ok
}

// maxTypeLength is how many bytes an event's type may have.
const maxTypeLength = 200

// badType says what is wrong with an event's type that an application has written.
func badType(typ string) string {
	switch {
	case strings.TrimSpace(typ) == "":
		return "is empty"
	case len(typ) > maxTypeLength:
		return fmt.Sprintf("has %d bytes, and an event's type at most %d", len(typ), maxTypeLength)
	case strings.ContainsFunc(typ, unicode.IsControl):
		return "holds a control character"
	}
	return ""
}

// outboxFailed says which row cannot be an event. No value of the row is in it but its key.
func (m *Mapper) outboxFailed(t *table, r *route, key []byte, column, problem string) *Error {
	return &Error{Where: r.where, Stream: r.stream.Name, Table: t.name, Columns: []string{column},
		Problem: fmt.Sprintf("the outbox row of key %q at %s cannot be an event: column %s %s", key, m.next(), column, problem),
		Fix: "have the application write it right; to let this row pass, put rules in place of `outbox`, such as `events: [{type: unreadable, on: insert}]`, " +
			"start walrill until it is past this position, and put `outbox` back"}
}

// unclaimed is for a row of an outbox that no stream takes.
func (m *Mapper) unclaimed(t *table, row []change.Value) error {
	var r *route
	var taken []string
	for i := range t.routes {
		if o := t.routes[i].outbox; o != nil {
			r, taken = &t.routes[i], append(taken, o.takes...)
		}
	}
	return &Error{Where: r.where, Table: t.name, Columns: []string{t.rel.Columns[r.outbox.aggregateType].Name},
		Problem: fmt.Sprintf("no stream takes the outbox row of the aggregate type %q at %s: there are %s", row[r.outbox.aggregateType].Data, event.Position{Commit: m.commit, Ordinal: m.ordinal + 1}, strings.Join(taken, ", ")),
		Fix:     "name it in `for` of a stream that has the table, or have one without `for`, which takes all"}
}

// next is the position that the next event would have.
func (m *Mapper) next() event.Position {
	return event.Position{Commit: m.commit, Ordinal: m.ordinal + uint64(len(m.events)) + 1}
}
