package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite the expected errors in testdata")

// environment makes the env argument of Load.
func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

const dbURL = "postgres://walrill:s3cret@db/shop"

// minimal is the least that loads, with more fields appended to its parts.
func minimal(source, sink, streams string) string {
	return "pipeline: shop\nsource:\n  url: " + dbURL + "\n" + source +
		"sink:\n  url: redis://localhost:6379\n" + sink +
		"streams:\n  orders:\n    tables: {public.orders: {}}\n" + streams
}

// kilos is the payload {value: …, unit: 'kg'}.
func kilos(value string) Payload {
	return Payload{Kind: PayloadObject, Object: []Member{{"value", Payload{Expr: &Expr{Text: value}}}, {"unit", Payload{Expr: &Expr{Text: "'kg'"}}}}}
}

func TestLoadFull(t *testing.T) {
	got, err := Load("testdata/full.yaml", environment(map[string]string{"DATABASE_URL": dbURL}))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Pipeline: "shop",
		Source: Source{URL: NewURL(dbURL), Slot: "walrill_shop", Publication: "walrill_shop",
			Backfill: BackfillInitial, OnSlotLoss: OnSlotLossStop, BackfillSet: true},
		Sink: Sink{URL: NewURL("redis://:secret@localhost:6379/0"), Format: FormatFields,
			Durability: Durability{Timeout: 5 * time.Second},
			Retention:  Retention{KeepUnread: true}},
		MasterKey: NewSecret("not a good master key, make your own"),
		Streams: []Stream{
			{Name: "orders", Partitions: 8, Compatibility: CompatibilityBackward, About: About{Description: "What happens to orders and their parcels", Owner: "team-orders"}, Tables: []Table{
				{Pattern: "public.orders", Key: []string{"id"}},
				{Pattern: "public.order_items", Key: []string{"order_id"}},
				{Pattern: "public.parcels", Key: []string{"order_id", "parcel"}, NumbersAsText: true,
					Columns: Columns{Exclude: []Name{{Name: "internal_note"}}, Rename: []Rename{{Name{Name: "cust"}, "customer_id"}}},
					Masks: []Mask{
						{Column: Name{Name: "email"}, Kind: MaskHash, Key: NewSecret("not a good key, make one"), Text: "***"},
						{Column: Name{Name: "recipient"}, Kind: MaskRedact, Text: "***"},
						{Column: Name{Name: "postcode"}, Kind: MaskTruncate, Text: "***", Keep: 3},
						{Column: Name{Name: "card"}, Kind: MaskLast, Text: "***", Keep: 4},
					},
					Encrypt: &Encrypt{Columns: []Name{{Name: "street"}, {Name: "phone"}}, Kind: "recipient", Subject: Name{Name: "cust"}},
					Events: []Rule{
						{Type: "parcel.sent", About: About{Description: "The parcel was handed over to the carrier"}, On: []On{OnUpdate}, When: &Expr{Text: `old.status != "sent" && new.status == "sent"`},
							Data: &Payload{Kind: PayloadObject, Object: []Member{{"parcel", Payload{Expr: &Expr{Text: "new.parcel"}}}, {"weight", kilos("new.weight")}}}, Version: 3,
							Upcasts: Upcasts{
								{From: 1, Set: []Member{{"parcel", Payload{Expr: &Expr{Text: "data.id"}}}}, Remove: []Name{{Name: "id"}, {Name: "note"}}},
								{From: 2, Set: []Member{{"weight", kilos("data.weight")}}},
							}},
						{Type: "parcel.changed", On: []On{OnUpdate}, Otherwise: true},
					}},
			}},
			{Name: "audit", Partitions: 1, Compatibility: CompatibilityBackward, Tables: []Table{
				{Pattern: "audit.*"},
				{Pattern: "audit.logins", Key: []string{"user_id"}},
			}},
			{Name: "baskets", Partitions: 1, Compatibility: CompatibilityBackward, Aggregates: []Aggregate{{
				Name: "basket", Root: Table{Pattern: "public.baskets", Key: []string{"tenant", "id"}, NumbersAsText: true},
				Children: []Child{
					{Name: "lines", Table: Table{Pattern: "public.basket_lines", Key: []string{"tenant", "basket_id"}, Columns: Columns{Exclude: []Name{{Name: "note"}}}}},
					{Name: "address", Table: Table{Pattern: "public.addresses", Key: []string{"tenant", "basket_id"}}, One: true},
				},
			}}},
			{Name: "notices", Partitions: 1, Compatibility: CompatibilityBackward, Messages: Messages{Prefix: "notices"}, Tables: []Table{
				{Pattern: "public.outbox", Outbox: &Outbox{ID: Name{Name: "id"}, AggregateType: Name{Name: "aggregatetype"}, AggregateID: Name{Name: "aggregateid"},
					Type: Name{Name: "type"}, Payload: Name{Name: "payload"}, Headers: Name{Name: "headers"}}},
				{Pattern: "public.letters", Outbox: &Outbox{For: []string{"Letter", "Parcel"}, Read: true, Delete: true}},
			}},
			{Name: "*", Partitions: 1, Compatibility: CompatibilityBackward, Tables: []Table{{Pattern: "inventory.*"}}},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(Pos{}), cmpopts.IgnoreUnexported(Expr{})); diff != "" {
		t.Errorf("full.yaml (-want +got):\n%s", diff)
	}
	if at := got.Streams[0].Tables[1].At.String(); !strings.HasPrefix(at, "testdata/full.yaml:") || !strings.HasSuffix(at, ":7") {
		t.Errorf("place of public.order_items: %s", at)
	}
}

