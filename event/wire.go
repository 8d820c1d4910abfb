package event

import (
	"fmt"
	"strconv"
	"time"
)

// The fields of a stream entry, in the order they are written. A field that
// would be empty is absent.
const (
	fieldType      = "type"
	fieldKey       = "key"
	fieldOp        = "op"
	fieldTable     = "table"
	fieldTime      = "time"
	fieldTx        = "tx"
	fieldSeq       = "seq"
	fieldSchema    = "schema"
	fieldData      = "data"
	fieldOld       = "old"
	fieldUnchanged = "unchanged"
	fieldHeaders   = "headers"
)

// TimeFormat is RFC 3339 with microseconds; times are in UTC.
const TimeFormat = "2006-01-02T15:04:05.000000Z07:00"

// AppendEntry appends the arguments of one XADD after its command name: key,
// NOMKSTREAM for all but a partition's first event, ID and the fields in their
// order, each as a RESP bulk string. It returns the extended buffer and the
// number of arguments appended. It allocates nothing beyond the buffer.
func AppendEntry(dst []byte, e *Event) ([]byte, int) {
	dst, n := appendHead(dst, e)
	dst = AppendBulkString(append(dst, bulkType...), e.Type)
	if len(e.Key) > 0 {
		dst = AppendBulk(append(dst, bulkKey...), e.Key)
		n += 2
	}
	dst = append(append(append(dst, bulkOp...), e.Op), '\r', '\n')
	if e.Table != "" {
		dst = AppendBulkString(append(dst, bulkTable...), e.Table)
		n += 2
	}
	dst = appendTime(append(dst, bulkTime...), e.Time)
	if e.Tx != 0 {
		dst = appendUint(append(dst, bulkTx...), uint64(e.Tx))
		n += 2
	}
	dst = appendUint(append(dst, bulkSeq...), e.Seq)
	if e.Schema > 0 {
		dst = appendUint(append(dst, bulkSchema...), uint64(e.Schema))
		n += 2
	}
	if len(e.Data) > 0 {
		dst = AppendBulk(append(dst, bulkData...), e.Data)
		n += 2
	}
	if len(e.Old) > 0 {
		dst = AppendBulk(append(dst, bulkOld...), e.Old)
		n += 2
	}
	if len(e.Unchanged) > 0 {
		dst = AppendBulk(append(dst, bulkUnchanged...), e.Unchanged)
		n += 2
	}
	if len(e.Headers) > 0 {
		dst = AppendBulk(append(dst, bulkHeaders...), e.Headers)
		n += 2
	}
	return dst, n + 8 // type, op, time and seq are always there
}

// The names of the fields as bulk strings; op's is followed by the head of its
// value, which is one byte.
const (
	bulkType      = "$4\r\n" + fieldType + "\r\n"
	bulkKey       = "$3\r\n" + fieldKey + "\r\n"
	bulkOp        = "$2\r\n" + fieldOp + "\r\n$1\r\n"
	bulkTable     = "$5\r\n" + fieldTable + "\r\n"
	bulkTime      = "$4\r\n" + fieldTime + "\r\n"
	bulkTx        = "$2\r\n" + fieldTx + "\r\n"
	bulkSeq       = "$3\r\n" + fieldSeq + "\r\n"
	bulkSchema    = "$6\r\n" + fieldSchema + "\r\n"
	bulkData      = "$4\r\n" + fieldData + "\r\n"
	bulkOld       = "$3\r\n" + fieldOld + "\r\n"
	bulkUnchanged = "$9\r\n" + fieldUnchanged + "\r\n"
	bulkHeaders   = "$7\r\n" + fieldHeaders + "\r\n"
)

// AppendBulk appends b as a RESP bulk string.
func AppendBulk(dst, b []byte) []byte {
	dst = appendBulkHead(dst, len(b))
	dst = append(dst, b...)
	return append(dst, '\r', '\n')
}

// AppendBulkString appends s as a RESP bulk string.
func AppendBulkString(dst []byte, s string) []byte {
	dst = appendBulkHead(dst, len(s))
	dst = append(dst, s...)
	return append(dst, '\r', '\n')
}

