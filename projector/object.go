package projector

import (
	"bytes"
	"encoding/json"
	"errors"
)

var errObject = errors.New("not a JSON object")

// eachField calls f for the fields of a JSON object in their order, with the
// value as it is written. The JSON must be well-formed: it is what transform wrote.
func eachField(data []byte, f func(name, value []byte)) error {
	i := skipSpace(data, 0)
	if i >= len(data) || data[i] != '{' {
		return errObject
	}
	i = skipSpace(data, i+1)
	for i < len(data) && data[i] != '}' {
		if data[i] != '"' {
			return errObject
		}
		start := i
		if i = skipString(data, i); i < start+2 {
			return errObject
		}
		name := data[start+1 : i-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			var text string
			if err := json.Unmarshal(data[start:i], &text); err != nil {
				return err
			}
			name = []byte(text)
		}
		if i = skipSpace(data, i); i >= len(data) || data[i] != ':' {
			return errObject
		}
		start = skipSpace(data, i+1)
		if i = skipValue(data, start); i > len(data) || i == start {
			return errObject
		}
		f(name, data[start:i])
		if i = skipSpace(data, i); i < len(data) && data[i] == ',' {
			i = skipSpace(data, i+1)
		}
	}
	if i >= len(data) {
		return errObject
	}
	return nil
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skipString is behind the string that starts at i.
func skipString(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// skipValue is behind the value that starts at i.
func skipValue(data []byte, i int) int {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			i = skipString(data, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		case ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}
