package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The fields of an entry in FormatDebezium. Debezium Server has the first two, and record headers
// behind them under names in capitals; ours in small letters hold what an envelope has no place for.
// type, seq, schema, unchanged and headers are as in FormatFields.
const (
	fieldValue       = "value"
	fieldOrderingKey = "ordering_key"
)

const (
	bulkValue       = "$5\r\n" + fieldValue + "\r\n"
	bulkOrderingKey = "$12\r\n" + fieldOrderingKey + "\r\n"
)

const (
	// noKey is what Debezium Server writes for a key that is null.
	noKey = "default"
	// unavailable is Debezium's value of a column that Postgres did not send.
	unavailable = "__debezium_unavailable_value"
)

// prepareDebezium makes the parts of `source` that are the same in every entry.
func (w *Writer) prepareDebezium(database string) {
	w.dbzName = `,"source":{"version":"walrill","connector":"postgresql","name":"` + string(appendInsideString(nil, w.pipeline)) + `","ts_ms":`
	w.dbzDB = `","db":"` + string(appendInsideString(nil, database)) + `","sequence":"[\"`
}

func (w *Writer) appendDebezium(dst []byte, e *Event) ([]byte, int) {
	dst, n := appendHead(dst, e)
	dst = append(dst, bulkKey...)
	if len(e.KeyData) > 0 {
		dst = AppendBulk(dst, e.KeyData)
	} else {
		dst = AppendBulkString(dst, noKey)
	}
	dst = append(dst, bulkValue...)
	start := len(dst)
	dst = w.appendEnvelope(dst, e)
	dst = closeBulk(dst, start)
	n += 8 // key and value, type and seq
	dst = AppendBulkString(append(dst, bulkType...), e.Type)
	if len(e.Key) > 0 {
		dst = AppendBulk(append(dst, bulkOrderingKey...), e.Key)
		n += 2
	}
	dst = appendUint(append(dst, bulkSeq...), e.Seq)
	if e.Schema > 0 {
		dst = appendUint(append(dst, bulkSchema...), uint64(e.Schema))
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
	return dst, n
}

func (w *Writer) appendEnvelope(dst []byte, e *Event) []byte {
	switch e.Op {
	case 'm':
		dst = appendInsideString(append(dst, `{"message":{"prefix":"`...), e.Type)
		dst = append(dst, `","content":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, e.Data), `"}`...)
	case 'd':
		dst = append(appendOr(append(dst, `{"before":`...), e.Data), `,"after":null`...)
	default:
		dst = appendOr(append(dst, `{"before":`...), e.Old)
		dst = appendOr(append(dst, `,"after":`...), e.Data)
		dst = appendUnavailable(dst, e)
	}
	dst = w.appendSource(dst, e)
	dst = append(append(append(dst, `,"transaction":null,"op":"`...), e.Op), `","ts_ms":`...)
	dst = strconv.AppendInt(dst, e.Time.UnixMilli(), 10)
	return append(appendTimes(dst, e.Time), '}')
}

// appendSource tells where the change comes from. Lsn is the commit's, and
// sequence the two halves of the entry's ID, which ascend in the same way as Debezium's do.
func (w *Writer) appendSource(dst []byte, e *Event) []byte {
	schema, table, ok := strings.Cut(e.Table, ".")
	if !ok {
		schema, table = "", e.Table
	}
	snapshot := `,"snapshot":"false`
	if e.Op == 'r' {
		snapshot = `,"snapshot":"incremental`
	}
	dst = append(dst, w.dbzName...)
	dst = strconv.AppendInt(dst, e.Time.UnixMilli(), 10)
	dst = append(append(dst, snapshot...), w.dbzDB...)
	dst = append(strconv.AppendUint(dst, e.Position.Commit, 10), `\",\"`...)
	dst = append(strconv.AppendUint(dst, e.Position.Ordinal, 10), `\"]"`...)
	dst = appendTimes(dst, e.Time)
	dst = appendInsideString(append(dst, `,"schema":"`...), schema)
	dst = appendInsideString(append(dst, `","table":"`...), table)
	dst = append(dst, `","txId":`...)
	if e.Tx == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendUint(dst, uint64(e.Tx), 10)
	}
	_, lsn := SplitClock(e.Position.Commit)
	dst = strconv.AppendUint(append(dst, `,"lsn":`...), lsn, 10)
	return append(dst, `,"xmin":null}`...)
}

// appendTimes appends the time in the units that Debezium has since 2.6 beside ts_ms.
func appendTimes(dst []byte, t time.Time) []byte {
	us := t.UnixMicro()
	dst = strconv.AppendInt(append(dst, `,"ts_us":`...), us, 10)
	dst = strconv.AppendInt(append(dst, `,"ts_ns":`...), us, 10)
	if us == 0 {
		return dst
	}
	return append(dst, "000"...)
}

// appendOr appends a JSON object, or null when there is none.
func appendOr(dst, object []byte) []byte {
	if len(object) == 0 {
		return append(dst, "null"...)
	}
	return append(dst, object...)
}

// appendUnavailable adds the columns that Postgres did not send to the object
// that dst ends with. Unchanged is a JSON array of strings.
func appendUnavailable(dst []byte, e *Event) []byte {
	names := e.Unchanged
	if len(names) < 2 || len(e.Data) < 2 {
		return dst
	}
	dst = dst[:len(dst)-1]
	empty := len(bytes.TrimSpace(e.Data[1:len(e.Data)-1])) == 0
	for names = names[1:]; len(names) > 1; {
		n := nameEnd(names)
		if !empty {
			dst = append(dst, ',')
		}
		dst = append(append(dst, names[:n]...), `:"`+unavailable+`"`...)
		names, empty = names[n+1:], false
	}
	return append(dst, '}')
}

// nameEnd is where the string ends that an array's rest begins with.
func nameEnd(names []byte) int {
	for i := 1; i < len(names)-1; i++ {
		switch names[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(names) - 1
}

// debeziumValue is an envelope, as far as it is read.
type debeziumValue struct {
	Before, After json.RawMessage
	Source        struct {
		Schema, Table string
		TxID          uint32 `json:"txId"`
	}
	Op      string
	TSus    *int64 `json:"ts_us"`
	Message struct{ Content []byte }
}

// parseDebezium is the inverse of appendDebezium. Of a row before the change that is there whole,
// Old is what differs, as in the other formats.
func parseDebezium(pos Position, text string, fields map[string]any) (Event, error) {
	var value debeziumValue
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return Event{}, fmt.Errorf("field %s: %w", fieldValue, err)
	}
	get := func(name string) []byte {
		s, _ := fields[name].(string)
		return []byte(s)
	}
	e := Event{Position: pos, Type: string(get(fieldType)), Key: get(fieldOrderingKey), KeyData: get(fieldKey), Unchanged: get(fieldUnchanged), Headers: get(fieldHeaders),
		Table: value.Source.Table, Tx: value.Source.TxID}
	if value.Source.Schema != "" {
		e.Table = value.Source.Schema + "." + e.Table
	}
	if string(e.KeyData) == noKey {
		e.KeyData = nil
	}
	if value.TSus == nil {
		return e, errors.New("ts_us is missing: the entry is not walrill's")
	}
	e.Time = time.UnixMicro(*value.TSus).UTC()
	var err error
	if e.Op, err = parseOp(value.Op); err != nil {
		return e, err
	}
	if e.Seq, err = strconv.ParseUint(string(get(fieldSeq)), 10, 64); err != nil {
		return e, fmt.Errorf("seq %q is not a number", get(fieldSeq))
	}
	if schema := get(fieldSchema); len(schema) > 0 {
		if e.Schema, err = strconv.Atoi(string(schema)); err != nil {
			return e, fmt.Errorf("schema %q is not a number", schema)
		}
	}
	return e, e.parseRows(&value)
}

// parseRows sets Data and Old.
func (e *Event) parseRows(value *debeziumValue) (err error) {
	before, after := orNothing(value.Before), orNothing(value.After)
	switch e.Op {
	case 'm':
		e.Data = value.Message.Content
		return nil
	case 'd':
		e.Data = before
		return nil
	}
	if e.Data = after; len(e.Unchanged) > 0 && after != nil {
		if e.Data, err = withoutUnavailable(after, e.Unchanged); err != nil {
			return err
		}
	}
	if before != nil && after != nil {
		e.Old, err = differences(before, e.Data)
	}
	return err
}

// orNothing is nil for null.
func orNothing(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// withoutUnavailable removes what appendUnavailable added, which is at the end.
func withoutUnavailable(row, unchanged []byte) ([]byte, error) {
	var names []string
	if err := json.Unmarshal(unchanged, &names); err != nil {
		return nil, fmt.Errorf("field %s: %w", fieldUnchanged, err)
	}
	added := appendUnavailable([]byte("{}"), &Event{Data: []byte("{}"), Unchanged: unchanged})
	added = added[1:]
	if rest, ok := bytes.CutSuffix(row, append([]byte{','}, added...)); ok {
		return append(rest[:len(rest):len(rest)], '}'), nil
	}
	if rest, ok := bytes.CutSuffix(row, added); ok {
		return append(rest[:len(rest):len(rest)], '}'), nil
	}
	return nil, fmt.Errorf("field %s: after does not end with the columns %s", fieldUnchanged, unchanged)
}

// differences is an object of those of before's members that after has with
// another value, in before's order; nil when there are none.
func differences(before, after []byte) ([]byte, error) {
	var now map[string]json.RawMessage
	if err := json.Unmarshal(after, &now); err != nil {
		return nil, fmt.Errorf("after: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(before))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("before is not an object")
	}
	var old []byte
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("before: %w", err)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("before: %w", err)
		}
		text, _ := name.(string) // as names of members are
		if w, ok := now[text]; ok && !bytes.Equal(v, w) {
			old = appendInsideString(append(old, `,"`...), text)
			old = append(append(old, `":`...), v...)
		}
	}
	if old == nil {
		return nil, nil
	}
	old[0] = '{'
	return append(old, '}'), nil
}
