package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The schema and the reader know the same fields, need the same ones, and agree on the defaults. What the reader knows, it
// says in its errors about a field that nobody has, and about a mapping without any.
func TestSchemaFields(t *testing.T) {
	root := decodeSchema(t)
	walk{t, root}.object(nil, root)
}

type walk struct {
	t    *testing.T
	root map[string]any
}

const nobodys = "zzzzzzzzzzzzzzzzzzzz"

var (
	validHere = regexp.MustCompile("unknown field `" + nobodys + "`; valid here: (.*)")
	missing   = regexp.MustCompile("the field `([^`]*)` is missing")
	quoted    = regexp.MustCompile("`([^`]*)`")
	item      = regexp.MustCompile(`\[[0-9]+\]`)
)

// object compares a mapping of the schema with what the reader says at the same place.
func (w walk) object(path []string, s map[string]any) {
	where := strings.Join(path, ".")
	properties, _ := s["properties"].(map[string]any)
	known := w.known(path)
	if want := slices.Sorted(maps.Keys(properties)); !slices.Equal(known, want) {
		w.t.Errorf("%s: the reader knows %q, the schema %q", where, known, want)
	}
	if known != nil && s["additionalProperties"] != false {
		w.t.Errorf("%s: the schema takes unknown fields", where)
	}
	var required []string
	for _, name := range anyList(s["required"]) {
		required = append(required, name.(string))
	}
	if otherwise, ok := s["else"].(map[string]any); ok { // with nothing there
		for _, name := range anyList(otherwise["required"]) {
			required = append(required, name.(string))
		}
	}
	if known != nil {
		if needed := w.needed(path); !slices.Equal(needed, slices.Sorted(slices.Values(required))) {
			w.t.Errorf("%s: the reader needs %q, the schema %q", where, needed, required)
		}
	}
	for name, property := range properties {
		w.any(append(slices.Clone(path), name), property.(map[string]any))
	}
}

// any compares a value of any kind, in each of the forms that it may have.
func (w walk) any(path []string, s map[string]any) {
	where := strings.Join(path, ".")
	if description, _ := s["description"].(string); description == "" {
		w.t.Errorf("%s: the schema does not describe it", where)
	}
	var objects, lists int
	for _, form := range w.forms(s) {
		if values, ok := form["additionalProperties"].(map[string]any); ok { // by names of the user's
			w.any(append(slices.Clone(path), "t"), values)
			objects++
		} else if hasType(form, "object") {
			w.object(path, form)
			objects++
		}
		if items, ok := form["items"].(map[string]any); ok {
			for _, item := range w.forms(items) {
				if hasType(item, "object") {
					w.object(append(slices.Clone(path), "-"), item)
					lists++
				}
			}
		}
	}
	if objects == 0 && w.known(path) != nil {
		w.t.Errorf("%s: the reader takes a mapping, the schema does not", where)
	}
	if list := append(slices.Clone(path), "-"); lists == 0 && w.known(list) != nil {
		w.t.Errorf("%s: the reader takes a list of mappings, the schema does not", where)
	}
}

// forms follows references and alternatives.
func (w walk) forms(s map[string]any) []map[string]any {
	forms := []map[string]any{s}
	if ref, ok := s["$ref"].(string); ok {
		defs := w.root["$defs"].(map[string]any)
		target, ok := defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		if !ok {
			w.t.Fatalf("%s leads nowhere", ref)
		}
		forms = append(forms, w.forms(target)...)
	}
	for _, name := range []string{"anyOf", "oneOf"} {
		for _, form := range anyList(s[name]) {
			forms = append(forms, w.forms(form.(map[string]any))...)
		}
	}
	return forms
}

func hasType(s map[string]any, name string) bool {
	return s["type"] == name || slices.Contains(anyList(s["type"]), any(name))
}

func anyList(v any) []any {
	list, _ := v.([]any)
	return list
}

// known are the fields that the reader names as valid in a mapping at path, sorted.
func (w walk) known(path []string) []string {
	m := validHere.FindStringSubmatch(w.complaint(path, "{"+nobodys+": 1}"))
	if m == nil {
		return nil
	}
	return sortedNames(quoted.FindAllStringSubmatch(m[1], -1))
}

func (w walk) needed(path []string) []string {
	return sortedNames(missing.FindAllStringSubmatch(w.complaint(path, "{}"), -1))
}

func sortedNames(found [][]string) []string {
	var names []string
	for _, m := range found {
		names = append(names, m[1])
	}
	return slices.Sorted(slices.Values(names))
}

