// Package event says what walrill publishes: events, their positions, the
// keys they live under and their form on the wire, both ways. It knows nothing of where
// changes come from or of the Redis client, and imports the standard library only.
package event

import (
	"hash/crc32"
	"time"
)

// Event is one domain event. Byte slices belong to who made the event; what
// takes an event copies what it keeps.
type Event struct {
	Stream    *Stream
	Partition int
	Position  Position
	Type      string // such as orders.created
	Key       []byte // the ordering key as text
	Op        byte   // c, u, d, t, r or m
	Table     string // such as public.orders
	Time      time.Time
	Tx        uint32
	Seq       uint64 // the partition's contiguous counter; set when the event is published
	Schema    int    // version of the data's schema in the catalogue; 0 when there is none
	// Shape is the schema that Schema is the version of. Until it was given one, both are 0. Events read back have none.
	Shape     *Schema
	Data      []byte // JSON object
	Old       []byte // JSON object or empty
	Unchanged []byte // JSON array or empty
	Headers   []byte // JSON object or empty: what the writer of an outbox row or a message put beside the data
	KeyData   []byte // the key's columns as a JSON object, for FormatDebezium; empty when the format or the event has none
}

// Stream is a named stream and the Redis keys of its partitions.
type Stream struct {
	Name string
	Keys []string // one a partition
	// Control is walrill's own, which no reader is meant to read: always in FormatFields.
	Control bool
}

// NewStream names a stream's keys: `orders` when it has one partition, else
// `orders:0`, `orders:1` and so on.
func NewStream(name string, partitions int) *Stream {
	s := &Stream{Name: name}
	if partitions <= 1 {
		s.Keys = []string{name}
		return s
	}
	for i := range partitions {
		s.Keys = append(s.Keys, partitionKey(name, i))
	}
	return s
}

// Partition is where events of a key go: CRC-32 (IEEE) of the key's text,
// modulo the number of partitions.
func (s *Stream) Partition(key []byte) int {
	if len(s.Keys) == 1 {
		return 0
	}
	return int(crc32.ChecksumIEEE(key) % uint32(len(s.Keys)))
}
