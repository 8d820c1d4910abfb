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
	oidInt8    = 20
	oidInt2    = 21
	oidInt4    = 23
	oidFloat4  = 700
	oidFloat8  = 701
	oidNumeric = 1700
	oidJSONB   = 3802
)

// encoding is what can be chosen about the JSON of values.
type encoding struct {
	numbersAsText bool // bigint and numeric as strings
}

// appender chooses a type's appender. A type with no rule of its own is its text.
func (e encoding) appender(t *change.Type) appender {
	if t == nil {
		return appendText
	}
	switch t.Shape {
	case change.ShapeBool:
		return appendBool
	case change.ShapeNumber:
		return e.number(t.OID)
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
		return newArray(t, e).append
	case change.ShapeVector:
		return newVector(t, e).append
	case change.ShapeComposite:
		return newComposite(t, e).append
	}
	return appendText
}

func (e encoding) number(oid uint32) appender {
	switch oid {
	case oidInt2, oidInt4:
		return appendVerbatim
	case oidFloat4, oidFloat8:
		return appendNumber
	}
	switch {
	case e.numbersAsText:
		return appendText
	case oid == oidInt8:
		return appendVerbatim
	}
	return appendNumber
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
