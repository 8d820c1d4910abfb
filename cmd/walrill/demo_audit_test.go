package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walrill/walrill/event"
)

// demoEvent is an event of partition 0 of a stream of one.
func demoEvent(op byte, table string, commit, ordinal, seq uint64, data, old string) event.Event {
	return event.Event{Stream: event.NewStream("s", 1), Position: event.Position{Commit: commit, Ordinal: ordinal},
		Op: op, Table: "public." + table, Key: []byte("1"), Seq: seq, Data: []byte(data), Old: []byte(old)}
}

// demoTransfer is a history with nothing wrong: two accounts, then 3.50 moved.
func demoTransfer() []event.Event {
	return []event.Event{
		demoEvent('c', "accounts", 10, 1, 1, `{"id":1,"balance":10.00}`, ""),
		demoEvent('c', "accounts", 20, 1, 2, `{"id":2,"balance":0.00}`, ""),
		demoEvent('u', "accounts", 30, 1, 3, `{"id":1,"balance":6.50}`, `{"balance":10.00}`),
		demoEvent('u', "accounts", 30, 2, 4, `{"id":2,"balance":3.50}`, `{"balance":0.00}`),
		demoEvent('c', "orders", 40, 1, 5, `{"id":7,"status":"paid"}`, ""),
		demoEvent('d', "orders", 50, 1, 6, `{"id":7,"status":"paid"}`, ""),
	}
}

func TestDemoAudit(t *testing.T) {
	tests := map[string]struct {
		change func([]event.Event) []event.Event
		want   string // in one of the problems; empty for none
	}{
		"all right":       {func(es []event.Event) []event.Event { return es }, ""},
		"a gap":           {func(es []event.Event) []event.Event { return append(es[:4], es[5:]...) }, "1 missing between seq 4 and 6"},
		"a missing start": {func(es []event.Event) []event.Event { return es[1:] }, "1 missing between seq 0 and 2"},
		"a repeated seq":  {func(es []event.Event) []event.Event { es[3].Seq = 3; return es[:4] }, "seq 3 comes again after 3"},
		"a repeated insert": {func(es []event.Event) []event.Event {
			return append(es, demoEvent('c', "accounts", 60, 1, 7, `{"id":1,"balance":6.50}`, ""))
		}, "creates a row that is there"},
		"a repeated update": {func(es []event.Event) []event.Event {
			return append(es, demoEvent('u', "accounts", 60, 1, 7, `{"id":1,"balance":6.50}`, `{"balance":10.00}`))
		}, "balance was 10.00, the event before it 6.50"},
		"a repeated delete": {func(es []event.Event) []event.Event {
			return append(es, demoEvent('d', "orders", 60, 1, 7, `{"id":7}`, ""))
		}, "changes a row that is not there"},
		"another partition": {func(es []event.Event) []event.Event {
			es[0].Stream, es[0].Partition, es[0].Seq = event.NewStream("p", 4), 0, 1
			return es[:1]
		}, "is in partition 0, its key belongs into 3"},
		"half a transaction": {func(es []event.Event) []event.Event { return append(es[:3], es[4:]...) }, "6.50 in all accounts after the transaction 0/1E:0"},
		"no balance":         {func(es []event.Event) []event.Event { es[0].Data = []byte(`{"id":1}`); return es[:1] }, "has no balance"},
		"no JSON":            {func(es []event.Event) []event.Event { es[0].Data = []byte(`{`); return es[:1] }, "cannot be read"},
		"a truncate":         {func(es []event.Event) []event.Event { es[5].Op = 't'; return es }, "has op t"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			audit := newDemoAudit(20, "10.00")
			for _, e := range tc.change(demoTransfer()) {
				audit.take(&e)
			}
			audit.purse.close()
			problems := fmt.Sprint(audit.gaps, audit.strange, audit.purse.problems)
			if tc.want == "" && problems != "[] [] []" || !strings.Contains(problems, tc.want) {
				t.Errorf("problems %s, want %q", problems, tc.want)
			}
		})
	}
}

func TestDemoTablesDiff(t *testing.T) {
	audit := newDemoAudit(0, "0")
	unchanged := demoEvent('u', "accounts", 60, 1, 7, `{"id":2}`, "")
	unchanged.Unchanged = []byte(`["balance"]`)
	for _, e := range append(demoTransfer(), unchanged) {
		audit.take(&e)
	}
	row := func(text string) demoRow {
		r, err := parseDemoRow([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	one, two := row(`{"id": 1, "balance": 6.50}`), row(`{"id": 2, "balance": 3.50}`)
	for want, table := range map[string]map[string]demoRow{
		"":                        {"1": one, "2": two},
		"the table has nothing":   {"1": one},
		"the events nothing":      {"1": one, "2": two, "3": one},
		`the events {"balance":6`: {"1": two, "2": two},
	} {
		got := strings.Join(audit.tables.diff("public.accounts", table), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("diff %q, want %q", got, want)
		}
	}
}

func TestDemoNumbers(t *testing.T) {
	for n, want := range map[string]string{"7": "7", "123": "123", "1234": "1,234", "1234567.80": "1,234,567.80"} {
		if got := demoGroup(n); got != want {
			t.Errorf("%s: got %s, want %s", n, got, want)
		}
	}
	if got := demoMoney(1905); got != "19.05" {
		t.Errorf("got %s", got)
	}
}
