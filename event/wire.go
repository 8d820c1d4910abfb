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
)

// TimeFormat is RFC 3339 with microseconds; times are in UTC.
const TimeFormat = "2006-01-02T15:04:05.000000Z07:00"

// AppendEntry appends the arguments of one XADD after its command name: key,
// ID and the fields in their order, each as a RESP bulk string. It returns
// the extended buffer and the number of arguments appended.
func AppendEntry(dst []byte, e *Event) ([]byte, int) {
	var scratch [48]byte
	dst = AppendBulkString(dst, e.Stream.Keys[e.Partition])
	dst = AppendBulk(dst, e.Position.AppendID(scratch[:0]))
	n := 2
	text := func(name, value string) {
		dst = AppendBulkString(AppendBulkString(dst, name), value)
		n += 2
	}
	bytes := func(name string, value []byte) {
		if len(value) > 0 {
			dst = AppendBulk(AppendBulkString(dst, name), value)
			n += 2
		}
	}
	text(fieldType, e.Type)
	bytes(fieldKey, e.Key)
	scratch[0] = e.Op
	bytes(fieldOp, scratch[:1])
	if e.Table != "" {
		text(fieldTable, e.Table)
	}
	bytes(fieldTime, e.Time.UTC().AppendFormat(scratch[:0], TimeFormat))
	if e.Tx != 0 {
		bytes(fieldTx, strconv.AppendUint(scratch[:0], uint64(e.Tx), 10))
	}
	bytes(fieldSeq, strconv.AppendUint(scratch[:0], e.Seq, 10))
	if e.Schema > 0 {
		bytes(fieldSchema, strconv.AppendInt(scratch[:0], int64(e.Schema), 10))
	}
	bytes(fieldData, e.Data)
	bytes(fieldOld, e.Old)
	bytes(fieldUnchanged, e.Unchanged)
	return dst, n
}

// AppendBulk appends b as a RESP bulk string.
func AppendBulk(dst, b []byte) []byte {
	dst = append(dst, '$')
	dst = strconv.AppendInt(dst, int64(len(b)), 10)
	dst = append(dst, '\r', '\n')
	dst = append(dst, b...)
	return append(dst, '\r', '\n')
}

// AppendBulkString appends s as a RESP bulk string.
func AppendBulkString(dst []byte, s string) []byte {
	dst = append(dst, '$')
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, '\r', '\n')
	dst = append(dst, s...)
	return append(dst, '\r', '\n')
}

// ParseEntry reads an entry of a stream's partition back. The event's stream
// and partition are the caller's to set.
func ParseEntry(id string, fields map[string]any) (Event, error) {
	var e Event
	pos, err := ParseID(id)
	if err != nil {
		return e, err
	}
	get := func(name string) string {
		s, _ := fields[name].(string)
		return s
	}
	e = Event{Position: pos, Type: get(fieldType), Key: []byte(get(fieldKey)), Table: get(fieldTable),
		Data: []byte(get(fieldData)), Old: []byte(get(fieldOld)), Unchanged: []byte(get(fieldUnchanged))}
	if op := get(fieldOp); len(op) == 1 {
		e.Op = op[0]
	} else {
		return e, fmt.Errorf("entry %s: op %q: want one letter", id, op)
	}
	if e.Time, err = time.Parse(TimeFormat, get(fieldTime)); err != nil {
		return e, fmt.Errorf("entry %s: time: %w", id, err)
	}
	number := func(name string, required bool) uint64 {
		s := get(name)
		if s == "" && !required {
			return 0
		}
		v, perr := strconv.ParseUint(s, 10, 64)
		if perr != nil && err == nil {
			err = fmt.Errorf("entry %s: %s %q is not a number", id, name, s)
		}
		return v
	}
	e.Tx = uint32(number(fieldTx, false))
	e.Seq = number(fieldSeq, true)
	e.Schema = int(number(fieldSchema, false))
	return e, err
}
