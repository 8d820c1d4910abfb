package transform

import (
	"github.com/walrill/walrill/change"
)

// payload is data as a rule builds it: constant JSON with the values between.
type payload struct {
	parts    []part
	tail     []byte
	wholeNew bool // a row in it may lack columns
}

// part is constant JSON and the value behind it: a column as it is, a whole
// row, or what an expression gives.
type part struct {
	before []byte
	expr   *Expr
	column *ref
	append appender // of the column
	row    *side
	value  evalFunc
}

// payload compiles data.
func (c *ruleCompiler) payload(s *scope, ops opSet, p *Payload) *payload {
	out := &payload{}
	c.payloadPart(out, s, ops, p, true)
	return out
}

func (c *ruleCompiler) payloadPart(out *payload, s *scope, ops opSet, p *Payload, top bool) {
	switch p.Kind {
	case PayloadObject:
		for i := range p.Object {
			sep := byte(',')
			if i == 0 {
				sep = '{'
			}
			out.tail = append(appendString(append(out.tail, sep), []byte(p.Object[i].Name)), ':')
			c.payloadPart(out, s, ops, &p.Object[i].Value, false)
		}
		if len(p.Object) == 0 {
			out.tail = append(out.tail, '{')
		}
		out.tail = append(out.tail, '}')
	case PayloadList:
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
	default:
		if part, ok := c.valuePart(s, ops, p.Expr, top); ok {
			part.before, out.tail = out.tail, nil
			out.parts = append(out.parts, part)
			out.wholeNew = out.wholeNew || part.row != nil && *part.row == newRow
		}
	}
}

func (c *ruleCompiler) valuePart(s *scope, ops opSet, e *Expr, top bool) (part, bool) {
	if side, ok := c.wholeRow(s, ops, e); ok {
		return part{expr: e, row: &side}, true
	}
	checked := c.check(s, ops, e)
	if checked == nil {
		return part{}, false
	}
	if top && !checked.isUnknown() && !checked.result.IsMap() {
		c.errs = append(c.errs, s.fail(e, 0, "write data: {name: expression}", "data must be an object, and this is %s", typeName(checked)))
	}
	compiler := s.compiler(checked)
	if column := compiler.column(checked.node); column != nil {
		return part{expr: e, column: column, append: c.encoding.appender(c.rel.Columns[column.column].Type)}, true
	}
	return part{expr: e, value: compiler.value(checked.node)}, true
}

// wholeRow recognises `new` and `old` alone.
func (c *ruleCompiler) wholeRow(s *scope, ops opSet, e *Expr) (side, bool) {
	side, ok := s.rows[e.Text]
	if ok && side == oldRow && ops.has(opsOf(change.Update)) && c.rel.Identity != change.IdentityFull {
		c.doubts = append(c.doubts, c.doubt(e, 0, "every column"))
	}
	return side, ok
}

// appendPayload appends data for the row.
func (m *Mapper) appendPayload(r *route, p *payload) error {
	for i := range p.parts {
		part := &p.parts[i]
		m.buf = append(m.buf, part.before...)
		var err error
		switch {
		case part.column != nil:
			v := m.row.column(part.expr, part.column)
			if v.Kind == change.Null {
				m.buf = append(m.buf, "null"...)
				break
			}
			if m.buf, err = part.append(m.buf, v.Data); err != nil {
				return valueError(m.row.rel, part.column.column, err)
			}
		case part.row != nil:
			if err = m.appendWhole(r, *part.row); err != nil {
				return err
			}
		default:
			if m.buf, err = appendValue(m.buf, part.value(&m.row)); err != nil {
				m.row.fail(part.expr, 0, "the result is not JSON", "")
			}
		}
	}
	m.buf = append(m.buf, p.tail...)
	return nil
}

func (m *Mapper) appendWhole(r *route, which side) (err error) {
	values, before := m.row.new, m.row.before
	if which == oldRow {
		values, before = m.row.old, nil
	}
	if values == nil {
		m.buf = append(m.buf, "null"...)
		return nil
	}
	m.buf, err = r.shape.appendRow(m.buf, values, before)
	return err
}
