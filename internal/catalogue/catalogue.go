// Package catalogue says what a pipeline publishes, in forms for people and for tools: JSON, JSON Schema,
// AsyncAPI and Markdown. It knows neither Postgres nor Redis: who calls it has asked them.
package catalogue

import (
	"bytes"
	"encoding/json"

	"github.com/walrill/walrill/event"
)

// Catalogue is everything that a pipeline publishes.
type Catalogue struct {
	Pipeline string   `json:"pipeline"`
	Format   string   `json:"format"` // of entries: fields, cloudevents or debezium
	Host     string   `json:"-"`      // of Redis, without user and password; empty when there is not just one
	TLS      bool     `json:"-"`
	Streams  []Stream `json:"streams"`
}

// Stream is one stream and the events that it holds.
type Stream struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Owner       string   `json:"owner,omitempty"`
	Keys        []string `json:"keys"` // of Redis, one a partition
	Events      []Event  `json:"events"`
}

// Event is a type of event of one table.
type Event struct {
	// Type is such as order.paid; empty when the application chooses it, as with an outbox.
	Type        string   `json:"type"`
	Table       string   `json:"table,omitempty"`
	View        bool     `json:"view,omitempty"`   // Table is a view's, which emits the event
	Prefix      string   `json:"prefix,omitempty"` // of logical messages, for events that are such
	On          []string `json:"on,omitempty"`     // insert, update, delete, truncate or read
	Key         []string `json:"key,omitempty"`    // the columns of the ordering key, or its expression
	Description string   `json:"description,omitempty"`
	Owner       string   `json:"owner,omitempty"`
	// Opaque data is whatever the application writes. Without a Type the event stands for all such of its table or prefix, and with
	// one for a type that was seen in the stream.
	Opaque bool `json:"opaque,omitempty"`
	// Version is that of the data as the mapping makes it now. When it is not Published, nothing was yet, and it is the next.
	Version   int     `json:"version,omitempty"`
	Published bool    `json:"published"`
	Fields    []Field `json:"fields,omitempty"` // of data, in their order; none when they are not known
	// Earlier are the other versions that streams may hold, as they stand in :catalogue, in their order.
	Earlier []event.Schema `json:"earlier,omitempty"`
	Sample  *Sample        `json:"sample,omitempty"` // the newest entry of the type
}

// Field is a member of data.
type Field struct {
	Name        string   `json:"name"`
	JSON        string   `json:"json"`             // integer, number, string, boolean, array, object or any
	Type        string   `json:"type,omitempty"`   // Postgres's
	Column      string   `json:"column,omitempty"` // that it is a copy of
	Mask        string   `json:"mask,omitempty"`   // how the values are hidden
	Required    bool     `json:"required"`         // it is in every event of the type
	Nullable    bool     `json:"nullable"`
	Enum        []string `json:"enum,omitempty"`
	Description string   `json:"description,omitempty"`
	Fields      []Field  `json:"fields,omitempty"` // of an object, or of each object of an array, whose members are known
}

// Sample is an entry as it was published.
type Sample struct {
	ID   string          `json:"id"`
	Key  string          `json:"key,omitempty"`
	Time string          `json:"time"`
	Data json.RawMessage `json:"data,omitempty"`
	Old  json.RawMessage `json:"old,omitempty"`
}

// hasData reports whether events of the type have data: a truncate has no row.
func (e *Event) hasData() bool {
	return e.Fields != nil || len(e.On) != 1 || e.On[0] != "truncate"
}

// object is a JSON object whose members stay in order.
type object []member

type member struct {
	name  string
	value any
}

// with appends a member unless its value is an empty text or list.
func (o object) with(name string, value any) object {
	switch v := value.(type) {
	case string:
		if v == "" {
			return o
		}
	case []string:
		if len(v) == 0 {
			return o
		}
	}
	return append(o, member{name, value})
}

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encoder.Encode(m.name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := encoder.Encode(m.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
