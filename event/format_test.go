package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the entries in testdata")

// samples are events of every kind, by name.
func samples() (names []string, events []Event) {
	orders := NewStream("orders", 8)
	add := func(name string, e Event) {
		e.Stream, e.Partition, e.Position, e.Time, e.Tx = orders, 3, Position{23803720, uint64(len(events) + 1)}, when.Truncate(time.Microsecond).UTC(), 4294967295
		e.Seq = uint64(len(events) + 41)
		names, events = append(names, name), append(events, e)
	}
	row := []byte(`{"id": 7, "status": "paid", "note": "said \"hi\"\n"}`)
	add("insert", Event{Type: "orders.created", Op: 'c', Table: "public.orders", Key: []byte("7"), KeyData: []byte(`{"id":7}`), Data: row, Schema: 2})
	add("update", Event{Type: "orders.updated", Op: 'u', Table: "public.orders", Key: []byte("7"), KeyData: []byte(`{"id":7}`), Data: row})
	add("update under replica identity full", Event{Type: "orders.updated", Op: 'u', Table: "public.orders", Key: []byte("7"), KeyData: []byte(`{"id":7}`), Data: row,
		Old: []byte(`{"status":"new","note":null}`)})
	add("update without a toasted value", Event{Type: "orders.updated", Op: 'u', Table: "public.orders", Key: []byte("7"), KeyData: []byte(`{"id":7}`),
		Data: []byte(`{"id": 7}`), Unchanged: []byte(`["status","said \"hi\", \\"]`)})
	add("key of two columns", Event{Type: "lines.created", Op: 'c', Table: "shop.lines", Key: []byte("a%2Fb/é"), KeyData: []byte(`{"order":"a/b","line":"é"}`), Data: []byte(`{}`)})
	add("delete", Event{Type: "orders.deleted", Op: 'd', Table: "public.orders", Key: []byte("7"), KeyData: []byte(`{"id":7}`), Data: []byte(`{"id": 7}`)})
	add("truncate", Event{Type: "orders.truncated", Op: 't', Table: "public.orders"})
	add("backfill", Event{Type: "orders.read", Op: 'r', Table: "public.orders", Key: []byte("7"), KeyData: []byte(`{"id":7}`), Data: row})
	add("message", Event{Type: "mail.sent", Op: 'm', Key: []byte("a@example.com"), Data: []byte(`{"to": "a@example.com"}`)})
	events[len(events)-1].Position.Commit = Clock(2, 23803720)
	return names, events
}

// write is the entry of an event: its key, ID and fields, alternating names and values.
func write(t interface {
	Helper()
	Fatal(...any)
}, format Format, e *Event) (key, id string, fields []string) {
	t.Helper()
	buf, n := NewWriter(format, "shop", "shopdb").Append([]byte("before"), e)
	args, ok := bulks(bytes.TrimPrefix(buf, []byte("before")))
	if !ok || len(args) != n {
		t.Fatal("arguments said", n, "written", args, string(buf))
	}
	args = withoutNoMake(args)
	return args[0], args[1], args[2:]
}

// withoutNoMake leaves NOMKSTREAM out of the arguments of an XADD.
func withoutNoMake(args []string) []string {
	if args[1] == "NOMKSTREAM" {
		return slices.Delete(args, 1, 2)
	}
	return args
}

// bulks splits RESP bulk strings.
func bulks(wire []byte) (args []string, ok bool) {
	for len(wire) > 0 {
		head, rest, _ := bytes.Cut(wire, []byte("\r\n"))
		n, err := strconv.Atoi(strings.TrimPrefix(string(head), "$"))
		if err != nil || head[0] != '$' || len(rest) < n+2 || string(rest[n:n+2]) != "\r\n" {
			return args, false
		}
		args, wire = append(args, string(rest[:n])), rest[n+2:]
	}
	return args, true
}

func asFields(list []string) map[string]any {
	fields := map[string]any{}
	for i := 0; i < len(list); i += 2 {
		fields[list[i]] = list[i+1]
	}
	return fields
}

