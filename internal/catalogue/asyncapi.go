package catalogue

import (
	"regexp"
	"strconv"
)

// AsyncAPI is an AsyncAPI 3.0 document: a channel a stream, a message an event. The payload of a message is the
// event's data, its headers are the other fields of the entry.
func (c *Catalogue) AsyncAPI() any {
	d := asyncapi{names: map[string]bool{}}
	channels, operations := object{}, object{}
	for i := range c.Streams {
		s := &c.Streams[i]
		id := d.name(s.Name)
		channel, messages := d.channel(c, id, s)
		channels = append(channels, member{id, channel})
		operations = append(operations, member{"publish-" + id, object{
			{"action", "send"}, {"channel", reference("channels", id)}, {"messages", messages}}})
	}
	doc := object{{"asyncapi", "3.0.0"},
		{"info", object{{"title", c.Pipeline}, {"version", "1"},
			{"description", "What the walrill pipeline " + c.Pipeline + " publishes to Redis Streams. " + howFormat(c.Format)}}},
		{"defaultContentType", "application/json"}}
	if c.Host != "" {
		protocol := "redis"
		if c.TLS {
			protocol = "rediss"
		}
		doc = append(doc, member{"servers", object{{"redis", object{{"host", c.Host}, {"protocol", protocol}}}}})
	}
	return append(doc, member{"channels", channels}, member{"operations", operations}, member{"components", object{{"messages", d.messages}}})
}

func howFormat(format string) string {
	switch format {
	case "cloudevents":
		return "An entry has one field, event: a CloudEvent whose data is the payload."
	case "debezium":
		return "An entry has the fields key and value; the payload is before or after in value."
	}
	return "An entry's field data is the payload, its other fields are the headers."
}

type asyncapi struct {
	names    map[string]bool
	messages object
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

// name makes a name that components may have, and that nothing else has.
func (d *asyncapi) name(text string) string {
	base := notInNames.ReplaceAllString(text, "_")
	name := base
	for n := 2; d.names[name]; n++ {
		name = base + "-" + strconv.Itoa(n)
	}
	d.names[name] = true
	return name
}

func reference(path ...string) object {
	ref := "#"
	for _, p := range path {
		ref += "/" + p
	}
	return object{{"$ref", ref}}
}

func (d *asyncapi) channel(c *Catalogue, id string, s *Stream) (channel object, references []object) {
	channel = object{{"title", s.Name}}.with("description", s.Description)
	if len(s.Keys) == 1 {
		channel = append(channel, member{"address", s.Keys[0]})
	} else {
		var numbers []string
		for i := range s.Keys {
			numbers = append(numbers, strconv.Itoa(i))
		}
		channel = append(channel, member{"address", s.Name + ":{partition}"}, member{"parameters", object{{"partition", object{
			{"description", "CRC-32 (IEEE) of the key, modulo the number of partitions."}, {"enum", numbers}}}}})
	}
	messages := object{}
	references = []object{}
	for i := range s.Events {
		e := &s.Events[i]
		name := d.name(s.Name + "." + e.name())
		d.messages = append(d.messages, member{name, e.message(c.Format)})
		messages = append(messages, member{name, reference("components", "messages", name)})
		references = append(references, reference("channels", id, "messages", name))
	}
	channel = append(channel, member{"messages", messages})
	if s.Owner != "" {
		channel = append(channel, member{"x-owner", s.Owner})
	}
	return channel, references
}

func (e *Event) name() string {
	if e.Type == "" {
		return "any"
	}
	return e.Type
}

func (e *Event) message(format string) object {
	m := object{{"name", e.name()}, {"title", e.name()}}.with("description", e.Description)
	if format == "fields" {
		m = append(m, member{"headers", e.headers()})
	}
	if e.hasData() {
		m = append(m, member{"payload", e.dataSchema()})
	}
	if e.Sample != nil && len(e.Sample.Data) > 0 {
		m = append(m, member{"examples", []object{{{"payload", e.Sample.Data}}}})
	}
	if e.Owner != "" {
		m = append(m, member{"x-owner", e.Owner})
	}
	return m
}

// headers are the entry's fields beside data. All of them are text.
func (e *Event) headers() object {
	text := object{{"type", "string"}}
	properties := object{}
	if e.Type != "" {
		properties = append(properties, member{"type", object{{"const", e.Type}}})
	}
	properties = append(properties, member{"key", text.with("description", joined(e.Key))})
	if e.Table != "" {
		properties = append(properties, member{"table", object{{"const", e.Table}}})
	}
	properties = append(properties, member{"time", append(text, member{"format", "date-time"})}, member{"seq", text})
	if e.Version > 0 {
		properties = append(properties, member{"schema", object{{"const", strconv.Itoa(e.Version)}}})
	}
	return object{{"type", "object"}, {"properties", properties}}
}
