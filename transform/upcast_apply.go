package transform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// apply turns an event of the step's version into the next one. An event that it fails on stays as it was.
func (u *upcaster) apply(e *event.Event) error {
	out := *e
	out.Schema = u.From + 1
	if len(e.Data) == 0 { // of a truncate
		*e = out
		return nil
	}
	data, err := parseMembers(e.Data)
	if err != nil {
		return u.failed("", "data", err)
	}
	unchanged, err := parseNames(e.Unchanged)
	if err != nil {
		return u.failed("", "unchanged", err)
	}
	turned, err := u.turn(e, data, unchanged)
	if err != nil {
		return err
	}
	out.Data = appendMembers(nil, turned)
	if out.Old, err = u.old(e, data, turned, unchanged); err != nil {
		return err
	}
	unchanged = slices.DeleteFunc(unchanged, u.names)
	if out.Unchanged = nil; len(unchanged) > 0 {
		out.Unchanged = appendNames(nil, unchanged)
	}
	*e = out
	return nil
}

// old is what the step would have made of the row before, as far as it is known and differs.
func (u *upcaster) old(e *event.Event, data, turned []jsonPair, unchanged []string) ([]byte, error) {
	if len(e.Old) == 0 {
		return nil, nil
	}
	known, err := parseMembers(e.Old)
	if err != nil {
		return nil, u.failed("", "old", err)
	}
	before := slices.Clone(data)
	for _, m := range known {
		before = setMember(before, m.name, m.value)
		unchanged = slices.DeleteFunc(slices.Clone(unchanged), func(name string) bool { return name == m.name })
	}
	if before, err = u.turn(e, before, unchanged); err != nil {
		return nil, err
	}
	before = slices.DeleteFunc(before, func(m jsonPair) bool {
		at := memberAt(turned, m.name)
		return at >= 0 && bytes.Equal(turned[at].value, m.value)
	})
	if len(before) == 0 {
		return nil, nil
	}
	return appendMembers(nil, before), nil
}

// turn gives the members that the step makes of these. What it reads and Postgres did not send fails it.
func (u *upcaster) turn(e *event.Event, data []jsonPair, unchanged []string) ([]jsonPair, error) {
	values := make([]change.Value, len(u.rel.Columns))
	for i := range u.rel.Columns {
		name := u.rel.Columns[i].Name
		switch at := memberAt(data, name); {
		case at >= 0:
			values[i] = change.Value{Kind: change.Text, Data: data[at].value}
		case slices.Contains(unchanged, name):
			values[i] = change.Value{Kind: change.Unchanged}
		default:
			values[i] = null
		}
	}
	r := &u.row
	r.commit, r.time, r.xid = e.Position.Commit, e.Time, e.Tx
	r.set(opOf(e.Op), values, nil, nil, false)
	out := slices.DeleteFunc(slices.Clone(data), func(m jsonPair) bool { return u.removes(m.name) })
	for i := range u.set {
		value, err := u.set[i].append(nil, r, nil)
		if r.failed != nil {
			return nil, u.failed(r.failed.expr.where(r.failed.at), r.failed.text(), r.failed.err)
		}
		if err != nil {
			return nil, u.failed(u.Where, "member "+u.Set[i].Name, err)
		}
		out = setMember(out, u.Set[i].Name, value)
	}
	return out, nil
}

// failed says where a step failed. No value of the event is in it.
func (u *upcaster) failed(where, problem string, err error) error {
	return &Error{Where: where, Problem: fmt.Sprintf("the upcast of version %d of %s failed: %s", u.From, u.typ, problem), Err: err}
}

func opOf(op byte) change.Op {
	return map[byte]change.Op{'c': change.Insert, 'u': change.Update, 'd': change.Delete, 't': change.Truncate, 'r': change.Read}[op]
}

// jsonPair is a member of an object with its value as it is written.
type jsonPair struct {
	name  string
	value []byte
}

func memberAt(list []jsonPair, name string) int {
	return slices.IndexFunc(list, func(m jsonPair) bool { return m.name == name })
}

// setMember sets a member in its place, or behind the others.
func setMember(list []jsonPair, name string, value []byte) []jsonPair {
	if at := memberAt(list, name); at >= 0 {
		list[at].value = value
		return list
	}
	return append(list, jsonPair{name, value})
}

// parseMembers takes an object apart, in its order.
func parseMembers(text []byte) ([]jsonPair, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	var list []jsonPair
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		list = setMember(list, name.(string), value) // a decoder's names are strings
	}
	_, err := d.Token()
	return list, err
}

func appendMembers(dst []byte, list []jsonPair) []byte {
	dst = append(dst, '{')
	for i, m := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(appendString(dst, []byte(m.name)), ':'), m.value...)
	}
	return append(dst, '}')
}

func parseNames(text []byte) (names []string, err error) {
	if len(text) > 0 {
		err = json.Unmarshal(text, &names)
	}
	return names, err
}

func appendNames(dst []byte, names []string) []byte {
	for i, name := range names {
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		dst = appendString(append(dst, sep), []byte(name))
	}
	return append(dst, ']')
}