// TestFormats fixes the bytes, which are a public contract; -update rewrites them.
func TestFormats(t *testing.T) {
	names, events := samples()
	for _, format := range []Format{FormatFields, FormatCloudEvents, FormatDebezium} {
		t.Run(string(format), func(t *testing.T) {
			var got strings.Builder
			for i := range events {
				e := events[i]
				if format == FormatDebezium && e.Old != nil { // as Mapping.Envelope gives it
					e.Old = []byte(`{"id": 7, "status": "new", "note": null}`)
				}
				key, id, fields := write(t, format, &e)
				fmt.Fprintf(&got, "# %s\nXADD %s %s\n", names[i], key, id)
				for f := 0; f < len(fields); f += 2 {
					fmt.Fprintf(&got, "  %s %s\n", fields[f], fields[f+1])
				}
				back, err := ParseEntry(id, asFields(fields))
				if err != nil {
					t.Error(names[i], err)
				}
				compare(t, names[i], format, &events[i], &back)
				if seq, ok := ParseSeq(asFields(fields)); !ok || seq != e.Seq {
					t.Errorf("%s: seq %d %v, want %d", names[i], seq, ok, e.Seq)
				}
			}
			file := "testdata/" + string(format) + ".golden"
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
				t.Errorf("(-want +got, -update rewrites it):\n%s", diff)
			}
		})
	}
}

// compare compares an event with what was read back. Only debezium carries KeyData.
func compare(t interface{ Errorf(string, ...any) }, name string, format Format, want, got *Event) {
	w := *want
	w.Stream, w.Partition = nil, 0
	if format != FormatDebezium {
		w.KeyData = nil
	}
	if diff := cmp.Diff(w, *got, cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("%s (-written +read):\n%s", name, diff)
	}
}

// TestFormatsRoundTrip writes any event in any format and reads it back the same.
func TestFormatsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		format := rapid.SampledFrom([]Format{FormatFields, FormatCloudEvents, FormatDebezium}).Draw(t, "format")
		e := drawEvent(t)
		text := rapid.StringMatching(`[ -~é\n"\\/%]{0,12}`)
		e.Type, e.Key, e.Op = text.Draw(t, "type"), []byte(text.Draw(t, "key")), rapid.SampledFrom([]byte("cudtr")).Draw(t, "op")
		e.Table = rapid.SampledFrom([]string{"public.orders", `a"b.c.d`, "s\n.é"}).Draw(t, "table")
		e.Data, e.Old, e.Unchanged, e.KeyData, e.Headers = drawRow(t, "data"), nil, nil, drawRow(t, "key data"), drawRow(t, "headers")
		if e.Op == 'u' {
			if names := rapid.SliceOfN(text, 0, 3).Draw(t, "unchanged"); len(names) > 0 {
				e.Unchanged = encode(names)
			}
		}
		_, id, fields := write(t, format, &e)
		got, err := ParseEntry(id, asFields(fields))
		if err != nil {
			t.Fatal(err)
		}
		e.Time = e.Time.Truncate(time.Microsecond)
		compare(t, "event", format, &e, &got)
		if seq, ok := ParseSeq(asFields(fields)); seq != e.Seq || ok != (e.Seq > 0) {
			t.Fatalf("seq %d %v, want %d", seq, ok, e.Seq)
		}
	})
}

func drawRow(t *rapid.T, label string) []byte {
	text := rapid.StringMatching(`[ -~é\n"\\]{0,8}`)
	return encode(rapid.MapOfN(text, text, 0, 4).Draw(t, label))
}

