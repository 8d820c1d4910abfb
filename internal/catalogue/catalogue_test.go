package catalogue

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/walrill/walrill/event"
)

func awkward() *Catalogue {
	fields := []Field{{Name: "ratio", JSON: "number", Nullable: true}, {Name: "kind", JSON: "string", Enum: []string{"a|b"}, Required: true},
		{Name: "in", JSON: "object", Fields: []Field{{Name: "x", JSON: "any"}}}}
	return &Catalogue{Pipeline: "shop", Format: "fields", Streams: []Stream{
		{Name: "a b", Keys: []string{"a b"}, Events: []Event{
			{Type: "made", Table: "public.t", On: []string{"insert"}, Version: 2, Fields: fields, Earlier: []event.Schema{
				{Version: 1, Columns: []event.SchemaColumn{{Name: "ratio", JSON: "integer"}}}}},
			{Type: "made", Table: "other.t", On: []string{"insert"}, Version: 2},
			{Type: "emptied", Table: "public.t", On: []string{"truncate"}, Version: 2},
			{Table: "public.outbox"},
			{Prefix: "notices"},
		}},
		{Name: "a%b", Keys: []string{"a%b"}},
		{Name: "a/b", Keys: []string{"a/b:0", "a/b:1"}},
	}}
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestJSONSchema(t *testing.T) {
	got := text(t, awkward().JSONSchema())
	want := `"$defs":{` +
		`"a b/made/1":{"title":"made","description":"An earlier version.","type":"object","properties":{"ratio":{"type":["integer","null"]}}},` +
		`"a b/made/2":{"title":"made","type":"object","properties":{"ratio":{"anyOf":[{"type":"number"},{"enum":["NaN","Infinity","-Infinity"]},{"type":"null"}]},` +
		`"kind":{"enum":["a|b"]},"in":{"type":"object","properties":{"x":{}}}},"required":["kind"]},` +
		`"a b/made/2/other.t":{"title":"made","type":"object"}}}`
	if !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s\nwant at the end\n%s", got, want)
	}
}

// Streams and messages whose names would be the same as components have others.
func TestAsyncAPINames(t *testing.T) {
	var doc struct {
		Channels map[string]struct {
			Address    string
			Parameters map[string]struct{ Enum []string }
			Messages   map[string]map[string]string
		}
		Components struct{ Messages map[string]map[string]any }
	}
	if err := json.Unmarshal([]byte(text(t, awkward().AsyncAPI())), &doc); err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{"a_b": "a b", "a_b-2": "a%b", "a_b-3": "a/b:{partition}"}
	for id, address := range addresses {
		if got := doc.Channels[id].Address; got != address {
			t.Errorf("channel %s has address %q, want %q", id, got, address)
		}
	}
	if got := doc.Channels["a_b-3"].Parameters["partition"].Enum; len(got) != 2 {
		t.Errorf("partitions %q", got)
	}
	if len(doc.Components.Messages) != 5 || len(doc.Channels["a_b"].Messages) != 5 {
		t.Errorf("messages %v", doc.Channels["a_b"].Messages)
	}
	for id, m := range doc.Channels["a_b"].Messages {
		name := strings.TrimPrefix(m["$ref"], "#/components/messages/")
		if _, ok := doc.Components.Messages[name]; !ok {
			t.Errorf("message %s leads to %s, which is not there", id, m["$ref"])
		}
	}
	if _, has := doc.Components.Messages["a_b.emptied"]["payload"]; has {
		t.Error("a truncate has a payload")
	}
}

func TestMarkdown(t *testing.T) {
	got := awkward().Markdown()
	for _, want := range []string{
		"# shop\n\n## Stream `a b`\n\nOne partition.\n\n### `made`\n\nOn insert of `public.t`; version 2, nothing published yet, other versions 1.\n",
		"| `ratio` | number or null |  | not in every event |\n| `kind` | string |  | one of `a\\|b` |\n| `in` | object |  | not in every event |\n| `in.x` | any |  | not in every event |\n",
		"which writes them as rows of `public.outbox`.\n", "which writes them as logical messages with the prefix `notices`.\n",
		"2 partitions, `a/b:0` to `a/b:1`.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no\n%s\nin\n%s", want, got)
		}
	}
}