// The example must not drift from the defaults it claims.
func TestFullShowsDefaults(t *testing.T) {
	full, err := Load("testdata/full.yaml", environment(map[string]string{"DATABASE_URL": dbURL}))
	if err != nil {
		t.Fatal(err)
	}
	least, err := Parse("least.yaml", []byte(minimal("", "", "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if least.Source.BackfillSet {
		t.Error("BackfillSet without backfill in the file")
	}
	full.Source.BackfillSet = false
	if diff := cmp.Diff(least.Source, full.Source); diff != "" {
		t.Errorf("source: default and full.yaml differ:\n%s", diff)
	}
	full.Sink.URL = least.Sink.URL
	if diff := cmp.Diff(least.Sink, full.Sink); diff != "" {
		t.Errorf("sink: default and full.yaml differ:\n%s", diff)
	}
}

// Each file of testdata/errors has its errors beside it, as a user sees them.
func TestErrorFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	env := environment(map[string]string{"SECRET": "hunter2", "DATABASE_URL": "postgres://u:hunter2@db/shop", "N": "x hunter2"})
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(filepath.Base(file), data, env)
			if _, ok := errors.AsType[Errors](err); !ok {
				t.Fatalf("error is %T, want Errors: %v", err, err)
			}
			checkErrors(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

func checkErrors(t *testing.T, golden, got string) {
	t.Helper()
	if strings.Contains(got, "hunter2") {
		t.Errorf("the errors hold the secret:\n%s", got)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("errors differ from %s (-want +got; -update rewrites it):\n%s", golden, diff)
	}
}

func TestErrorIsTyped(t *testing.T) {
	_, err := Parse("f.yaml", []byte(minimal("  slot: [a]\n", "", "")), nil)
	e, ok := errors.AsType[Error](err)
	if !ok {
		t.Fatalf("no Error in %T", err)
	}
	want := Error{Pos{"f.yaml", 4, 9}, "source.slot", "want text, got a list"}
	if e != want {
		t.Errorf("got %#v, want %#v", e, want)
	}
	if want := "f.yaml:4:9: source.slot: want text, got a list"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := Load("testdata/none.yaml", nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	for _, part := range []string{"testdata/none.yaml", "`-c FILE`", "walrill init"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not hold %q", err, part)
		}
	}
	if _, err := Load("testdata", nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory: got %v", err)
	}
}

func TestFileTooLarge(t *testing.T) {
	_, err := Parse("log", make([]byte, maxFile+1), nil)
	if err == nil || !strings.Contains(err.Error(), "log:1:1: the file is larger than 1024 KiB") {
		t.Errorf("got %v", err)
	}
}

// Values that load, as the file has them, with what is made of them.
func TestValues(t *testing.T) {
	env := environment(map[string]string{"N": "8", "YES": "true", "WAIT": "1m", "EMPTY": "",
		"EVIL": "x: {y: 1}\nstreams: {}", "SLOT": "2024"})
	tests := []struct {
		source, sink, streams string
		got                   func(c *Config) any
		want                  any
	}{
		{streams: "    partitions: ${N}\n", got: func(c *Config) any { return c.Streams[0].Partitions }, want: 8},
		{streams: "    partitions: \"${N}\"\n", got: func(c *Config) any { return c.Streams[0].Partitions }, want: 8},
		{streams: "    partitions: ${EMPTY:-12}\n", got: func(c *Config) any { return c.Streams[0].Partitions }, want: 12},
		{streams: "    partitions: 1${N}0\n", got: func(c *Config) any { return c.Streams[0].Partitions }, want: 180},
		{streams: "    partitions:   1024 # most\n", got: func(c *Config) any { return c.Streams[0].Partitions }, want: 1024},
		{source: "  slot: ${SLOT}\n", got: func(c *Config) any { return c.Source.Slot }, want: "2024"},
		{source: "  slot: |-\n    a_b\n", got: func(c *Config) any { return c.Source.Slot }, want: "a_b"},
		{source: "  backfill: never\n", got: func(c *Config) any { return c.Source.Backfill }, want: BackfillNever},
		{source: "  backfill: initial\n", got: func(c *Config) any { return c.Source.BackfillSet }, want: true},
		{sink: "  durability: {fsync: \"${YES}\"}\n", got: func(c *Config) any { return c.Sink.Durability.Fsync }, want: true},
		{sink: "  durability: {timeout: \"${WAIT}30s\"}\n", got: func(c *Config) any { return c.Sink.Durability.Timeout }, want: 90 * time.Second},
		{sink: "  durability: {replay_window: 0}\n", got: func(c *Config) any { return c.Sink.Durability.ReplayWindow }, want: time.Duration(0)},
		{sink: "  durability:\n  retention: {max_age: 1d12h}\n", got: func(c *Config) any { return c.Sink.Retention.MaxAge }, want: 36 * time.Hour},
		{sink: "  retention: {max_age: 1h, keep_unread: false}\n", got: func(c *Config) any { return c.Sink.Retention.KeepUnread }, want: false},
		{sink: "", got: func(c *Config) any { return c.Sink.Retention }, want: Retention{KeepUnread: true}},
		{sink: "  retention: {max_age: 0}\n", got: func(c *Config) any { return c.Sink.Retention }, want: Retention{KeepUnread: true}},
		{sink: "  retention: {}\n", want: "error"},
		{sink: "  retention:\n", want: "error"},
		{sink: "  retention: {keep_unread: false}\n", want: "error"},
		{sink: "  retention: {max_entries: 9007199254740992}\n", got: func(c *Config) any { return c.Sink.Retention.MaxEntries }, want: int64(1 << 53)},
		{streams: "  b: {tables: {t: {key: \"${EVIL}\"}}}\n", want: "error"},
		{streams: "  b: {tables: {t: {key: \"it's ${N} $5 $$ $${N}\"}}}\n", got: func(c *Config) any { return c.Streams[1].Tables[0].Key[0] }, want: "it's 8 $5 $$ ${N}"},
		{streams: "  2024: {tables: {t: }}\n", got: func(c *Config) any { return c.Streams[1].Name }, want: "2024"},
	}
	for _, tt := range tests {
		c, err := Parse("f.yaml", []byte(minimal(tt.source, tt.sink, tt.streams)), env)
		if tt.want == "error" {
			if err == nil {
				t.Errorf("%s%s%s: no error", tt.source, tt.sink, tt.streams)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if got := tt.got(c); got != tt.want {
			t.Errorf("%s%s%s: got %v, want %v", tt.source, tt.sink, tt.streams, got, tt.want)
		}
	}
}

func TestDefaultNames(t *testing.T) {
	for pipeline, want := range map[string]string{
		"shop":                  "walrill_shop",
		"Shop-EU.2":             "walrill_shop_eu_2",
		strings.Repeat("a", 40): "walrill_" + strings.Repeat("a", 40),
	} {
		c, err := Parse("f.yaml", []byte(strings.Replace(minimal("", "", ""), "shop", pipeline, 1)), nil)
		if err != nil {
			t.Error(err)
			continue
		}
		if c.Source.Slot != want || c.Source.Publication != want {
			t.Errorf("%s: slot %s, publication %s, want %s", pipeline, c.Source.Slot, c.Source.Publication, want)
		}
	}
}

func TestByteOrderMarkAndLineEnds(t *testing.T) {
	text := "\ufeff---\n" + minimal("", "", "")
	if _, err := Parse("f.yaml", []byte(strings.ReplaceAll(text, "\n", "\r\n")), nil); err != nil {
		t.Error(err)
	}
}

// Views that cannot be kept key by key are kept in whole transactions, and those in which it is written have the reason.
func TestConsistency(t *testing.T) {
	cfg, err := Load("testdata/consistency.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range cfg.Views.List {
		got[v.Name] = v.Consistency
		if v.Whole != "" {
			got[v.Name] += ": " + v.Whole
		}
	}
	want := map[string]string{
		"orders":  "key",
		"copied":  "transaction: documents are made of its rows, in whole transactions",
		"copies":  "transaction",
		"queried": "transaction: a row of a query is made of several rows, and two workers that each see one of them change would both miss the other's",
		"told":    "transaction: the events of a view have IDs that ascend with the transactions of the source",
		"docs":    "transaction: documents are written in whole transactions",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
