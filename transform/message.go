package transform

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Messages says that a stream takes logical messages: an outbox without a table. Their content is a JSON object with
// type, key, data and headers.
type Messages struct {
	Prefix string     // of the messages that the stream takes
	Events []Declared // types whose data is declared; there may be others
	Where  string     // file:line for errors, optional
}

// Prefixes are those of the messages that streams take, sorted.
func (m *Mapping) Prefixes() []string {
	seen := map[string]bool{}
	for i := range m.Streams {
		if p := m.Streams[i].Messages.Prefix; p != "" {
			seen[p] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// message makes the events of a logical message: one a stream that takes its prefix.
func (m *Mapper) message(c *change.Change) error {
	for i := range m.mapping.Streams {
		s := &m.mapping.Streams[i]
		if s.Messages.Prefix == "" || s.Messages.Prefix != c.Prefix {
			continue
		}
		stream := m.byName[s.Name]
		e := event.Event{Stream: stream, Op: byte(change.Message), Time: m.time, Tx: m.xid}
		problem := m.readMessage(&e, c.Content)
		if problem == "" {
			if problem = m.declared[s.Name].give(&e); problem != "" {
				return &Error{Where: s.Messages.Where, Stream: s.Name, Problem: fmt.Sprintf("the message with prefix %s at %s cannot be an event: %s", c.Prefix, m.next(), problem), Fix: fixDeclared}
			}
		}
		if problem != "" {
			return &Error{Where: s.Messages.Where, Stream: s.Name,
				Problem: fmt.Sprintf("the message with prefix %s at %s cannot be an event: %s", c.Prefix, m.next(), problem),
				Fix: "have the application write {\"type\": \"order.paid\", \"key\": \"7\", \"data\": {…}}; to let this message pass, take `messages` out of the stream, " +
					"start walrill until it is past this position, and put it back"}
		}
		e.Partition = stream.Partition(e.Key)
		m.events = append(m.events, e)
	}
	return nil
}

// readMessage sets what a message's content says, or tells what is wrong with it, no values of it.
func (m *Mapper) readMessage(e *event.Event, content []byte) (problem string) {
	var members map[string]json.RawMessage
	switch {
	case !utf8.Valid(content):
		return "it is not UTF-8"
	case !json.Valid(content):
		return "it is not JSON"
	case json.Unmarshal(content, &members) != nil || members == nil:
		return "it is not a JSON object"
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		raw := members[name]
		switch name {
		case "type":
			if json.Unmarshal(raw, &e.Type) != nil {
				return "its type is not text"
			}
		case "key":
			var ok bool
			if e.Key, ok = messageKey(raw); !ok {
				return "its key is neither text nor a whole number"
			}
		case "data":
			e.Data = m.appendRaw(raw)
		case "headers":
			if !isJSON(raw, '{') {
				return "its headers are not a JSON object"
			}
			e.Headers = m.appendRaw(raw)
		default:
			return fmt.Sprintf("it has a member %q, and there are type, key, data and headers", name)
		}
	}
	if problem := badType(e.Type); problem != "" {
		return "its type " + problem
	}
	if e.Data == nil {
		return "it has no data"
	}
	return ""
}

// messageKey is a text, a whole number as it is written, or nothing for null.
func messageKey(raw json.RawMessage) ([]byte, bool) {
	if string(raw) == "null" {
		return nil, true
	}
	if raw[0] != '"' {
		return raw, strings.Trim(string(raw), "-0123456789") == ""
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return nil, false
	}
	return []byte(text), true
}

// appendRaw writes well-formed JSON without white space.
func (m *Mapper) appendRaw(raw []byte) []byte {
	start := len(m.buf)
	m.buf = appendCompact(m.buf, raw)
	return m.buf[start:]
}
