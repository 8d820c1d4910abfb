package transform

import (
	"bytes"
	"fmt"
)

// maxDepth bounds how deep a json value may nest, far above what Postgres's
// default max_stack_depth lets in.
const maxDepth = 100_000

// jsonReader appends a value of type json as jsonb would hold it: no
// insignificant white space, exponents written out, and of members with the
// same name the last. (jsonb's own text is JSON of that kind already and is
// taken verbatim.) It copies from text value by value; its methods report whether the
// text was well-formed.
type jsonReader struct {
	text    []byte
	pos     int
	depth   int
	members []jsonMember // of the objects that are open, the innermost last; reused
}

func (r *jsonReader) append(dst, text []byte) ([]byte, error) {
	*r = jsonReader{text: text, members: r.members[:0]}
	dst, ok := r.value(dst)
	if ok {
		ok = r.peek() == 0 && r.pos == len(text)
	}
	r.text = nil
	if cap(r.members) > maxMembers {
		r.members = nil
	}
	if !ok {
		return dst, fmt.Errorf("malformed JSON at byte %d", r.pos)
	}
	return dst, nil
}

// maxMembers bounds the room that is kept for the next value.
const maxMembers = 1 << 12

// jsonMember is where a member stands in the output.
type jsonMember struct {
	start, nameEnd, end int
}

// peek skips white space and returns the next byte, 0 at the end.
func (r *jsonReader) peek() byte {
	for ; r.pos < len(r.text); r.pos++ {
		switch c := r.text[r.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (r *jsonReader) value(dst []byte) ([]byte, bool) {
	switch c := r.peek(); {
	case c == '{' || c == '[':
		if r.depth++; r.depth > maxDepth {
			return dst, false
		}
		var ok bool
		if c == '{' {
			dst, ok = r.object(dst)
		} else {
			dst, ok = r.array(dst)
		}
		r.depth--
		return dst, ok
	case c == '"':
		return r.string(dst)
	case c == '-' || c >= '0' && c <= '9':
		start := r.pos
		for r.pos < len(r.text) && numberByte(r.text[r.pos]) {
			r.pos++
		}
		return appendDecimal(dst, r.text[start:r.pos]), true
	}
	for _, word := range [...]string{"null", "true", "false"} {
		if bytes.HasPrefix(r.text[r.pos:], []byte(word)) {
			r.pos += len(word)
			return append(dst, word...), true
		}
	}
	return dst, false
}

func numberByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+' || c|0x20 == 'e'
}

// string copies a string with its quotes and escapes.
func (r *jsonReader) string(dst []byte) ([]byte, bool) {
	start := r.pos
	for i := start + 1; i < len(r.text); i++ {
		switch r.text[i] {
		case '\\':
			i++
		case '"':
			r.pos = i + 1
			return append(dst, r.text[start:r.pos]...), true
		}
	}
	return dst, false
}

func (r *jsonReader) array(dst []byte) ([]byte, bool) {
	dst = append(dst, '[')
	r.pos++
	if r.peek() == ']' {
		r.pos++
		return append(dst, ']'), true
	}
	for {
		var ok bool
		if dst, ok = r.value(dst); !ok {
			return dst, false
		}
		c := r.peek()
		if c != ',' && c != ']' {
			return dst, false
		}
		dst = append(dst, c)
		r.pos++
		if c == ']' {
			return dst, true
		}
	}
}

func (r *jsonReader) object(dst []byte) ([]byte, bool) {
	first := len(r.members)
	dst = append(dst, '{')
	r.pos++
	if r.peek() == '}' {
		r.pos++
		return append(dst, '}'), true
	}
	for {
		var ok bool
		if dst, ok = r.member(dst); !ok {
			return dst, false
		}
		c := r.peek()
		if c != ',' && c != '}' {
			return dst, false
		}
		r.pos++
		if c == '}' {
			dst = lastWins(dst, r.members[first:])
			r.members = r.members[:first]
			return append(dst, '}'), true
		}
		dst = append(dst, ',')
	}
}

func (r *jsonReader) member(dst []byte) ([]byte, bool) {
	m := jsonMember{start: len(dst)}
	if r.peek() != '"' {
		return dst, false
	}
	dst, ok := r.string(dst)
	if !ok || r.peek() != ':' {
		return dst, false
	}
	m.nameEnd = len(dst)
	dst = append(dst, ':')
	r.pos++
	if dst, ok = r.value(dst); !ok {
		return dst, false
	}
	m.end = len(dst)
	r.members = append(r.members, m)
	return dst, true
}
