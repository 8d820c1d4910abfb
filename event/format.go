package event

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Format is the form of a stream entry, by its name in the configuration.
type Format string

const (
	FormatFields      Format = "fields"      // the event's parts as fields; see AppendEntry
	FormatCloudEvents Format = "cloudevents" // one field, event: a CloudEvent as JSON
	FormatDebezium    Format = "debezium"    // key and value as Debezium Server's Redis sink writes them
)

// Writer writes entries in one format. It keeps nothing of an event, so that
// any number of goroutines may use it.
type Writer struct {
	format   Format
	pipeline string
	// Beginnings that are the same in every entry.
	ceSource, ceID, ceSchema string
	dbzName, dbzDB           string
}

// NewWriter makes a writer. The pipeline names the source of the events, and database is the
// name of the Postgres database, which FormatDebezium writes.
func NewWriter(format Format, pipeline, database string) *Writer {
	w := &Writer{format: format, pipeline: pipeline}
	w.prepareCloudEvents()
	w.prepareDebezium(database)
	return w
}

// Append appends the arguments of one XADD after its command name, as AppendEntry does, with
// the format's fields. It returns the extended buffer and the
// number of arguments appended. It allocates nothing beyond the buffer.
func (w *Writer) Append(dst []byte, e *Event) ([]byte, int) {
	if e.Stream.Control {
		return AppendEntry(dst, e)
	}
	switch w.format {
	case FormatCloudEvents:
		return w.appendCloudEvent(dst, e)
	case FormatDebezium:
		return w.appendDebezium(dst, e)
	}
	return AppendEntry(dst, e)
}

// ParseEntry reads an entry of a stream's partition back, whichever format it is in: a stream
// whose pipeline has changed its format holds both. The event's stream
// and partition are the caller's to set.
func ParseEntry(id string, fields map[string]any) (Event, error) {
	pos, err := ParseID(id)
	if err != nil {
		return Event{}, err
	}
	if text, ok := fields[fieldEvent].(string); ok {
		e, err := parseCloudEvent(pos, text)
		return e, of(id, err)
	}
	if text, ok := fields[fieldValue].(string); ok {
		e, err := parseDebezium(pos, text, fields)
		return e, of(id, err)
	}
	return parseFields(id, pos, fields)
}

// of names the entry that an error is about.
func of(id string, err error) error {
	if err != nil {
		return fmt.Errorf("entry %s: %w", id, err)
	}
	return nil
}

// ParseSeq reads no more of an entry than its seq, in any format. It reports
// false for an entry that is none of walrill's.
func ParseSeq(fields map[string]any) (uint64, bool) {
	text, _ := fields[fieldSeq].(string)
	if event, ok := fields[fieldEvent].(string); ok {
		var ce struct {
			Sequence string `json:"sequence"`
		}
		if json.Unmarshal([]byte(event), &ce) != nil {
			return 0, false
		}
		text = ce.Sequence
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	return seq, err == nil && seq > 0
}

// closeBulk makes what dst has since start a bulk string.
func closeBulk(dst []byte, start int) []byte {
	var room [24]byte
	head := appendBulkHead(room[:0], len(dst)-start)
	dst = append(dst, head...)
	copy(dst[start+len(head):], dst[start:])
	copy(dst[start:], head)
	return append(dst, '\r', '\n')
}
