package event

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var when = time.Date(2026, 11, 3, 9, 5, 7, 42_001_999, time.FixedZone("", 3600))

// TestAppendEntryGolden fixes the bytes: they are a public contract.
func TestAppendEntryGolden(t *testing.T) {
	tests := map[string]struct {
		event Event
		want  []string
	}{
		"every field": {
			Event{Stream: NewStream("orders", 8), Partition: 3, Position: Position{23803720, 12}, Type: "order.paid",
				Key: []byte("a%2Fb/7"), Op: 'u', Table: "public.orders", Time: when, Tx: 4294967295, Seq: 1 << 40, Schema: 2,
				Data: []byte(`{"id": 7}`), Old: []byte(`{"id": 6}`), Unchanged: []byte(`["note"]`), Headers: []byte(`{"id":"9"}`)},
			[]string{"orders:3", "NOMKSTREAM", "23803720-12", "type", "order.paid", "key", "a%2Fb/7", "op", "u", "table", "public.orders",
				"time", "2026-11-03T08:05:07.042001Z", "tx", "4294967295", "seq", "1099511627776", "schema", "2",
				"data", `{"id": 7}`, "old", `{"id": 6}`, "unchanged", `["note"]`, "headers", `{"id":"9"}`},
		},
		"what is empty is absent": {
			Event{Stream: NewStream("audit", 1), Position: Position{1<<64 - 1, 1}, Op: 't', Time: time.Unix(0, 0), Seq: 1},
			[]string{"audit", "18446744073709551615-1", "type", "", "op", "t", "time", "1970-01-01T00:00:00.000000Z", "seq", "1"},
		},
		"binary and long": {
			Event{Stream: NewStream("a", 1), Position: Position{1, 1}, Type: "ü", Key: []byte("\r\n$5\x00"), Op: 'm',
				Time: time.Date(12345, 1, 2, 3, 4, 5, 0, time.UTC), Seq: 99, Data: []byte(strings.Repeat("x", 1000))},
			[]string{"a", "NOMKSTREAM", "1-1", "type", "ü", "key", "\r\n$5\x00", "op", "m", "time", "12345-01-02T03:04:05.000000Z", "seq", "99",
				"data", strings.Repeat("x", 1000)},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var want bytes.Buffer
			want.WriteString("before")
			for _, arg := range tc.want {
				fmt.Fprintf(&want, "$%d\r\n%s\r\n", len(arg), arg)
			}
			got, n := AppendEntry([]byte("before"), &tc.event)
			if diff := cmp.Diff(want.String(), string(got)); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
			if n != len(tc.want) {
				t.Errorf("%d arguments, want %d", n, len(tc.want))
			}
		})
	}
}

// TestEntryRoundTrip writes any event and reads it back the same.
func TestEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := drawEvent(t)
		wire, n := AppendEntry(nil, &e)
		args := readBulks(t, wire)
		if len(args) != n {
			t.Fatalf("%d arguments, said %d", len(args), n)
		}
		args = withoutNoMake(args)
		fields := map[string]any{}
		for i := 2; i < len(args); i += 2 {
			fields[args[i]] = args[i+1]
		}
		got, err := ParseEntry(args[1], fields)
		if err != nil {
			t.Fatal(err)
		}
		got.Stream, got.Partition = e.Stream, e.Partition
		e.Time = e.Time.Truncate(time.Microsecond)
		if diff := cmp.Diff(e, got, cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0)); diff != "" {
			t.Fatalf("event (-written +read):\n%s", diff)
		}
		if args[0] != e.Stream.Keys[e.Partition] {
			t.Fatalf("key %q", args[0])
		}
	})
}

func drawEvent(t *rapid.T) Event {
	bytes := rapid.SliceOfN(rapid.Byte(), 0, 40)
	e := Event{
		Stream:   NewStream(rapid.StringN(1, 10, -1).Draw(t, "stream"), rapid.IntRange(1, 12).Draw(t, "partitions")),
		Position: Position{rapid.Uint64().Draw(t, "commit"), rapid.Uint64().Draw(t, "ordinal")},
		Type:     rapid.String().Draw(t, "type"), Key: bytes.Draw(t, "key"), Op: rapid.Byte().Draw(t, "op"), Table: rapid.String().Draw(t, "table"),
		Time: time.UnixMicro(rapid.Int64Range(-62_000_000_000_000_000, 253_000_000_000_000_000).Draw(t, "time")).UTC(),
		Tx:   rapid.Uint32().Draw(t, "tx"), Seq: rapid.Uint64().Draw(t, "seq"), Schema: rapid.IntRange(0, 1<<40).Draw(t, "schema"),
		Data: bytes.Draw(t, "data"), Old: bytes.Draw(t, "old"), Unchanged: bytes.Draw(t, "unchanged"), Headers: bytes.Draw(t, "headers"),
	}
	e.Partition = rapid.IntRange(0, len(e.Stream.Keys)-1).Draw(t, "partition")
	return e
}

func readBulks(t *rapid.T, wire []byte) []string {
	var args []string
	r := bufio.NewReader(bytes.NewReader(wire))
	for {
		head, err := r.ReadString('\n')
		if err == io.EOF {
			return args
		}
		n, err := strconv.Atoi(strings.Trim(head, "$\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(r, b); err != nil || !bytes.HasSuffix(b, []byte("\r\n")) {
			t.Fatalf("bulk %q: %v", b, err)
		}
		args = append(args, string(b[:n]))
	}
}

func TestParseEntryErrors(t *testing.T) {
	good := func() map[string]any {
		return map[string]any{"type": "a", "op": "c", "time": "2026-11-03T08:05:07.042001Z", "seq": "1"}
	}
	if _, err := ParseEntry("1-1", good()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ id, field, value, want string }{
		{"x-1", "op", "c", `entry ID "x-1": want two decimal numbers`},
		{"1-1", "op", "", `op "": want one letter`},
		{"1-1", "time", "yesterday", "entry 1-1: time:"},
		{"1-1", "seq", "", `seq "" is not a number`},
		{"1-1", "tx", "-1", `tx "-1" is not a number`},
	} {
		fields := good()
		fields[tc.field] = tc.value
		if _, err := ParseEntry(tc.id, fields); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s = %q: error %v, want %q", tc.field, tc.value, err, tc.want)
		}
	}
}

func BenchmarkAppendEntry(b *testing.B) {
	e := Event{Stream: NewStream("accounts", 8), Partition: 3, Position: Position{23803720, 12}, Type: "accounts.updated",
		Key: []byte("123456"), Op: 'u', Table: "public.accounts", Time: when, Tx: 123456, Seq: 1234567,
		Data: []byte(strings.Repeat("x", 172))}
	buf, _ := AppendEntry(nil, &e)
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		buf, _ = AppendEntry(buf[:0], &e)
	}
}