func appendBulkHead(dst []byte, n int) []byte {
	dst = append(dst, '$')
	dst = strconv.AppendUint(dst, uint64(n), 10)
	return append(dst, '\r', '\n')
}

// appendUint appends a number as a bulk string.
func appendUint(dst []byte, v uint64) []byte {
	var digits [20]byte
	return AppendBulk(dst, strconv.AppendUint(digits[:0], v, 10))
}

// appendID appends an entry ID as a bulk string.
func appendID(dst []byte, p Position) []byte {
	var digits [41]byte
	return AppendBulk(dst, p.AppendID(digits[:0]))
}

// appendHead appends what stands before the fields. With NOMKSTREAM a stream that was there and is
// gone is not begun anew in its middle: the reply is nil then.
func appendHead(dst []byte, e *Event) ([]byte, int) {
	dst = AppendBulkString(dst, e.Stream.Keys[e.Partition])
	n := 2
	if e.Seq > 1 {
		dst = append(dst, "$10\r\nNOMKSTREAM\r\n"...)
		n++
	}
	return appendID(dst, e.Position), n
}

// appendTime appends a time in TimeFormat as a bulk string.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	if year := t.Year(); year < 0 || year > 9999 {
		var text [48]byte
		return AppendBulk(dst, t.AppendFormat(text[:0], TimeFormat))
	}
	return append(appendStamp(append(dst, "$27\r\n"...), t), "\r\n"...)
}

// appendStamp appends a time in UTC in TimeFormat. time.AppendFormat would
// take a third of the time that the whole entry does.
func appendStamp(dst []byte, t time.Time) []byte {
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, TimeFormat)
	}
	hour, minute, second := t.Clock()
	micro := t.Nanosecond() / 1000
	dst = append2(append2(dst, year/100), year%100)
	dst = append2(append(dst, '-'), int(month))
	dst = append2(append(dst, '-'), day)
	dst = append2(append(dst, 'T'), hour)
	dst = append2(append(dst, ':'), minute)
	dst = append2(append(dst, ':'), second)
	dst = append2(append(dst, '.'), micro/10000)
	dst = append2(append2(dst, micro/100%100), micro%100)
	return append(dst, 'Z')
}

// append2 appends two decimal digits.
func append2(dst []byte, v int) []byte { return append(dst, '0'+byte(v/10), '0'+byte(v%10)) }

// parseFields is the inverse of AppendEntry.
func parseFields(id string, pos Position, fields map[string]any) (Event, error) {
	get := func(name string) string {
		s, _ := fields[name].(string)
		return s
	}
	e := Event{Position: pos, Type: get(fieldType), Key: []byte(get(fieldKey)), Table: get(fieldTable),
		Data: []byte(get(fieldData)), Old: []byte(get(fieldOld)), Unchanged: []byte(get(fieldUnchanged)),
		Headers: []byte(get(fieldHeaders))}
	var err error
	if e.Op, err = parseOp(get(fieldOp)); err != nil {
		return e, fmt.Errorf("entry %s: %w", id, err)
	}
	if e.Time, err = time.Parse(TimeFormat, get(fieldTime)); err != nil {
		return e, fmt.Errorf("entry %s: time: %w", id, err)
	}
	number := func(name string, bits int, required bool) uint64 {
		s := get(name)
		if s == "" && !required {
			return 0
		}
		v, perr := strconv.ParseUint(s, 10, bits)
		if perr != nil && err == nil {
			err = fmt.Errorf("entry %s: %s %q is not a number", id, name, s)
		}
		return v
	}
	e.Tx = uint32(number(fieldTx, 32, false))
	e.Seq = number(fieldSeq, 64, true)
	e.Schema = int(number(fieldSchema, 63, false))
	return e, err
}

func parseOp(text string) (byte, error) {
	if len(text) != 1 {
		return 0, fmt.Errorf("op %q: want one letter", text)
	}
	return text[0], nil
}
