package rehearse

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/transform"
)

// Tx is the transaction that changes are played in: always the same, since events may tell of it.
var Tx = change.Tx{CommitLSN: 1, EndLSN: 2, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), XID: 1}

// Event is an event by the fields of a test's expectation, as JSON.
type Event map[string]string

// eventOf copies an event, which belongs to the mapper.
func eventOf(e *event.Event) Event {
	out := Event{"stream": text(e.Stream.Name), "partition": fmt.Sprint(e.Partition), "type": text(e.Type), "key": text(string(e.Key)), "op": text(string(e.Op))}
	for name, data := range map[string][]byte{"data": e.Data, "old": e.Old, "unchanged": e.Unchanged, "headers": e.Headers} {
		if len(data) > 0 {
			out[name] = string(data)
		}
	}
	return out
}

func text(s string) string {
	out, _ := json.Marshal(s) // any string can be marshalled
	return string(out)
}

// stage is the tables of a test with the rows that they have.
type stage struct {
	tables map[string]*change.Relation
	rows   map[*change.Relation][][]change.Value
}

// Play runs a test: the rows that are given, then the changes, which are one transaction. The events are in the
// order in which they would be on the streams. The error is about the test or the mapping, with the place of what caused it.
func Play(m *transform.Mapper, tables map[string]*change.Relation, t *config.Test) ([]Event, error) {
	s := &stage{tables: tables, rows: map[*change.Relation][][]change.Value{}}
	for _, given := range t.Given {
		if err := s.give(given); err != nil {
			return nil, fmt.Errorf("%s: %w", given.At, err)
		}
	}
	m.Begin(Tx)
	events := []Event{}
	for i := range t.When {
		c, err := s.change(&t.When[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.When[i].At, err)
		}
		var made []event.Event
		err = WithKeys(func() (err error) { made, err = m.Map(c); return err })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.When[i].At, err)
		}
		for i := range made {
			events = append(events, eventOf(&made[i]))
		}
	}
	for _, e := range m.Commit() {
		events = append(events, eventOf(&e))
	}
	return events, nil
}

func (s *stage) give(given config.TestRow) error {
	rel, err := s.table(given.Table)
	if err != nil {
		return err
	}
	row, err := ParseRow([]byte(given.Row))
	if err != nil {
		return err
	}
	v, err := values(rel, row, nil)
	if err != nil {
		return err
	}
	s.rows[rel] = append(s.rows[rel], v)
	return nil
}

func (s *stage) table(name string) (*change.Relation, error) {
	if rel := s.tables[name]; rel != nil {
		return rel, nil
	}
	return nil, fmt.Errorf("the table %s is not described; write under `tables:` `%[1]s: {columns: {id: bigint}, key: id}`", name)
}

// change applies a change to the stage and gives what Postgres sends of it.
func (s *stage) change(c *config.TestChange) (*change.Change, error) {
	rel, err := s.table(c.Table)
	if err != nil {
		return nil, err
	}
	if c.Op == "truncate" {
		s.rows[rel] = nil
		return &change.Change{Op: change.Truncate, Relation: rel}, nil
	}
	row, err := ParseRow([]byte(c.Row))
	if err != nil {
		return nil, err
	}
	switch c.Op {
	case "insert":
		out, err := Insert(rel, change.Insert, row)
		s.rows[rel] = append(s.rows[rel], out.New)
		return out, err
	case "read":
		return Insert(rel, change.Read, row)
	}
	at, err := s.find(rel, row)
	if err != nil {
		return nil, err
	}
	before := s.rows[rel][at]
	if c.Op == "delete" {
		s.rows[rel] = slices.Delete(s.rows[rel], at, at+1)
		return deleted(rel, before)
	}
	set, err := ParseRow([]byte(c.Set))
	if err != nil {
		return nil, err
	}
	after, err := values(rel, set, before)
	if err != nil {
		return nil, err
	}
	s.rows[rel][at] = after
	return updated(rel, before, after)
}

// find is the one row that has these values.
func (s *stage) find(rel *change.Relation, by Row) (int, error) {
	found := -1
	for i, row := range s.rows[rel] {
		wanted, err := values(rel, by, row)
		switch {
		case err != nil:
			return 0, err
		case !same(wanted, row):
		case found >= 0:
			return 0, errors.New("more than one row is like `row`; name more of its columns")
		default:
			found = i
		}
	}
	if found < 0 {
		return 0, fmt.Errorf("no row of %s is like `row`; write it under `given:`, or insert it first", rel)
	}
	return found, nil
}
