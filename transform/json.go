package transform

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf8"
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

// lastWins drops from the end of dst those of an object's members whose name comes again.
func lastWins(dst []byte, members []jsonMember) []byte {
	if !mayRepeat(dst, members) {
		return dst
	}
	last := make(map[string]int, len(members))
	for i, m := range members {
		last[unescapedName(dst[m.start:m.nameEnd])] = i
	}
	if len(last) == len(members) {
		return dst
	}
	start := members[0].start
	end := start
	for i, m := range members {
		if last[unescapedName(dst[m.start:m.nameEnd])] != i {
			continue
		}
		if end > start {
			dst[end] = ','
			end++
		}
		end += copy(dst[end:], dst[m.start:m.end])
	}
	return dst[:end]
}

// mayRepeat reports whether members can have a name in common: it is sure
// when they do not, and cheap for the objects one usually meets.
func mayRepeat(dst []byte, members []jsonMember) bool {
	if len(members) > 32 {
		return true
	}
	for i := range members {
		name := dst[members[i].start:members[i].nameEnd]
		if bytes.IndexByte(name, '\\') >= 0 {
			return len(members) > 1
		}
		for _, m := range members[:i] {
			if bytes.Equal(name, dst[m.start:m.nameEnd]) {
				return true
			}
		}
	}
	return false
}

// unescapedName resolves the escapes of a member's name, given with its
// quotes, so that names which mean the same are the same. The result is a key to
// compare by and not for show: half of a surrogate pair stays apart from every other text.
func unescapedName(quoted []byte) string {
	s := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(s, '\\') < 0 {
		return string(s)
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'u':
			r, n := escapedRune(s[i-1:])
			out = appendRune(out, r)
			i += n - 2
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			out = append(out, s[i])
		}
	}
	return string(out)
}

// escapedRune reads \uXXXX at the start of s, and the second half of a
// surrogate pair behind it. It returns the rune and the bytes read.
func escapedRune(s []byte) (rune, int) {
	high := hex4(s)
	if high >= 0xD800 && high < 0xDC00 && len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
		if low := hex4(s[6:]); low >= 0xDC00 && low < 0xE000 {
			return (high-0xD800)<<10 + (low - 0xDC00) + 0x10000, 12
		}
	}
	return high, min(6, len(s))
}

// hex4 reads the digits of \uXXXX, or -1.
func hex4(s []byte) rune {
	if len(s) < 6 {
		return -1
	}
	v, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(v)
}

// appendRune is utf8.AppendRune, but for half of a surrogate pair, which is written as if it were a rune of its own.
func appendRune(dst []byte, r rune) []byte {
	if r >= 0xD800 && r < 0xE000 {
		return append(dst, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0x3F)
	}
	return utf8.AppendRune(dst, r)
}
