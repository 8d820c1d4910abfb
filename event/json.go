package event

import (
	"encoding/binary"
	"math/bits"
)

// AppendJSON appends s, which is UTF-8, as a JSON string.
func AppendJSON(dst, s []byte) []byte {
	return append(appendInside(append(dst, '"'), s), '"')
}

// appendInside appends s as the inside of a JSON string.
func appendInside(dst, s []byte) []byte {
	for {
		n := plainPrefix(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return dst
		}
		dst = appendEscape(dst, s[n])
		s = s[n+1:]
	}
}

// appendInsideString is appendInside for a string, most often one that is plain.
func appendInsideString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return appendInside(dst, []byte(s))
		}
	}
	return append(dst, s...)
}

// appendEscape appends a byte that a JSON string cannot hold as it is.
func appendEscape(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	}
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

// plainPrefix is how many bytes of s can stand in a JSON string as they are.
// It looks at eight bytes at a time: most text needs no escape at all.
func plainPrefix(s []byte) int {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if m := special(binary.LittleEndian.Uint64(s[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return i
		}
	}
	return i
}

// special sets the top bit of the first byte of w that needs an escape:
// a control character, a quote or a backslash. Bytes above that one may be
// marked wrongly, by the borrow.
func special(w uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote := w ^ ones*'"'
	backslash := w ^ ones*'\\'
	control := (w - ones*' ') &^ w
	return (control | (quote-ones)&^quote | (backslash-ones)&^backslash) & tops
}
