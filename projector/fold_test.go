package projector

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
)

// table is a mirror in memory: what a store does with what a fold gives it.
type table map[string]map[string]json.RawMessage // by key

func (tb table) apply(t *rapid.T, f *fold) {
	if f.truncated {
		clear(tb)
	}
	for _, key := range f.deleted() {
		delete(tb, string(key))
	}
	for set, rows := range f.upserted() {
		for _, text := range rows {
			row := map[string]json.RawMessage{}
			if err := json.Unmarshal(text, &row); err != nil {
				t.Fatal(err)
			}
			key := fmt.Sprintf(`{"id":%s}`, row["id"])
			if set != "" && tb[key] == nil {
				t.Fatalf("a row that is not there keeps its values: %s", text)
			}
			if tb[key] == nil {
				tb[key] = map[string]json.RawMessage{}
			}
			maps.Copy(tb[key], row)
		}
	}
	f.reset()
}

func (tb table) stored(f *fold) lookup {
	return func(key []byte) (row, error) {
		have := tb[string(key)]
		if have == nil {
			return nil, nil
		}
		values := make(row, len(f.columns))
		for i, c := range f.columns {
			values[i] = have[c.As]
		}
		return values, nil
	}
}

func (tb table) text() []string {
	var lines []string
	for _, r := range tb {
		lines = append(lines, fmt.Sprintf("%s %s %s", r["id"], r["n"], r["body"]))
	}
	slices.Sort(lines)
	return lines
}

// source is the source's own table, which also makes the events: large values are not sent when an update leaves them alone.
type sourceTable struct {
	rows    map[int][2]string // n, body
	commit  uint64
	ordinal uint64
	seen    []event.Event
}

func (s *sourceTable) emit(op byte, data, old, unchanged string) {
	s.ordinal++
	s.seen = append(s.seen, event.Event{Op: op, Table: "public.t", Position: event.Position{Commit: s.commit, Ordinal: s.ordinal},
		Data: []byte(data), Old: []byte(old), Unchanged: []byte(unchanged)})
}

func (s *sourceTable) change(t *rapid.T) {
	id := rapid.IntRange(1, 5).Draw(t, "id")
	n := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "n"))
	have, there := s.rows[id]
	full := func(id int, r [2]string) string {
		return fmt.Sprintf(`{"id":%d,"n":%s,"body":%q,"unused":{"a":["]}"]}}`, id, r[0], r[1])
	}
	switch op := rapid.SampledFrom([]string{"insert", "update", "large", "delete", "move", "moveUnderAnotherKey", "truncate"}).Draw(t, "op"); {
	case op == "truncate":
		s.rows = map[int][2]string{}
		s.emit('t', "", "", "")
		s.emit('t', "", "", "")
	case op == "insert" && !there:
		s.rows[id] = [2]string{n, "body " + n}
		s.emit('c', full(id, s.rows[id]), "", "")
	case !there:
	case op == "update":
		s.rows[id] = [2]string{n, have[1]}
		s.emit('u', fmt.Sprintf(`{"id":%d,"n":%s}`, id, n), "", `["body","other"]`)
	case op == "large":
		s.rows[id] = [2]string{have[0], "large " + n}
		s.emit('u', full(id, s.rows[id]), "", "")
	case op == "delete":
		delete(s.rows, id)
		s.emit('d', fmt.Sprintf(`{"id":%d}`, id), "", "")
	default:
		to := id + 10*rapid.IntRange(0, 1).Draw(t, "to")
		if _, taken := s.rows[to]; taken && to != id {
			return
		}
		delete(s.rows, id)
		s.rows[to] = [2]string{n, have[1]}
		row := fmt.Sprintf(`{"id":%d,"n":%s}`, to, n)
		if op == "move" { // the ordering key stays: one event
			s.emit('u', row, fmt.Sprintf(`{"id":%d}`, id), `["body"]`)
			return
		}
		s.emit('d', fmt.Sprintf(`{"id":%d}`, id), "", "")
		s.emit('c', row, "", `["body"]`)
	}
}

// However events are cut into batches, and batches into parts, the mirror is what the source is at the end of each transaction.
func TestFoldFollowsTheSource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := &sourceTable{rows: map[int][2]string{}}
		columns := []Column{{Name: "id", As: "id", Type: "int"}, {Name: "n", As: "n", Type: "int"}, {Name: "body", As: "body", Type: "text"}}
		f, mirror := newFold(columns, []string{"id"}), table{}
		for src.commit = 1; src.commit <= 12; src.commit++ {
			src.ordinal, src.seen = 0, nil
			for range rapid.IntRange(1, 6).Draw(t, "changes") {
				src.change(t)
			}
			for i := range src.seen {
				e := &src.seen[i]
				if f.mayFlush(e) && rapid.IntRange(0, 3).Draw(t, "flush") == 0 {
					mirror.apply(t, f)
				}
				if err := f.add(e, mirror.stored(f)); err != nil {
					t.Fatal(err)
				}
			}
			if rapid.Bool().Draw(t, "commit") {
				mirror.apply(t, f)
				want := table{}
				for id, r := range src.rows {
					body, _ := json.Marshal(r[1])
					want[fmt.Sprint(id)] = map[string]json.RawMessage{"id": fmt.Append(nil, id), "n": []byte(r[0]), "body": body}
				}
				if diff := cmp.Diff(want.text(), mirror.text()); diff != "" {
					t.Fatalf("after transaction %d (-want +got):\n%s", src.commit, diff)
				}
			}
		}
	})
}

// An entry without a column that a view uses is no NULL: the table was altered.
func TestFoldMissesAColumn(t *testing.T) {
	f := newFold([]Column{{Name: "id", As: "id", Type: "int"}, {Name: "n", As: "n", Type: "int"}}, []string{"id"})
	for data, want := range map[string]string{`{"id":1}`: "n", `{"n":1}`: "id"} {
		err := f.add(&event.Event{Op: 'u', Table: "public.t", Data: []byte(data), Unchanged: []byte(`["other"]`)}, nil)
		schema, ok := err.(*SchemaError)
		if !ok || schema.Column != want {
			t.Errorf("%s: %v; want column %s missing", data, err, want)
		}
	}
}

func FuzzEachField(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"b":[1,{"c":"]"}],"d\u0065":null}`, `{"a":"\\\"","b":{}}`, ` { "a" : 1.5e3 , "b" : true } `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := map[string]json.RawMessage{}
		err := eachField(data, func(name, value []byte) { got[string(name)] = value })
		want := map[string]json.RawMessage{}
		if !json.Valid(data) || json.Unmarshal(data, &want) != nil || want == nil {
			return // nothing is promised but to end
		}
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		for name, value := range want {
			if string(got[name]) != string(value) {
				t.Errorf("%s: field %q is %s, want %s", data, name, got[name], value)
			}
		}
	})
}