// complaint is what the reader says of a file that has this at path, as far as it is about path.
func (w walk) complaint(path []string, value string) string {
	text := value
	for _, name := range slices.Backward(path) {
		if name == "-" {
			text = "[" + text + "]"
		} else {
			text = "{" + name + ": " + text + "}"
		}
	}
	_, err := Parse("f.yaml", []byte(text+"\n"), nil)
	place := strings.NewReplacer(".-", "").Replace(strings.Join(path, "."))
	var about []string
	for _, e := range err.(Errors) {
		if at := item.ReplaceAllString(e.Path, ""); at == place {
			about = append(about, e.Error())
		}
	}
	return strings.Join(about, "\n")
}

// A file that says the schema's defaults is the same as one that says nothing.
func TestSchemaDefaults(t *testing.T) {
	least, err := Parse("f.yaml", []byte(minimal("", "", "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal([]byte(minimal("", "", "")), &file); err != nil {
		t.Fatal(err)
	}
	n := addDefaults(file, decodeSchema(t))
	if n < 9 {
		t.Errorf("%d defaults", n)
	}
	text, err := json.Marshal(file) // which is YAML too
	if err != nil {
		t.Fatal(err)
	}
	full, err := Parse("f.yaml", text, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	full.Source.BackfillSet = false
	if diff := cmp.Diff(least, full, cmpopts.IgnoreTypes(Pos{})); diff != "" {
		t.Errorf("without and with the schema's defaults:\n%s", diff)
	}
}

// addDefaults writes the defaults of a schema's properties into a mapping, and counts them.
func addDefaults(file, s map[string]any) int {
	n := 0
	properties, _ := s["properties"].(map[string]any)
	for name, p := range properties {
		property := p.(map[string]any)
		if value, ok := property["default"]; ok {
			file[name] = value
			n++
		}
		inner, ok := file[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
		}
		if values, ok := property["additionalProperties"].(map[string]any); ok {
			for _, value := range inner {
				n += addDefaults(value.(map[string]any), values)
			}
		} else if added := addDefaults(inner, property); added > 0 {
			file[name] = inner
			n += added
		}
	}
	return n
}

func decodeSchema(t *testing.T) map[string]any {
	t.Helper()
	var s map[string]any
	decoder := json.NewDecoder(bytes.NewReader(Schema()))
	decoder.UseNumber() // 1, not 1.0
	if err := decoder.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7) // so that the file's own word counts
	if err := c.AddResource("walrill.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("walrill.json") // checks it against its meta-schema
	if err != nil {
		t.Fatal(err)
	}
	if s.DraftVersion != 2020 {
		t.Errorf("draft %d", s.DraftVersion)
	}
	return s
}

// validate gives what the schema has against a file; ok is false when it is no YAML that a schema could see.
func validate(s *jsonschema.Schema, file []byte) (finding error, ok bool) {
	text, err := yaml.YAMLToJSON(file)
	if err != nil {
		return nil, false
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, false
	}
	return s.Validate(value), true
}

// Every configuration of the repository is valid by the schema.
func TestSchemaAccepts(t *testing.T) {
	s := compileSchema(t)
	n := 0
	for _, pattern := range []string{"testdata/full.yaml", "../examples/*/walrill.yaml", "../internal/propose/testdata/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Errorf("%s: no file, %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if finding, ok := validate(s, data); !ok || finding != nil {
				t.Errorf("%s: %v", file, finding)
			}
			n++
		}
	}
	t.Logf("%d files", n)
}

// What the reader refuses, the schema refuses, but for what no schema sees: two names that stand in the way of each
// other, and what is lost before a schema gets to see the file.
func TestSchemaRefuses(t *testing.T) {
	unseen := map[string]string{
		"collisions":      "a stream's Redis keys are counted from other fields",
		"not_plain":       "anchors and tags are resolved before",
		"emit_fold":       "which streams are those of views is known from other fields",
		"emit_stream":     "a stream's Redis keys are counted from other fields",
		"documents_store": "which view another is made of, and which need a Postgres",

		"consistency_workers": "whether there is a view for the workers",
	}
	s := compileSchema(t)
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	seen := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		finding, ok := validate(s, data)
		switch {
		case !ok:
		case finding == nil && unseen[name] == "":
			t.Errorf("%s: the schema accepts it", file)
		case finding != nil:
			seen++
		}
	}
	if seen < 8 {
		t.Errorf("the schema has seen %d files only", seen)
	}
}

// Each of these lines is wrong on its own, for the reader and for the schema.
func TestSchemaRefusesEach(t *testing.T) {
	s := compileSchema(t)
	for _, wrong := range []struct{ source, sink, streams string }{
		{source: "  slot: Walrill\n"}, {source: "  slot: 8\n"}, {source: "  publication: {name: x}\n"}, {source: "  backfill: initally\n"}, {source: "  slots: x\n"},
		{sink: "  format: json\n"}, {sink: "  durability: {replicas: two}\n"}, {sink: "  durability: {replicas: 101}\n"}, {sink: "  durability: {fsync: \"true\"}\n"},
		{sink: "  durability: {timeout: 5}\n"}, {sink: "  durability: {timeout: 0}\n"}, {sink: "  durability: {timeout: 0s}\n"}, {sink: "  durability: {replay_window: -1s}\n"},
		{sink: "  retention: {max_age: 7 days}\n"}, {sink: "  retention: {max_entries: \"100\"}\n"}, {sink: "  retention: {max_entries: -1}\n"}, {sink: "  retention: {keep_unread: 1}\n"},
		{sink: "  retention: {}\n"}, {sink: "  retention:\n"}, {sink: "  retention: {keep_unread: true}\n"},
		{streams: "    partitions: 0\n"}, {streams: "    partitions: 2000\n"}, {streams: "    partitions: 1.5\n"}, {streams: "    partitions: \"4\"\n"},
		{streams: "  b: {}\n"}, {streams: "  b: text\n"}, {streams: "  b: {tables: {}}\n"}, {streams: "  b: {tables: [t]}\n"}, {streams: "  b: {tables: {t: text}}\n"},
		{streams: "  b: {tables: {t: {key: []}}}\n"}, {streams: "  b: {tables: {t: {key: [a, a]}}}\n"}, {streams: "  b: {tables: {t: {key: 5}}}\n"},
		{streams: "  b: {tables: {t: {key: ' a'}}}\n"}, {streams: "  b: {tables: {t: {keys: a}}}\n"},
		{streams: "  'a b': {tables: {t: {}}}\n"}, {streams: "  '{a}': {tables: {t: {}}}\n"}, {streams: "  '': {tables: {t: {}}}\n"}, {streams: "  'ord*': {tables: {t: {}}}\n"},
		{streams: "  'walrill:x': {tables: {t: {}}}\n"}, {streams: "  b: {tables: {'*': {}}}\n"}, {streams: "  b: {tables: {'*.*': {}}}\n"}, {streams: "  b: {tables: {'a.b*': {}}}\n"},
		{streams: "  b: {tables: {'a.b.c': {}}}\n"}, {streams: "  b: {tables: {'.a': {}}}\n"}, {streams: "  b: {tables: {'a.': {}}}\n"}, {streams: "  b: {tables: {'a .b': {}}}\n"},
		{streams: "  b: {tables: {'\"a\".b': {}}}\n"}, {streams: "  b: {tables: {pg_catalog.pg_class: {}}}\n"}, {streams: "  b: {tables: {walrill.x: {}}}\n"},
	} {
		text := []byte(minimal(wrong.source, wrong.sink, wrong.streams))
		if _, err := Parse("f.yaml", text, nil); err == nil {
			t.Errorf("%+q: the reader accepts it", wrong)
		}
		if finding, ok := validate(s, text); !ok || finding == nil {
			t.Errorf("%+q: the schema accepts it (%t)", wrong, ok)
		}
	}
	if finding, ok := validate(s, []byte(minimal("", "", ""))); !ok || finding != nil {
		t.Errorf("the file that they are added to: %v", finding)
	}
}

// The values that TestValues reads are the schema's too.
func TestSchemaAcceptsValues(t *testing.T) {
	s := compileSchema(t)
	for _, right := range []string{"  durability: {replicas: \"${N}\", timeout: \"${WAIT}30s\", replay_window: 0}\n", "  durability:\n  retention: {max_age: 1d12h}\n",
		"  retention: {max_entries: 9007199254740992, keep_unread: \"${K:-true}\"}\n", "  format: ${F:-fields}\n"} {
		if finding, ok := validate(s, []byte(minimal("", right, "  2024: {tables: {t: , s.*: {}, My App.Order Lines: {key: [\"it's $5\", b]}}}\n"))); !ok || finding != nil {
			t.Errorf("%s: %v", fmt.Sprint(right), finding)
		}
	}
}
