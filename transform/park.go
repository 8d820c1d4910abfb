package transform

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// half is what one key of a stream sees of a change: the change itself, or one
// of the two sides of an update that changed the key.
type half struct {
	op    change.Op
	rows       // as they may be published
	clear rows // as they are, for conditions
	moved bool
}

// rows are the rows that a change tells of.
type rows struct {
	new, old []change.Value // nil when there is none
	before   []change.Value // holds what new was sent without; nil when there is none
}

// row is the row that the event is about.
func (r *rows) row() []change.Value {
	if r.new != nil {
		return r.new
	}
	return r.old
}

// cannotPark refuses conditions that read a masked column: a change is parked as it may be published, and
// a retry could not tell what was true.
func (r *route) cannotPark(rel *change.Relation) (errs []*Error) {
	if r.rules == nil || r.masks == nil {
		return nil
	}
	for i := range r.rules.rules {
		rule := &r.rules.rules[i]
		if rule.condition == nil {
			continue
		}
		for _, ref := range rule.condition.refs {
			if name := rel.Columns[ref.column].Name; r.masks.kindOf(ref.column) != "" {
				errs = append(errs, &Error{Where: rule.condition.where(ref.at), Table: rel.String(), Columns: []string{name},
					Problem: fmt.Sprintf("with on_error: park a condition cannot read %s, which is masked: what is parked does not hold its values, so a retry could not tell what was true", name),
					Fix:     "leave on_error: park out, or put this rule into another stream"})
			}
		}
	}
	return errs
}

// SetBlocked gives the mapper the keys whose changes are parked. It adds to them; who resolves them, removes them.
func (m *Mapper) SetBlocked(b event.Blocked) { m.blocked = b }

// place makes the events of a half of a change, or parks it.
func (m *Mapper) place(t *table, r *route, h *half, key []byte) error {
	if m.blocked.Has(r.stream.Name, key) {
		return m.park(t, r, h, key, "")
	}
	first := len(m.events)
	err := m.emitHalf(t, r, h, key)
	if err == nil || !r.park || !ofRow(err) {
		return err
	}
	reason := err.Error()
	m.events = m.events[:first]
	if key == nil {
		if key, err = m.key(t, r, h.row(), h.before); err != nil {
			return err
		}
	}
	return m.park(t, r, h, key, reason)
}

func ofRow(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.ofRow
}

// park sets a half of a change aside, and blocks its key.
func (m *Mapper) park(t *table, r *route, h *half, key []byte, reason string) error {
	if err := r.mustPark(t.rel, key); err != nil {
		return err
	}
	m.blocked.Add(r.stream.Name, string(key))
	p := event.Parked{Kind: event.ParkedChange, Key: string(key), Table: t.name, Op: byte(h.op), Stream: r.stream.Name, Reason: reason, Moved: h.moved}
	p.New, p.Old = r.parkedRow(h.new, h.before), r.parkedRow(h.old, nil)
	p.Masked = r.masks.parked(r.uses)
	return m.emitParked(&p)
}

// mustPark refuses what a blocked key meets when the stream has been changed to one that could not have on_error: park:
// what it would keep could not be published.
func (r *route) mustPark(rel *change.Relation, key []byte) error {
	problem := ""
	switch {
	case r.part != nil:
		problem = "it is part of an aggregate now"
	case r.outbox != nil:
		problem = "it is a row of an outbox now"
	case !r.park && len(r.cannotPark(rel)) > 0:
		problem = "a condition reads a masked column, and what is parked does not hold its values"
	default:
		return nil
	}
	return &Error{Where: r.where, Stream: r.stream.Name, Table: rel.String(),
		Problem: fmt.Sprintf("changes of the key %q are parked, so this one must be, and it cannot: %s", key, problem),
		Fix:     "put the earlier mapping back, resolve the key with `" + parkedCommand("retry", r.stream.Name, string(key)) + "`, or with drop, and change the mapping then"}
}

// parkedCommand is what a shell takes.
func parkedCommand(verb, stream, key string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	return "walrill parked " + verb + " --stream " + quote(stream) + " -- " + quote(key)
}

func (m *Mapper) emitParked(p *event.Parked) error {
	e, err := p.Event()
	if err != nil {
		return fmt.Errorf("park a change of table %s: %w", p.Table, err)
	}
	e.Stream, e.Time, e.Tx = m.parked, m.time, m.xid
	m.events = append(m.events, e)
	return nil
}

