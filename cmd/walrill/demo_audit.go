package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/walrill/walrill/event"
)

// demoRow is a row as JSON: numbers are kept as they are written.
type demoRow map[string]any

func parseDemoRow(text []byte) (demoRow, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var row demoRow
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return row, decoder.Decode(&row)
}

func (r demoRow) String() string {
	text, err := json.Marshal(map[string]any(r))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// demoTables are rows by table and id.
type demoTables map[string]map[string]demoRow

// demoAudit adds up all events in commit order and notes what does not fit. It
// is pure: no clock and no server.
type demoAudit struct {
	events  int
	seqs    map[string]uint64 // of each partition's last event, by Redis key
	tables  demoTables        // what the events add up to
	purse   demoPurse
	gaps    []string // events missing or doubled
	strange []string // events that do not follow from those before
}

func newDemoAudit(openedAt uint64, money string) *demoAudit {
	return &demoAudit{seqs: map[string]uint64{}, tables: demoTables{}, purse: demoPurse{from: openedAt, want: money}}
}

// take takes the next event.
func (a *demoAudit) take(e *event.Event) {
	a.events++
	a.count(e)
	if want := e.Stream.Partition(e.Key); want != e.Partition {
		a.doubt(e, "is in partition %d, its key belongs into %d", e.Partition, want)
	}
	before, after := a.apply(e)
	if e.Table == "public.accounts" {
		a.purse.move(e.Position.Commit, before, after)
	} else {
		a.purse.move(e.Position.Commit, nil, nil)
	}
}

// count follows the partition's counter, which must run 1, 2, 3 and so on.
func (a *demoAudit) count(e *event.Event) {
	key := e.Stream.Keys[e.Partition]
	last := a.seqs[key]
	a.seqs[key] = e.Seq
	switch {
	case e.Seq == last+1:
	case e.Seq > last:
		a.gaps = append(a.gaps, fmt.Sprintf("%s: %d missing between seq %d and %d, before %v", key, e.Seq-last-1, last, e.Seq, e.Position))
	default:
		a.gaps = append(a.gaps, fmt.Sprintf("%s: seq %d comes again after %d, at %v", key, e.Seq, last, e.Position))
	}
}

// apply changes the row that the event is about, and returns it as it was and is.
func (a *demoAudit) apply(e *event.Event) (before, after demoRow) {
	data, old, unchanged, err := demoParts(e)
	if err != nil {
		a.doubt(e, "cannot be read: %v", err)
		return nil, nil
	}
	rows := a.tables[e.Table]
	if rows == nil {
		rows = map[string]demoRow{}
		a.tables[e.Table] = rows
	}
	id := fmt.Sprint(data["id"])
	before = rows[id]
	switch {
	case e.Op == 'c' && before != nil:
		a.doubt(e, "creates a row that is there")
	case (e.Op == 'u' || e.Op == 'd') && before == nil:
		a.doubt(e, "changes a row that is not there")
	}
	switch e.Op {
	case 'c', 'u':
		a.compare(e, before, old)
		for _, column := range unchanged {
			data[column] = before[column]
		}
		rows[id] = data
		return before, data
	case 'd':
		a.compare(e, before, data)
		delete(rows, id)
		return before, nil
	}
	a.doubt(e, "has op %c, which nobody did", e.Op)
	return before, before
}

func demoParts(e *event.Event) (data, old demoRow, unchanged []string, err error) {
	if data, err = parseDemoRow(e.Data); err != nil {
		return nil, nil, nil, err
	}
	if old, err = parseDemoRow(e.Old); err == nil && len(e.Unchanged) > 0 {
		err = json.Unmarshal(e.Unchanged, &unchanged)
	}
	return data, old, unchanged, err
}

// compare holds the old values that an event tells against the row as it was.
func (a *demoAudit) compare(e *event.Event, before, old demoRow) {
	for column, value := range old {
		if before != nil && !reflect.DeepEqual(before[column], value) {
			a.doubt(e, "says that %s was %v, the event before it %v", column, value, before[column])
		}
	}
}

func (a *demoAudit) doubt(e *event.Event, format string, args ...any) {
	a.strange = append(a.strange, fmt.Sprintf("%s %s %s at %v %s", e.Stream.Keys[e.Partition], e.Type, e.Key, e.Position, fmt.Sprintf(format, args...)))
}

// diff says how a table differs from what the events add up to.
func (t demoTables) diff(table string, want map[string]demoRow) (problems []string) {
	short := strings.TrimPrefix(table, "public.")
	for id, row := range want {
		if got, ok := t[table][id]; !ok {
			problems = append(problems, fmt.Sprintf("%s %s: the table has %v, the events nothing", short, id, row))
		} else if !reflect.DeepEqual(got, row) {
			problems = append(problems, fmt.Sprintf("%s %s: the table has %v, the events %v", short, id, row, got))
		}
	}
	for id, row := range t[table] {
		if _, ok := want[id]; !ok {
			problems = append(problems, fmt.Sprintf("%s %s: the table has nothing, the events %v", short, id, row))
		}
	}
	slices.Sort(problems)
	return problems
}
