package event

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// fieldEvent is the one field of an entry in FormatCloudEvents: a CloudEvent 1.0 in its JSON form.
const fieldEvent = "event"

const bulkEvent = "$5\r\n" + fieldEvent + "\r\n"

// sequenceDigits: the sequence extension wants texts that sort as their numbers do.
const sequenceDigits = 20

func (w *Writer) prepareCloudEvents() {
	segment := url.PathEscape(w.pipeline)
	w.ceID = `{"specversion":"1.0","id":"` + string(appendInsideString(nil, w.pipeline)) + "/"
	w.ceSource = `","source":"/walrill/` + segment + "/"
	w.ceSchema = `,"dataschema":"urn:walrill:` + segment + ":"
}

// appendCloudEvent writes the event's parts as attributes, and data as it is. Dataschema ends with the catalogue's field.
// Attributes are no objects, so old and unchanged are their JSON as text; tx is text because the
// specification's integers have 32 bits with a sign.
func (w *Writer) appendCloudEvent(dst []byte, e *Event) ([]byte, int) {
	dst, n := appendHead(dst, e)
	dst = append(dst, bulkEvent...)
	start := len(dst)
	dst = append(dst, w.ceID...)
	dst = append(e.Position.AppendID(dst), '/')
	dst = appendInsideString(dst, e.Stream.Name)
	dst = append(dst, w.ceSource...)
	dst = appendSegment(dst, e.Stream.Keys[e.Partition])
	dst = appendInsideString(append(dst, `","type":"`...), e.Type)
	if len(e.Key) > 0 {
		dst = appendInside(append(dst, `","subject":"`...), e.Key)
	}
	dst = appendStamp(append(dst, `","time":"`...), e.Time.UTC())
	dst = append(dst, '"')
	if len(e.Data) > 0 {
		dst = append(dst, `,"datacontenttype":"application/json"`...)
	}
	if e.Schema > 0 {
		dst = append(dst, w.ceSchema...)
		dst = append(appendSegment(dst, e.Stream.Name), '/')
		subject := e.Table
		if e.Shape != nil {
			subject = e.Shape.subject()
		}
		dst = append(appendSegment(dst, subject), '/')
		dst = append(strconv.AppendUint(dst, uint64(e.Schema), 10), '"')
	}
	if len(e.Key) > 0 {
		dst = AppendJSON(append(dst, `,"partitionkey":`...), e.Key)
	}
	dst = appendSequence(append(dst, `,"sequence":"`...), e.Seq)
	dst = append(append(append(dst, `","op":"`...), e.Op), '"')
	if e.Table != "" {
		dst = append(appendInsideString(append(dst, `,"table":"`...), e.Table), '"')
	}
	if e.Tx != 0 {
		dst = append(strconv.AppendUint(append(dst, `,"tx":"`...), uint64(e.Tx), 10), '"')
	}
	if len(e.Old) > 0 {
		dst = AppendJSON(append(dst, `,"old":`...), e.Old)
	}
	if len(e.Unchanged) > 0 {
		dst = AppendJSON(append(dst, `,"unchanged":`...), e.Unchanged)
	}
	if len(e.Headers) > 0 {
		dst = AppendJSON(append(dst, `,"headers":`...), e.Headers)
	}
	if len(e.Data) > 0 {
		dst = append(append(dst, `,"data":`...), e.Data...)
	}
	return closeBulk(append(dst, '}'), start), n + 2
}

// parseCloudEvent is the inverse of appendCloudEvent.
func parseCloudEvent(pos Position, text string) (Event, error) {
	var ce struct {
		SpecVersion, Type, Subject, DataSchema, Sequence, Op, Table, Tx, Old, Unchanged, Headers string

		Time time.Time
		Data json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &ce); err != nil {
		return Event{}, fmt.Errorf("field %s: %w", fieldEvent, err)
	}
	e := Event{Position: pos, Type: ce.Type, Key: []byte(ce.Subject), Table: ce.Table, Time: ce.Time.UTC(),
		Data: ce.Data, Old: []byte(ce.Old), Unchanged: []byte(ce.Unchanged), Headers: []byte(ce.Headers)}
	var err error
	if e.Op, err = parseOp(ce.Op); err != nil {
		return e, err
	}
	if e.Seq, err = strconv.ParseUint(ce.Sequence, 10, 64); err != nil {
		return e, fmt.Errorf("sequence %q is not a number", ce.Sequence)
	}
	if ce.Tx != "" {
		tx, err := strconv.ParseUint(ce.Tx, 10, 32)
		if err != nil {
			return e, fmt.Errorf("tx %q is not a number", ce.Tx)
		}
		e.Tx = uint32(tx)
	}
	if ce.DataSchema != "" {
		if e.Schema, err = strconv.Atoi(ce.DataSchema[strings.LastIndexByte(ce.DataSchema, '/')+1:]); err != nil {
			return e, fmt.Errorf("dataschema %q does not end with a version", ce.DataSchema)
		}
	}
	return e, nil
}

// appendSequence appends a number with leading zeros.
func appendSequence(dst []byte, v uint64) []byte {
	var room [sequenceDigits]byte
	for i := len(room) - 1; i >= 0; i-- {
		room[i] = '0' + byte(v%10)
		v /= 10
	}
	return append(dst, room[:]...)
}

// appendSegment appends s as a segment of a URI's path.
func appendSegment(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~', c == ':':
			dst = append(dst, c)
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
