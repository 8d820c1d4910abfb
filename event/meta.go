package event

// Meta is the :meta hash: what a pipeline knows of where its events come
// from. The zero Meta means that the pipeline is new to this Redis.
type Meta struct {
	System   string // Postgres's system identifier
	Timeline int32
	Epoch    uint8
	HTTP     string         // where the running daemon answers; empty when it does not
	Streams  map[string]int // partitions of each stream, by name
}

// IsZero reports whether nothing is recorded yet.
func (m Meta) IsZero() bool { return m.System == "" }
