package rehearse

import (
	"fmt"
	"strings"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/transform"
)

// Upcast brings a test's event to its newest version with apply, and gives it as Play does. The error has the place of what caused it.
func Upcast(m transform.Mapping, apply func(*event.Event) error, t *config.Test) ([]Event, error) {
	u := t.Upcast
	stream := u.Stream
	if stream == "" {
		var err error
		if stream, err = streamOf(m, u.Type); err != nil {
			return nil, fmt.Errorf("%s: %w", u.At, err)
		}
	}
	e := event.Event{Stream: event.NewStream(stream, 1), Position: event.Position{Commit: uint64(Tx.CommitLSN), Ordinal: 1}, Type: u.Type, Key: []byte(u.Key), Op: 'u',
		Time: Tx.Time, Tx: Tx.XID, Schema: u.Version, Data: []byte(u.Data), Old: []byte(u.Old), Unchanged: []byte(u.Unchanged)}
	if err := apply(&e); err != nil {
		return nil, fmt.Errorf("%s: %w", u.At, err)
	}
	return []Event{eventOf(&e)}, nil
}

// streamOf is the stream that has events of the type with a version.
func streamOf(m transform.Mapping, typ string) (string, error) {
	list, err := m.Upcasts()
	if err != nil {
		return "", err
	}
	var streams []string
	for _, u := range list {
		if u.Type == typ {
			streams = append(streams, u.Stream)
		}
	}
	switch len(streams) {
	case 0:
		return "", fmt.Errorf("no rule makes %s with a `version`", typ)
	case 1:
		return streams[0], nil
	}
	return "", fmt.Errorf("%s is in the streams %s; name one with `stream`", typ, strings.Join(streams, ", "))
}
