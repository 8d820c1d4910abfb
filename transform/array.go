package transform

import (
	"bytes"
	"errors"

	"github.com/walrill/walrill/change"
)

// maxDimensions is Postgres's MAXDIM.
const maxDimensions = 6

var errArray = errors.New("malformed array text")

// array appends Postgres's array text, {1,NULL,"a b"} or [0:1]={1,2}, as
// nested JSON arrays. The form is that of array_out in
// src/backend/utils/adt/arrayfuncs.c. JSON has no place for the bounds.
type array struct {
	elem  appender
	delim byte
}

func newArray(t *change.Type, e encoding) *array {
	a := &array{elem: e.appender(t.Elem), delim: t.Delim}
	if a.delim == 0 {
		a.delim = ','
	}
	return a
}

func (a *array) append(dst, text []byte) ([]byte, error) {
	if len(text) > 0 && text[0] == '[' {
		text = text[bytes.IndexByte(text, '=')+1:]
	}
	dst, rest, err := a.dimension(dst, text, 1)
	if err == nil && len(rest) > 0 {
		err = errArray
	}
	return dst, err
}

// dimension appends what is between a pair of braces and returns the text behind them.
func (a *array) dimension(dst, text []byte, depth int) (out, rest []byte, err error) {
	if len(text) < 2 || text[0] != '{' || depth > maxDimensions {
		return dst, text, errArray
	}
	dst = append(dst, '[')
	text = text[1:]
	if text[0] == '}' {
		return append(dst, ']'), text[1:], nil
	}
	for len(text) > 0 {
		switch text[0] {
		case '{':
			dst, text, err = a.dimension(dst, text, depth+1)
		case '"':
			dst, text, err = a.quoted(dst, text[1:])
		default:
			dst, text, err = a.bare(dst, text)
		}
		if err != nil || len(text) == 0 {
			break
		}
		delim := text[0]
		text = text[1:]
		switch delim {
		case a.delim:
			dst = append(dst, ',')
		case '}':
			return append(dst, ']'), text, nil
		default:
			return dst, text, errArray
		}
	}
	if err == nil {
		err = errArray
	}
	return dst, text, err
}

// bare appends an element that array_out saw no need to quote.
func (a *array) bare(dst, text []byte) (out, rest []byte, err error) {
	n := 0
	for n < len(text) && text[n] != a.delim && text[n] != '}' {
		n++
	}
	value := text[:n]
	switch {
	case n == 0:
		err = errArray
	case string(value) == "NULL":
		dst = append(dst, "null"...)
	default:
		dst, err = a.elem(dst, value)
	}
	return dst, text[n:], err
}

// quoted appends an element whose opening quote has been read.
func (a *array) quoted(dst, text []byte) (out, rest []byte, err error) {
	end := bytes.IndexByte(text, '"')
	if end < 0 {
		return dst, text, errArray
	}
	if bytes.IndexByte(text[:end], '\\') < 0 {
		dst, err = a.elem(dst, text[:end])
		return dst, text[end+1:], err
	}
	start := len(dst)
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			if i++; i < len(text) {
				dst = append(dst, text[i])
			}
		case '"':
			dst, err = replaceTail(dst, start, a.elem)
			return dst, text[i+1:], err
		default:
			dst = append(dst, text[i])
		}
	}
	return dst[:start], text, errArray
}

// replaceTail replaces dst from start on, an unescaped value, by its JSON.
// The room behind dst serves as scratch space, so that values nested in each
// other need none of their own.
func replaceTail(dst []byte, start int, value appender) ([]byte, error) {
	end := len(dst)
	out, err := value(dst, dst[start:end])
	n := copy(out[start:], out[end:])
	return out[:start+n], err
}

// vector appends int2vector and oidvector: elements between spaces.
type vector struct{ elem appender }

func newVector(t *change.Type, e encoding) *vector { return &vector{e.appender(t.Elem)} }

func (v *vector) append(dst, text []byte) ([]byte, error) {
	var err error
	dst = append(dst, '[')
	for i := 0; len(text) > 0; i++ {
		word, rest, _ := bytes.Cut(text, []byte(" "))
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = v.elem(dst, word); err != nil {
			return dst, err
		}
		text = rest
	}
	return append(dst, ']'), nil
}
