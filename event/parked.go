package event

import (
	"encoding/json"
	"fmt"
)

// Parked is an entry of the stream :parked. One of the kind parked is a change that could not be handled, or one behind
// such a change of the same stream and key. The others say what became of all entries of a stream and key up to UpTo.
type Parked struct {
	Position Position `json:"-"`
	Kind     string   `json:"-"` // the entry's type
	Key      string   `json:"-"` // ordering key
	Table    string   `json:"-"` // such as public.orders
	Op       byte     `json:"-"`

	Stream string `json:"stream"`
	Reason string `json:"reason,omitempty"` // with file, line and fix; empty for one that waits behind another
	Moved  bool   `json:"moved,omitempty"`  // half of an update that changed the key
	// New and Old are the rows after and before the change as far as Postgres sent them and the mapping
	// uses them, as Postgres's text; nil is NULL, and what is not there was not sent.
	New map[string]*string `json:"new,omitempty"`
	Old map[string]*string `json:"old,omitempty"`
	// Masked are those of their columns that hold masked values, each with its mask.
	Masked map[string]string `json:"masked,omitempty"`
	UpTo   string            `json:"up_to,omitempty"` // an entry ID
}

// The kinds of entries in :parked.
const (
	ParkedChange   = "parked"
	ParkedReleased = "released" // published after all
	ParkedDropped  = "dropped"  // given up
	ParkedFailed   = "failed"   // a retry failed, for Reason, behind what it could release
)

// ParkedKey is the stream of changes that could not be handled. Its entries are of FormatFields.
func ParkedKey(pipeline string) string { return controlKey(pipeline, "parked") }

// ParkedPrefix is that of the transactional logical message that holds a ParkedRequest as JSON.
const ParkedPrefix = "walrill.parked"

// ParkedRequest asks the daemon to do something about a parked key, at the request's own place in the WAL.
type ParkedRequest struct {
	Pipeline string `json:"pipeline"`
	Action   string `json:"action"` // retry or drop
	Stream   string `json:"stream"`
	Key      string `json:"key"`
}

// Event is the entry as an event of the stream :parked, its place apart.
func (p *Parked) Event() (Event, error) {
	data, err := json.Marshal(p)
	return Event{Type: p.Kind, Key: []byte(p.Key), Op: p.Op, Table: p.Table, Data: data}, err
}

// ParseParked reads an entry of :parked.
func ParseParked(id string, fields map[string]any) (Parked, error) {
	e, err := ParseEntry(id, fields)
	if err != nil {
		return Parked{}, err
	}
	p := Parked{Position: e.Position, Kind: e.Type, Key: string(e.Key), Table: e.Table, Op: e.Op}
	if err := json.Unmarshal(e.Data, &p); err != nil {
		return p, fmt.Errorf("entry %s: data: %w", id, err)
	}
	return p, nil
}

// Unresolved are the parked changes among the entries of :parked, in their order, that are neither released nor
// dropped. The first of each key has the latest reason.
func Unresolved(entries []Parked) ([]Parked, error) {
	type key struct{ stream, key string }
	resolved, reasons := map[key]Position{}, map[key]string{}
	for i := range entries {
		e := &entries[i]
		if e.Kind == ParkedChange {
			continue
		}
		k := key{e.Stream, e.Key}
		if reasons[k] = ""; e.Kind == ParkedFailed {
			reasons[k] = e.Reason
		}
		if e.UpTo == "" {
			continue
		}
		upTo, err := ParseID(e.UpTo)
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", e.Position.ID(), err)
		}
		resolved[k] = upTo
	}
	var list []Parked
	for _, e := range entries {
		k := key{e.Stream, e.Key}
		if e.Kind != ParkedChange || e.Position.Compare(resolved[k]) <= 0 {
			continue
		}
		if reason := reasons[k]; reason != "" {
			e.Reason, reasons[k] = reason, ""
		}
		list = append(list, e)
	}
	return list, nil
}

// Blocked are the keys whose changes are parked, by stream and key.
type Blocked map[string]bool

func blockedKey(stream, key string) string { return stream + "\x00" + key }

// Add blocks a key.
func (b Blocked) Add(stream, key string) { b[blockedKey(stream, key)] = true }

// Remove lets a key's changes through again.
func (b Blocked) Remove(stream, key string) { delete(b, blockedKey(stream, key)) }

// Has reports whether a key is blocked.
func (b Blocked) Has(stream string, key []byte) bool {
	return len(b) > 0 && b[blockedKey(stream, string(key))]
}
