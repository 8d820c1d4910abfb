package bridge

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// entriesOf reads a record of tests: words, table=entries.
func entriesOf(mapping string, table *change.Relation) (string, bool) {
	for word := range strings.FieldsSeq(mapping) {
		if name, entries, _ := strings.Cut(word, "="); name == table.Name {
			return entries, true
		}
	}
	return "", mapping != "?"
}

func TestCheckMapping(t *testing.T) {
	meta := event.Meta{Epoch: 1, Mapping: "a", Since: event.Clock(1, 100)}
	for name, tc := range map[string]struct {
		meta     event.Meta
		mapping  string
		complete uint64
		highest  uint64
		want     string
		former   bool
	}{
		"the same":                             {meta, "a", event.Clock(1, 200), event.Clock(1, 300), "", false},
		"another, nothing in part":             {meta, "b", event.Clock(1, 300), event.Clock(1, 299), "", false},
		"another, something in part":           {meta, "b", event.Clock(1, 300), event.Clock(1, 300), "", true},
		"another, of another version":          {event.Meta{Epoch: 1, Mapping: "?"}, "b", event.Clock(1, 300), event.Clock(1, 300), "the streams of the configuration have changed since: what was committed from 0/12C to 0/12C", false},
		"another, of the epoch before":         {meta, "b", event.Clock(0, 300), event.Clock(0, 400), "", false},
		"another, nothing at all":              {event.Meta{Mapping: "a"}, "b", 0, 0, "", false},
		"unknown":                              {event.Meta{Epoch: 1}, "b", event.Clock(1, 300), event.Clock(1, 400), "", false},
		"lost what an earlier one had written": {meta, "a", event.Clock(1, 90), event.Clock(1, 400), "Redis has lost entries from 0/5A on, and those before 0/64", false},
	} {
		o := Options{Mapping: tc.mapping, Entries: entriesOf}
		f, err := o.checkMapping(tc.meta, tc.complete, event.Position{Commit: tc.highest, Ordinal: 1})
		if (f != nil) != tc.former {
			t.Errorf("%s: heeds %v", name, f)
		}
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !isPermanent(err)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// naming is a mapper that notes the tables whose changes it maps.
type naming struct {
	noted
	at *event.Position
}

func (m naming) Begin(tx change.Tx) {
	m.noted.Begin(tx)
	*m.at = event.Position{Commit: uint64(tx.CommitLSN)}
}

func (m naming) Map(c *change.Change) ([]event.Event, error) {
	m.list.add(c.Relation.Name)
	m.at.Ordinal++
	return []event.Event{{Stream: m.stream, Position: *m.at}}, nil
}

func changes(end change.LSN, tables ...string) []change.Item {
	items := transaction(end)
	items[1].Changes = nil
	for _, name := range tables {
		items[1].Changes = append(items[1].Changes, change.Change{Op: change.Insert, Relation: &change.Relation{Namespace: "public", Name: name}})
	}
	return items
}

// formerly runs with streams that another mapping has filled up to 250, complete up to 150.
func formerly(t *testing.T, before, now string, items ...change.Item) (n *notes, pub *recorder, b *Bridge, stop func() error) {
	n, pub = &notes{}, &recorder{fakePublisher: &fakePublisher{}, meta: event.Meta{System: "7", Timeline: 1, Baseline: 50, Mapping: before, Streams: map[string]int{"t": 1}}}
	o, stream := options(newFakeStream(items...), pub.fakePublisher), event.NewStream("t", 1)
	o.Mapping, o.Entries = now, entriesOf
	o.NewMapper = func(uint8) (Mapper, error) {
		return naming{noted{fakeMapper{stream: stream}, "", n}, &event.Position{}}, nil
	}
	o.NewPublisher = func(wake func()) (Publisher, error) { pub.wake = wake; return pub, nil }
	o.Prepare = func(context.Context, Known) (Source, error) {
		return Source{SystemID: "7", Timeline: 1, SlotUsed: true, Tables: []*change.Relation{{Name: "t"}}}, nil
	}
	b, stop = run(t, o)
	return n, pub, b, stop
}

// recorder is a publisher that keeps :meta.
type recorder struct {
	*fakePublisher
	meta event.Meta
}

func (p *recorder) Connect(context.Context) (event.Meta, uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.meta, 150, nil
}

func (p *recorder) AddStream(context.Context, *event.Stream) (event.Position, error) {
	return event.Position{Commit: 250, Ordinal: 1}, nil
}

func (p *recorder) SaveMeta(_ context.Context, m event.Meta) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meta = m
	return nil
}

func (p *recorder) saved() (mapping string, since uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.meta.Mapping, p.meta.Since
}

// What is there in part is repeated without the tables that came to the file since, and the file's mapping is in force from the first
// transaction behind it.
func TestTableAddedAfterACrash(t *testing.T) {
	n, pub, _, stop := formerly(t, "t=1", "t=1 u=2", slices.Concat(changes(200, "u", "t", "u"), changes(251, "u", "t"), changes(300, "u", "t"))...)
	eventually(t, "all are mapped", func() bool { return n.all() == "0/C7 t 0/FA t 0/12B u t" })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if mapping, since := pub.saved(); mapping != "t=1 u=2" || since != 251 {
		t.Errorf("recorded %q since %d", mapping, since)
	}
}

// A crash before that leaves the record as it was.
func TestFormerMappingStaysRecorded(t *testing.T) {
	n, pub, _, stop := formerly(t, "t=1", "t=1 u=2", changes(250, "t")...)
	eventually(t, "it is mapped", func() bool { return n.all() == "0/F9 t" })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if mapping, _ := pub.saved(); mapping != "t=1" {
		t.Errorf("recorded %q", mapping)
	}
}

func TestTableMappedAnotherWayAfterACrash(t *testing.T) {
	for _, now := range []string{"t=2", "u=1"} {
		// As long as it does not change there, it is no trouble.
		n, _, _, stop := formerly(t, "t=1 u=1", now+" v=1", append(changes(200, "v"), changes(300, "t")...)...)
		eventually(t, "all are mapped", func() bool { return n.all() == "0/C7 0/12B t" })
		if err := stop(); err != nil {
			t.Error(err)
		}
		n, pub, b, stop := formerly(t, "t=1 u=1", now, append(changes(200, "t"), changes(300, "t")...)...)
		eventually(t, "it stops", func() bool { return b.Status().State == StateFailed })
		err := stop()
		if err == nil || !isPermanent(err) || !strings.Contains(err.Error(), "what was committed from 0/96 to 0/FA is published in part, as the earlier configuration says; "+
			"table public.t changed in it, and is mapped another way now\n  fix: put the earlier configuration back") {
			t.Errorf("%s: %v", now, err)
		}
		if mapping, _ := pub.saved(); mapping != "t=1 u=1" || n.all() != "0/C7" {
			t.Errorf("%s: recorded %q, mapped %s", now, mapping, n.all())
		}
	}
}

// The former mapping may have stopped at a change that the file was mended for, behind entries of the same transaction: those are repeated, and
// the change is mapped.
func TestMappingMendedAmidATransaction(t *testing.T) {
	n, pub, _, stop := formerly(t, "t=1 v=1", "t=1 u=2 v=2", append(changes(251, "t", "u", "v"), changes(300, "u")...)...)
	eventually(t, "all are mapped", func() bool { return n.all() == "0/FA t u v 0/12B u" })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if mapping, since := pub.saved(); mapping != "t=1 u=2 v=2" || since != 150 {
		t.Errorf("recorded %q since %d", mapping, since)
	}
	// A change like it that was passed before cannot be told from one that was not.
	_, _, b, stop := formerly(t, "t=1", "t=1 u=2", changes(251, "u", "t", "u")...)
	eventually(t, "it stops", func() bool { return b.Status().State == StateFailed })
	if err := stop(); err == nil || !strings.Contains(err.Error(), "table public.u changed in the middle of it, and was not mapped then") {
		t.Error(err)
	}
}
