package transform

import (
	"errors"
	"fmt"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// An appender appends a value, given as Postgres's text output, to dst as
// JSON. It keeps no value between calls, and text may alias dst. It is not
// safe for concurrent use.
//
// The JSON equals what to_jsonb makes of the value (json_categorize_type in
// Postgres's src/backend/utils/adt/json.c is the list of special types). The
// session that printed the text had TimeZone=UTC, DateStyle=ISO,
// IntervalStyle=postgres, bytea_output=hex, extra_float_digits=1 and
// client_encoding=UTF8.
type appender func(dst, text []byte) ([]byte, error)

// OIDs of built-in types whose text needs less care than their shape does.
const (
	oidInt8  = 20
	oidInt2  = 21
	oidInt4  = 23
	oidJSONB = 3802
)

// appenderFor chooses a type's appender. A type with no rule of its own is its text.
func appenderFor(t *change.Type) appender {
	if t == nil {
		return appendText
	}
	switch t.Shape {
	case change.ShapeBool:
		return appendBool
	case change.ShapeNumber:
		switch t.OID {
		case oidInt2, oidInt4, oidInt8:
			return appendVerbatim
		}
		return appendNumber
	case change.ShapeTimestamp:
		return appendTimestamp
	case change.ShapeTimestampTZ:
		return appendTimestampTZ
	case change.ShapeJSON:
		if t.OID == oidJSONB {
			return appendVerbatim
		}
		return new(jsonReader).append
	case change.ShapeArray:
		return newArray(t).append
	case change.ShapeVector:
		return newVector(t).append
	case change.ShapeComposite:
		return newComposite(t).append
	}
	return appendText
}

// appendVerbatim is for text that is JSON already.
func appendVerbatim(dst, text []byte) ([]byte, error) {
	if len(text) == 0 {
		return dst, errors.New("empty text")
	}
	return append(dst, text...), nil
}

func appendBool(dst, text []byte) ([]byte, error) {
	if len(text) == 1 {
		switch text[0] {
		case 't':
			return append(dst, "true"...), nil
		case 'f':
			return append(dst, "false"...), nil
		}
	}
	return dst, fmt.Errorf("boolean %q: want t or f", text)
}

func appendText(dst, text []byte) ([]byte, error) {
	return appendString(dst, text), nil
}

// appendString appends s, which is UTF-8, as a JSON string.
func appendString(dst, s []byte) []byte { return event.AppendJSON(dst, s) }
