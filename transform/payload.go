package transform

import (
	"strings"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// payload is data as a rule builds it: constant JSON with the values between.
type payload struct {
	parts    []part
	tail     []byte
	wholeNew bool                 // a row in it may lack columns
	schema   []event.SchemaColumn // its members; nil when they are not known
	path     []string             // to the member that is being compiled
}

// part is constant JSON and the value behind it: a column as it is, a whole
// row, or what an expression gives.
type part struct {
	before []byte
	member string // with those around it: price.amount; empty for data that is one expression
	expr   *Expr
	column *ref
	append appender // of the column
	row    *side
	value  evalFunc
}

// payload compiles data.
func (c *ruleCompiler) payload(s *scope, ops opSet, p *Payload) *payload {
	out := &payload{}
	out.schema = c.payloadPart(out, s, ops, p, true).Fields
	return out
}

// payloadPart compiles a part of data and says what its value is.
func (c *ruleCompiler) payloadPart(out *payload, s *scope, ops opSet, p *Payload, top bool) event.SchemaColumn {
	is := event.SchemaColumn{JSON: jsonAny}
	switch p.Kind {
	case PayloadObject:
		for i := range p.Object {
			sep := byte(',')
			if i == 0 {
				sep = '{'
			}
			out.tail = append(appendString(append(out.tail, sep), []byte(p.Object[i].Name)), ':')
			out.path = append(out.path, p.Object[i].Name)
			member := c.payloadPart(out, s, ops, &p.Object[i].Value, false)
			out.path = out.path[:len(out.path)-1]
			member.Name = p.Object[i].Name
			is.Fields = append(is.Fields, member)
		}
		is.JSON = jsonObject
		if len(p.Object) == 0 {
			out.tail = append(out.tail, '{')
		}
		out.tail = append(out.tail, '}')
	case PayloadList:
		is.JSON = jsonArray
		out.tail = append(out.tail, '[')
		for i := range p.List {
			if i > 0 {
				out.tail = append(out.tail, ',')
			}
			c.payloadPart(out, s, ops, &p.List[i], false)
		}
		out.tail = append(out.tail, ']')
	case PayloadJSON:
		out.tail = append(out.tail, p.JSON...)
		is.JSON = jsonKindOf(p.JSON)
	default:
		var part part
		var ok bool
		if part, is, ok = c.valuePart(s, ops, p.Expr, top); ok {
			part.before, part.member, out.tail = out.tail, strings.Join(out.path, "."), nil
			out.parts = append(out.parts, part)
			out.wholeNew = out.wholeNew || part.row != nil && *part.row == newRow
		}
	}
	return is
}

func (c *ruleCompiler) valuePart(s *scope, ops opSet, e *Expr, top bool) (part, event.SchemaColumn, bool) {
	is := event.SchemaColumn{JSON: jsonAny}
	if side, ok := c.wholeRow(s, ops, e); ok {
		is.JSON, is.Fields = jsonObject, c.rowFields(ops)
		return part{expr: e, row: &side}, is, true
	}
	checked := c.check(s, ops, e)
	if checked == nil {
		return part{}, is, false
	}
	if top && !checked.isUnknown() && !checked.result.IsMap() {
		c.errs = append(c.errs, s.fail(e, 0, "write data: {name: expression}", "data must be an object, and this is %s", typeName(checked)))
	}
	compiler := s.compiler(checked)
	if column := compiler.column(checked.node); column != nil {
		is.JSON, is.Column = c.encoding.jsonKind(s.rel.Columns[column.column].Type), s.rel.Columns[column.column].Name
		is.Mask = string(c.masks.kindOf(column.column))
		return part{expr: e, column: column, append: c.encoding.appender(s.rel.Columns[column.column].Type)}, is, true
	}
	is.JSON = checked.jsonKind()
	return part{expr: e, value: compiler.value(checked.node)}, is, true
}

// wholeRow recognises `new` and `old` alone.
func (c *ruleCompiler) wholeRow(s *scope, ops opSet, e *Expr) (side, bool) {
	side, ok := s.rows[e.Text]
	c.rows = c.rows || ok
	if ok && side == oldRow && ops.has(opsOf(change.Update)) && c.rel.Identity != change.IdentityFull {
		c.doubts = append(c.doubts, c.doubt(e, 0, "every column"))
	}
	return side, ok
}

// append appends data for the row. What cannot be written is the row's failure.
func (p *payload) append(dst []byte, r *row, s *shape) ([]byte, error) {
	var err error
	for i := range p.parts {
		part := &p.parts[i]
		dst = append(dst, part.before...)
		switch {
		case part.column != nil:
			v := r.column(part.expr, part.column)
			if v.Kind == change.Null {
				dst = append(dst, "null"...)
			} else if dst, err = part.append(dst, v.Data); err != nil {
				return dst, valueError(r.rel, part.column.column, err)
			}
		case part.row != nil:
			if dst, err = r.appendWhole(dst, *part.row, s); err != nil {
				return dst, err
			}
		default:
			if dst, err = appendValue(dst, part.value(r)); err != nil {
				r.fail(part.expr, 0, "the result is not JSON", "")
			}
		}
		if r.failed != nil {
			r.failed.member = part.member
			return dst, nil
		}
	}
	return append(dst, p.tail...), nil
}

// appendWhole appends a whole row, null when there is none.
func (r *row) appendWhole(dst []byte, which side, s *shape) ([]byte, error) {
	values, before := r.new, r.before
	if which == oldRow {
		values, before = r.old, nil
	}
	if values == nil {
		return append(dst, "null"...), nil
	}
	return s.appendRow(dst, values, before)
}
