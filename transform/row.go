package transform

import (
	"errors"
	"strconv"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// row is what the expressions of a table's rules see of one change. It is
// used again for the next one.
type row struct {
	rel      *change.Relation
	new, old []change.Value // nil when there is none
	before   []change.Value // holds what new was sent without, nil when there is none
	op       change.Op
	moved    bool // half of an update that changed the key

	commit uint64
	time   time.Time
	xid    uint32

	appenders []appender // of each column, as to_jsonb
	scratch   []byte
	parsed    []parsed // of each column, new then old
	change    uint64   // counts what parsed belongs to
	vars      []value  // of let
	items     []any    // # of any(), filter() and so on, the innermost last

	failed *failure
}

// parsed is a column's JSON, read once a change.
type parsed struct {
	change uint64
	v      any
}

// failure is why an expression has no value. It tells nothing of the row's values.
type failure struct {
	expr    *Expr
	at      int // character of the expression
	problem string
	member  string // of data that it was for; empty when there is none
	fix     string
	err     error // nil unless it asks for more than to be told
}

// text is the problem and what it was for.
func (f *failure) text() string {
	if f.member == "" {
		return f.problem
	}
	return f.problem + ", in data." + f.member
}

// begin starts with another table.
func (r *row) begin(rel *change.Relation, appenders []appender) {
	r.rel, r.appenders = rel, appenders
	if n := 2 * len(rel.Columns); len(r.parsed) < n {
		r.parsed = make([]parsed, n)
	}
}

// set says what change, or half of one, comes next.
func (r *row) set(op change.Op, new, old, before []change.Value, moved bool) {
	r.op, r.new, r.old, r.before, r.moved = op, new, old, before, moved
	r.change++
	r.scratch = r.scratch[:0]
	if cap(r.scratch) > maxSpare {
		r.scratch = nil
	}
	r.failed = nil
}

// fail notes the first failure.
func (r *row) fail(e *Expr, at int, problem, fix string) value {
	if r.failed == nil {
		r.failed = &failure{expr: e, at: at, problem: problem, fix: fix}
	}
	return value{}
}

var null, absent = change.Value{Kind: change.Null}, change.Value{Kind: change.Absent}

// column is a column's value as Postgres sent it. It is NULL when there is no
// such row, and when it is not known, which is a failure.
func (r *row) column(e *Expr, c *ref) *change.Value {
	values := r.new
	if c.side == oldRow {
		values = r.old
	}
	if values != nil && (values[c.column].Kind == change.Text || values[c.column].Kind == change.Null) {
		return &values[c.column]
	}
	return r.missing(e, c)
}

// missing looks for a value that its row does not have.
func (r *row) missing(e *Expr, c *ref) *change.Value {
	v := &absent
	switch {
	case c.side == newRow && r.new == nil, c.side == oldRow && r.old == nil && r.op != change.Update:
		return &null
	case c.side == newRow:
		if v = &r.new[c.column]; v.Kind == change.Unchanged && r.before != nil {
			v = &r.before[c.column]
		}
	case r.old != nil:
		v = &r.old[c.column]
	case r.rel.Columns[c.column].Key:
		v = &r.new[c.column] // an update that left the identity alone
	}
	if v.Kind == change.Text || v.Kind == change.Null {
		return v
	}
	r.notSent(e, c, v.Kind)
	return &null
}

func (r *row) notSent(e *Expr, c *ref, kind change.ValueKind) {
	name := r.rel.Columns[c.column].Name
	fix := "ALTER TABLE " + sqlName(r.rel) + " REPLICA IDENTITY FULL, for the changes from then on"
	if kind == change.Absent {
		r.fail(e, c.at, "Postgres did not send the old value of column "+name, fix)
		return
	}
	r.fail(e, c.at, "Postgres did not send column "+name+", a large value that the update left alone", fix)
}

// read gives a column's value by its kind. Numbers that are no numbers are floats.
func (r *row) read(e *Expr, c *ref, k kind) value {
	v := r.column(e, c)
	if v.Kind == change.Null {
		return value{}
	}
	switch k {
	case kindBool:
		return boolValue(len(v.Data) > 0 && v.Data[0] == 't')
	case kindInt:
		i, ok := parseInt(v.Data)
		if !ok {
			return r.unreadable(e, c, nil)
		}
		return intValue(i)
	case kindFloat:
		return r.float(e, c, v.Data)
	case kindDecimal:
		if notFinite(v.Data) {
			return r.float(e, c, v.Data)
		}
		return decimalValue(v.Data)
	case kindText:
		return r.text(e, c, v.Data)
	}
	return r.json(e, c, v.Data)
}

func (r *row) float(e *Expr, c *ref, data []byte) value {
	f, err := strconv.ParseFloat(string(data), 64)
	if err != nil {
		return r.unreadable(e, c, err)
	}
	return floatValue(f)
}

func (r *row) unreadable(e *Expr, c *ref, err error) value {
	r.fail(e, c.at, "column "+r.rel.Columns[c.column].Name+" cannot be read", "")
	if errors.Is(err, errStale) {
		r.failed.err = err
	}
	return value{}
}

// text is a column's text as to_jsonb prints it.
func (r *row) text(e *Expr, c *ref, data []byte) value {
	if t := r.rel.Columns[c.column].Type; t == nil || t.Shape == change.ShapeText {
		return textValue(data)
	}
	start := len(r.scratch) // a time: nothing in it is escaped
	var err error
	if r.scratch, err = r.appenders[c.column](r.scratch, data); err != nil {
		return r.unreadable(e, c, err)
	}
	return textValue(r.scratch[start+1 : len(r.scratch)-1])
}

// json reads JSON, an array or a composite.
func (r *row) json(e *Expr, c *ref, data []byte) value {
	p := &r.parsed[int(c.side)*len(r.rel.Columns)+c.column]
	if p.change != r.change {
		start := len(r.scratch)
		scratch, err := r.appenders[c.column](r.scratch, data)
		if err == nil {
			p.v, err = parseJSON(scratch[start:])
		}
		if err != nil {
			return r.unreadable(e, c, err)
		}
		p.change, r.scratch = r.change, scratch[:start]
	}
	return unboxed(p.v)
}

func (r *row) opName() string {
	switch r.op {
	case change.Insert:
		return "insert"
	case change.Update:
		return "update"
	case change.Delete:
		return "delete"
	case change.Truncate:
		return "truncate"
	}
	return "read"
}

// timeText is the commit time as it stands on the stream.
func (r *row) timeText() value {
	start := len(r.scratch)
	r.scratch = r.time.UTC().AppendFormat(r.scratch, event.TimeFormat)
	return textValue(r.scratch[start:])
}

func (r *row) lsnText() value {
	_, lsn := event.SplitClock(r.commit)
	return textValue([]byte(change.LSN(lsn).String()))
}
