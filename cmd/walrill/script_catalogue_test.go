package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/walrill/walrill/internal/harness"
)

// asyncAPIVersion is that of npm's package @asyncapi/specs, which has the meta-schemas.
const asyncAPIVersion = "6.11.1"

// asyncapiCommand checks a document against the meta-schema of AsyncAPI 3.0.
func asyncapiCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) == 1, "asyncapi FILE")
	dir, err := harness.NPMPackage(context.Background(), "@asyncapi/specs", asyncAPIVersion)
	ts.Check(err)
	meta, err := os.ReadFile(filepath.Join(dir, "schemas", "3.0.0.json"))
	ts.Check(err)
	schema, document := compile(ts, meta, ""), decode(ts, []byte(ts.ReadFile(args[0])))
	ts.Check(schema.Validate(document))
	delete(document.(map[string]any), "info")
	if schema.Validate(document) == nil {
		ts.Fatalf("the meta-schema takes a document without info")
	}
}

// entriesFitCommand checks the data of each entry of streams against the schemas of `walrill catalogue --format jsonschema`, and that
// a member which is left out, where the schema wants it, is found.
func entriesFitCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) > 1, "entries-fit FILE KEY...")
	client := redisClient(ts)
	defer client.Close()
	document := []byte(ts.ReadFile(args[0]))
	checked := 0
	for _, key := range args[1:] {
		entries, err := client.XRange(context.Background(), key, "-", "+").Result()
		ts.Check(err)
		stream, _, _ := strings.Cut(key, ":")
		for _, e := range entries {
			if fits(ts, document, stream, &e) {
				checked++
			}
		}
	}
	fmt.Fprintf(ts.Stdout(), "%d entries fit\n", checked)
}

func fits(ts *testscript.TestScript, document []byte, stream string, e *redis.XMessage) bool {
	text := func(field string) string { s, _ := e.Values[field].(string); return s }
	if text("data") == "" {
		return false
	}
	name := stream + "/" + text("type") + "/" + text("schema")
	schema := compile(ts, document, "#/$defs/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	if err := schema.Validate(decode(ts, []byte(text("data")))); err != nil {
		ts.Fatalf("entry %s does not fit %s: %v\n%s", e.ID, name, err, text("data"))
	}
	if len(schema.Required) > 0 && schema.Validate(map[string]any{}) == nil {
		ts.Fatalf("%s takes data without %q", name, schema.Required)
	}
	return true
}

func compile(ts *testscript.TestScript, document []byte, fragment string) *jsonschema.Schema {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	ts.Check(c.AddResource("file:///document.json", decode(ts, document)))
	schema, err := c.Compile("file:///document.json" + fragment)
	ts.Check(err)
	return schema
}

func decode(ts *testscript.TestScript, text []byte) any {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	ts.Check(err)
	return value
}
