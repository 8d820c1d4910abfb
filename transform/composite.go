package transform

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/walrill/walrill/change"
)

// member is one member of a JSON object: a column or a composite's attribute.
type member struct {
	name   []byte // `,"name":`
	append appender
}

func newMember(name string, t *change.Type, e encoding) member {
	quoted := appendString([]byte{','}, []byte(name))
	return member{append(quoted, ':'), e.appender(t)}
}

// appendNull appends the member with the value null.
func (m *member) appendNull(dst []byte) []byte {
	dst = append(dst, m.name...)
	return append(dst, "null"...)
}

// closeObject makes the members appended since start, each with a comma in
// front, an object.
func closeObject(dst []byte, start int) []byte {
	if len(dst) == start {
		return append(dst, '{', '}')
	}
	dst[start] = '{'
	return append(dst, '}')
}

// composite appends a row's text, (1,"a ""b""",), as an object. The form is
// that of record_out in src/backend/utils/adt/rowtypes.c.
type composite struct {
	name    string
	members []member
}

func newComposite(t *change.Type, e encoding) *composite {
	c := &composite{name: t.Name}
	for _, f := range t.Fields {
		c.members = append(c.members, newMember(f.Name, f.Type, e))
	}
	return c
}

func (c *composite) append(dst, text []byte) ([]byte, error) {
	if len(text) < 2 || text[0] != '(' || text[len(text)-1] != ')' {
		return dst, c.malformed()
	}
	start := len(dst)
	fields := 0
	text = text[1:]
	var err error
	for ; ; fields++ {
		if fields == len(c.members) {
			return c.ended(dst, start, text)
		}
		dst, text, err = c.field(dst, text, &c.members[fields])
		if err != nil {
			return dst, err
		}
		delim := text[0]
		text = text[1:]
		if delim == ')' {
			break
		}
	}
	if len(text) > 0 {
		return dst, c.malformed()
	}
	// An attribute that was added to the type after the row was printed.
	for fields++; fields < len(c.members); fields++ {
		dst = c.members[fields].appendNull(dst)
	}
	return closeObject(dst, start), nil
}

// ended checks that nothing follows the last attribute that is known. A type
// without any has the text ().
func (c *composite) ended(dst []byte, start int, text []byte) ([]byte, error) {
	if len(c.members) == 0 && string(text) == ")" {
		return closeObject(dst, start), nil
	}
	return dst, fmt.Errorf("type %s: the value has more than its %d attributes%w", c.name, len(c.members), errStale)
}

// errStale marks a value that does not fit its type as it was when its table was last announced: an attribute
// was added since, of which Postgres says nothing, or one was dropped.
var errStale = errors.New("")

func (c *composite) malformed() error { return fmt.Errorf("type %s: malformed row text", c.name) }

// field appends one attribute. The text that it returns starts with what ended the field,
// ',' or ')'.
func (c *composite) field(dst, text []byte, m *member) (out, rest []byte, err error) {
	if len(text) > 0 && (text[0] == ',' || text[0] == ')') {
		return m.appendNull(dst), text, nil
	}
	dst = append(dst, m.name...)
	if len(text) > 0 && text[0] == '"' {
		dst, text, err = c.quoted(dst, text[1:], m.append)
	} else {
		n := bytes.IndexAny(text, ",)")
		if n < 0 {
			return dst, text, c.malformed()
		}
		dst, err = m.append(dst, text[:n])
		text = text[n:]
	}
	if err == nil && (len(text) == 0 || text[0] != ',' && text[0] != ')') {
		err = c.malformed()
	}
	return dst, text, err
}

// quoted appends a value whose opening quote has been read. Inside, quotes
// and backslashes are doubled.
func (c *composite) quoted(dst, text []byte, value appender) (out, rest []byte, err error) {
	if n := bytes.IndexByte(text, '"'); n >= 0 && bytes.IndexByte(text[:n], '\\') < 0 && !bytes.HasPrefix(text[n+1:], []byte{'"'}) {
		dst, err = value(dst, text[:n])
		return dst, text[n+1:], err
	}
	start := len(dst)
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '\\':
			if i++; i == len(text) {
				return dst[:start], text, c.malformed()
			}
			ch = text[i]
		case ch == '"' && i+1 < len(text) && text[i+1] == '"':
			i++
		case ch == '"':
			dst, err = replaceTail(dst, start, value)
			return dst, text[i+1:], err
		}
		dst = append(dst, ch)
	}
	return dst[:start], text, c.malformed()
}
