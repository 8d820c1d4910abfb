package event

// Upcast is how events of one type come to the newest version of their data. It is for readers: what is published has the version
// that it was published with, for good.
type Upcast struct {
	Stream, Type string
	Version      int // the newest
	// Steps turn an event of a version, the key, into one of the next: its Data, Old, Unchanged and Schema. An event that a step
	// fails on stays as it was. Steps are not safe for concurrent use.
	Steps map[int]func(*Event) error
}
