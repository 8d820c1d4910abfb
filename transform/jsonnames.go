package transform

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

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

// appendRune is utf8.AppendRune, but for half of a surrogate pair, which is written as if
// it were a rune of its own.
func appendRune(dst []byte, r rune) []byte {
	if r >= 0xD800 && r < 0xE000 {
		return append(dst, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0x3F)
	}
	return utf8.AppendRune(dst, r)
}
