package event

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parked(commit, ordinal uint64, kind, stream, key, upTo, reason string) Parked {
	return Parked{Position: Position{Commit: commit, Ordinal: ordinal}, Kind: kind, Stream: stream, Key: key, UpTo: upTo, Reason: reason, Op: 'c', Table: "public.t"}
}

// An entry of :parked is read back as it was written, NULL and "not sent" told apart.
func TestParkedRoundTrip(t *testing.T) {
	text := "x\x01\"é"
	p := parked(7, 2, ParkedChange, "orders", "a/b", "", "no reason")
	p.Moved, p.New, p.Old = true, map[string]*string{"id": &text, "note": nil}, map[string]*string{}
	e, err := p.Event()
	if err != nil {
		t.Fatal(err)
	}
	e.Stream, e.Position, e.Time, e.Seq = &Stream{Name: "p", Keys: []string{"p"}, Control: true}, p.Position, time.Unix(0, 0), 1
	for _, format := range []Format{FormatFields, FormatCloudEvents, FormatDebezium} { // whatever the pipeline's is
		buf, _ := NewWriter(format, "shop", "db").Append(nil, &e)
		args, ok := bulks(buf)
		if !ok {
			t.Fatalf("%s: %q", format, buf)
		}
		fields := asFields(args[2:])
		got, err := ParseParked(args[1], fields)
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		p.Old = nil // an empty row and none are the same to who reads it
		if diff := cmp.Diff(p, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", format, diff)
		}
	}
}

func TestUnresolved(t *testing.T) {
	list, err := Unresolved([]Parked{
		parked(1, 1, ParkedChange, "a", "1", "", "first"),
		parked(1, 2, ParkedChange, "b", "1", "", "other stream"),
		parked(2, 1, ParkedChange, "a", "2", "", "dropped"),
		parked(3, 1, ParkedChange, "a", "1", "", ""),
		parked(4, 1, ParkedChange, "a", "1", "", ""),
		parked(5, 3, ParkedFailed, "a", "1", "1-1", "it is the second one now"),
		parked(6, 1, ParkedDropped, "a", "2", "2-1", ""),
		parked(7, 1, ParkedChange, "a", "2", "", "again"),
		parked(8, 1, ParkedFailed, "b", "1", "", "still"),
		parked(9, 1, ParkedChange, "c", "1", "", "released"),
		parked(10, 2, ParkedReleased, "c", "1", "9-1", ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Parked{
		parked(1, 2, ParkedChange, "b", "1", "", "still"),
		parked(3, 1, ParkedChange, "a", "1", "", "it is the second one now"),
		parked(4, 1, ParkedChange, "a", "1", "", ""),
		parked(7, 1, ParkedChange, "a", "2", "", "again"),
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := Unresolved([]Parked{parked(1, 1, ParkedDropped, "a", "1", "x", "")}); err == nil {
		t.Error("an ID that is none passes")
	}
}