func encode(v any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

// TestCloudEventsSDK has the official SDK read and validate what is written.
func TestCloudEventsSDK(t *testing.T) {
	names, events := samples()
	for i := range events {
		e := &events[i]
		_, id, fields := write(t, FormatCloudEvents, e)
		var got ce.Event
		if err := json.Unmarshal([]byte(fields[1]), &got); err != nil {
			t.Fatal(names[i], err)
		}
		if err := got.Validate(); err != nil {
			t.Error(names[i], err)
		}
		want := map[string]any{"id": "shop/" + id + "/orders", "source": "/walrill/shop/orders:3", "type": e.Type, "subject": string(e.Key), "data": string(e.Data),
			"time": e.Time, "op": string(rune(e.Op)), "sequence": fmt.Sprintf("%020d", e.Seq), "tx": fmt.Sprint(e.Tx), "version": "1.0"}
		have := map[string]any{"id": got.ID(), "source": got.Source(), "type": got.Type(), "subject": got.Subject(), "data": string(got.Data()),
			"time": got.Time().UTC(), "version": got.SpecVersion()}
		for _, name := range []string{"op", "sequence", "tx"} {
			have[name] = got.Extensions()[name]
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s (-want +got):\n%s", names[i], diff)
		}
		if key, _ := got.Extensions()["partitionkey"].(string); key != string(e.Key) {
			t.Errorf("%s: partitionkey %q", names[i], key)
		}
	}
}

// TestParseFormatErrors: an entry of another program is refused with its reason.
func TestParseFormatErrors(t *testing.T) {
	for _, tc := range []struct {
		fields map[string]any
		want   string
	}{
		{map[string]any{"event": "click"}, "entry 1-1: field event: invalid character"},
		{map[string]any{"event": `{"op":"c","sequence":"x"}`}, `entry 1-1: sequence "x" is not a number`},
		{map[string]any{"event": `{"sequence":"1"}`}, `entry 1-1: op "": want one letter`},
		{map[string]any{"event": `{"op":"c","sequence":"1","tx":"-1"}`}, `entry 1-1: tx "-1" is not a number`},
		{map[string]any{"event": `{"op":"c","sequence":"1","dataschema":"urn:x"}`}, `entry 1-1: dataschema "urn:x" does not end with a version`},
		{map[string]any{"value": "default", "key": "{}"}, "entry 1-1: field value: invalid character"}, // Debezium's tombstone
		{map[string]any{"value": `{"op":"c"}`, "seq": "1"}, "entry 1-1: ts_us is missing: the entry is not walrill's"},
		{map[string]any{"value": `{"op":"c","ts_us":1}`}, `entry 1-1: seq "" is not a number`},
		{map[string]any{"value": `{"op":"u","ts_us":1,"after":{"a":1}}`, "seq": "1", "unchanged": `["b"]`}, "entry 1-1: field unchanged: after does not end with the columns"},
		{map[string]any{"value": `{"op":"u","ts_us":1,"before":[],"after":{"a":1}}`, "seq": "1"}, "entry 1-1: before"},
	} {
		if _, err := ParseEntry("1-1", tc.fields); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: error %v, want %q", tc.fields, err, tc.want)
		}
	}
	for _, fields := range []map[string]any{{}, {"seq": "0"}, {"seq": "x"}, {"event": "x"}, {"event": `{"seq":"1"}`}} {
		if seq, ok := ParseSeq(fields); ok {
			t.Errorf("%v has the seq %d", fields, seq)
		}
	}
}

// FuzzParseEntry: whatever is in an entry, reading it ends with an event or an error.
func FuzzParseEntry(f *testing.F) {
	_, events := samples()
	for _, format := range []Format{FormatCloudEvents, FormatDebezium} {
		for i := range events {
			_, _, fields := write(f, format, &events[i])
			m := asFields(fields)
			text, _ := m[fieldEvent].(string)
			value, _ := m[fieldValue].(string)
			f.Add(text, value, string(events[i].Unchanged))
		}
	}
	f.Fuzz(func(t *testing.T, text, value, unchanged string) {
		for _, fields := range []map[string]any{{fieldEvent: text}, {fieldValue: value, fieldSeq: "1", fieldUnchanged: unchanged}} {
			if e, err := ParseEntry("1-1", fields); err == nil && (e.Op == 0 || e.Time.IsZero() && fields[fieldEvent] == nil) {
				t.Errorf("%v gives %+v", fields, e)
			}
		}
	})
}

func BenchmarkAppendFormats(b *testing.B) {
	_, events := samples()
	for _, format := range []Format{FormatFields, FormatCloudEvents, FormatDebezium} {
		b.Run(string(format), func(b *testing.B) {
			w := NewWriter(format, "shop", "shopdb")
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = w.Append(buf[:0], &events[0])
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}