// parkedRow copies the columns of a row that the route uses. The others may be nobody's business.
func (r *route) parkedRow(row, before []change.Value) map[string]*string {
	if row == nil {
		return nil
	}
	values := map[string]*string{}
	for _, i := range r.uses {
		v := row[i]
		if v.Kind == change.Unchanged && before != nil {
			v = before[i]
		}
		name := r.shape.rel.Columns[i].Name
		switch v.Kind {
		case change.Null:
			values[name] = nil
		case change.Text:
			text := string(v.Data)
			values[name] = &text
		}
	}
	return values
}

// Retry makes the events of a parked change, at the present place in the stream, as if it had come now.
// rel is its table as it was at the start, nil when there was none; what the stream has announced since counts more. The
// events are valid until the next Map or Retry.
func (m *Mapper) Retry(p *event.Parked, rel *change.Relation) ([]event.Event, error) {
	t, err := m.tableNow(p.Table, rel)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, &Error{Stream: p.Stream, Table: p.Table, Problem: "the table is gone", Fix: parkedCommand("drop", p.Stream, p.Key)}
	}
	rel = t.rel
	m.reset()
	h := half{op: change.Op(p.Op), moved: p.Moved}
	h.new, h.old = parkedValues(rel, p.New, change.Unchanged), parkedValues(rel, p.Old, change.Absent)
	h.before = h.old
	h.clear = h.rows
	if err := t.check(&change.Change{Op: h.op, New: h.new, Old: h.old}); err != nil {
		return nil, err
	}
	for i := range t.routes {
		if r := &t.routes[i]; r.stream.Name == p.Stream && r.outbox == nil && r.part == nil {
			if err := r.maskParked(p, &h.rows); err != nil {
				return nil, err
			}
			if err := m.emitHalf(t, r, &h, []byte(p.Key)); err != nil {
				return nil, err
			}
			return m.number(), nil
		}
	}
	return nil, &Error{Stream: p.Stream, Table: p.Table, Problem: "the stream does not take the table any more", Fix: parkedCommand("drop", p.Stream, p.Key)}
}

// maskParked masks columns that had no mask when the change was parked, and refuses what it cannot mask as it is now.
func (r *route) maskParked(p *event.Parked, rows *rows) error {
	var names []string
	for name := range p.Masked {
		names = append(names, name)
	}
	if r.masks != nil {
		for i := range r.masks.columns {
			names = append(names, r.masks.columns[i].name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		i := r.shape.rel.Column(name)
		if i < 0 {
			continue
		}
		was, is := p.Masked[name], string(r.masks.kindOf(i))
		switch {
		case was == is || p.New[name] == nil && p.Old[name] == nil:
		case was == "" && is != string(maskEncrypt) && !slices.Contains(r.key.reads(), i):
			for _, row := range [][]change.Value{rows.new, rows.old} {
				if row != nil && row[i].Kind == change.Text {
					row[i].Data = r.masks.mask(i, row[i].Data)
				}
			}
		default:
			return &Error{Where: r.where, Stream: p.Stream, Table: p.Table, Columns: []string{name},
				Problem: fmt.Sprintf("the change was parked with %s for column %s, and the mapping says %s now", maskText(was), name, maskText(is)),
				Fix:     "retry it by the earlier mapping, or give it up: " + parkedCommand("drop", p.Stream, p.Key)}
		}
	}
	return nil
}

func maskText(kind string) string {
	if kind == "" {
		return "no mask"
	}
	return "the mask " + kind
}

func (m *Mapper) tableNow(name string, rel *change.Relation) (now *table, err error) {
	for _, t := range m.tables {
		if t.name == name && (now == nil || t.met > now.met) {
			now = t
		}
	}
	if now != nil || rel == nil {
		return now, nil
	}
	return m.table(rel)
}

// parkedValues is a parked row with the columns that its table has now.
func parkedValues(rel *change.Relation, row map[string]*string, missing change.ValueKind) []change.Value {
	if row == nil {
		return nil
	}
	values := make([]change.Value, len(rel.Columns))
	for i, c := range rel.Columns {
		text, ok := row[c.Name]
		switch {
		case !ok:
			values[i].Kind = missing
		case text == nil:
			values[i].Kind = change.Null
		default:
			values[i] = change.Value{Kind: change.Text, Data: []byte(*text)}
		}
	}
	return values
}

// Resolve makes the entry of :parked that says what became of a key's changes.
func (m *Mapper) Resolve(p *event.Parked) ([]event.Event, error) {
	m.reset()
	p.Op = byte(change.Message)
	if err := m.emitParked(p); err != nil {
		return nil, err
	}
	return m.number(), nil
}
