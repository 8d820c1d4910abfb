package consumer

import (
	"fmt"

	"github.com/walrill/walrill/event"
)

// Upcaster turns events of earlier versions of their data into the newest one, for readers that know only that. It is not safe for
// concurrent use. mapfile.Upcaster makes one of a configuration file.
type Upcaster struct {
	types map[eventType]*event.Upcast
}

type eventType struct{ stream, name string }

// NewUpcaster returns an Upcaster for these types of events. It passes events of others as they are.
func NewUpcaster(list []event.Upcast) *Upcaster {
	u := &Upcaster{types: map[eventType]*event.Upcast{}}
	for i := range list {
		u.types[eventType{list[i].Stream, list[i].Type}] = &list[i]
	}
	return u
}

// VersionError says that an event has a version from which no way leads to the newest.
type VersionError struct {
	Stream, Type string
	Position     event.Position
	Version      int // of the event's data; 0 when it says none
	Newest       int // that the Upcaster knows
}

func (e *VersionError) Error() string {
	text := fmt.Sprintf("%s of stream %s at %s has version %d of its data, ", e.Type, e.Stream, e.Position, e.Version)
	if e.Version > e.Newest {
		return text + fmt.Sprintf("and the newest that is known here is %d; fix: read with the mapping that publishes it", e.Newest)
	}
	return text + fmt.Sprintf("and no upcast leads from there to %d; fix: write `upcast: {%d: …}` in its rule", e.Newest, max(e.Version, 1))
}

// UpcastError says that a step failed on an event. It holds no value of the event but its key.
type UpcastError struct {
	Stream, Type, Key string
	Position          event.Position
	Version           int // that the step is for
	Err               error
}

func (e *UpcastError) Error() string {
	return fmt.Sprintf("%s of stream %s at %s, key %q: %v", e.Type, e.Stream, e.Position, e.Key, e.Err)
}

func (e *UpcastError) Unwrap() error { return e.Err }

// Event brings an event to the newest version of its data: Data, Old, Unchanged and Schema become those of that version, in memory of
// their own. An event of a type without a version in the mapping stays as it is. The error is a *VersionError or an *UpcastError, and
// the event is as it was then: who goes on with it goes on with an earlier version.
func (u *Upcaster) Event(e *event.Event) error {
	up := u.types[eventType{e.Stream.Name, e.Type}]
	if up == nil {
		return nil
	}
	out := *e
	for out.Schema != up.Version {
		step := up.Steps[out.Schema]
		if step == nil || out.Schema > up.Version {
			return &VersionError{Stream: e.Stream.Name, Type: e.Type, Position: e.Position, Version: e.Schema, Newest: up.Version}
		}
		if err := step(&out); err != nil {
			return &UpcastError{Stream: e.Stream.Name, Type: e.Type, Key: string(e.Key), Position: e.Position, Version: out.Schema, Err: err}
		}
	}
	*e = out
	return nil
}
