package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever the file holds, Parse gives a configuration or errors of one line
// each that point into the file, and never what a variable held.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/errors/*.yaml")
	for _, file := range append(files, "testdata/full.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(minimal("", "", "")))
	const secret = "Zq9-not-for-you-7Kw"
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data, func(name string) (string, bool) { return secret, len(name)%2 == 0 })
		if err == nil {
			if c.Pipeline == "" || c.Source.URL.IsZero() || c.Sink.URL.IsZero() || len(c.Streams) == 0 || len(c.Streams[0].Tables) == 0 {
				t.Fatalf("incomplete: %+v", c)
			}
			return
		}
		list, ok := errors.AsType[Errors](err)
		if !ok || len(list) == 0 {
			t.Fatalf("error is %T with %d entries", err, len(list))
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, e := range list {
			if e.File != "f.yaml" || e.Line < 1 || e.Line > lines || e.Column < 1 {
				t.Errorf("%v is not within the %d lines of the file", e.Pos, lines)
			}
			if text := e.Error(); strings.ContainsAny(text, "\r\n") || strings.Contains(text, secret) {
				t.Errorf("the error is more than one line or holds a secret: %q", text)
			}
		}
	})
}

// Nothing that is taken for a connection string breaks taking it apart.
func FuzzURL(f *testing.F) {
	for _, raw := range connections("Zq9@:/?#'7Kw") {
		f.Add(raw, "dial "+raw)
	}
	f.Fuzz(func(t *testing.T, raw, text string) {
		u := NewURL(raw)
		_ = Redact(text, u)
		_, _ = checkAddress(raw, checkSource), checkAddress(raw, checkSink)
		if u.Reveal() != raw || raw != "" && u.String() == "" {
			t.Errorf("%q is printed %q and reveals %q", raw, u.String(), u.Reveal())
		}
	})
}
