package config

import _ "embed"

// schema is kept in step with fields.go by a test that asks the reader which fields it knows.
//
//go:embed schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of the configuration file, for editors and other tools. It knows
// every field and its form; what only a reader of the whole file can see, such as streams that collide, it does not.
func Schema() []byte { return append([]byte(nil), schema...) }
