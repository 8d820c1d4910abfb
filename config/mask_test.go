package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

func TestSecretIsNeverShown(t *testing.T) {
	const text = "hunter2-hunter2-hunter2"
	type hidden struct{ s Secret }
	cfg, err := Parse("f.yaml", []byte(minimal("", "", "  b: {tables: {t: {mask: {email: {hash: \"${K}\"}}}}}\n")), environment(map[string]string{"K": text}))
	if err != nil {
		t.Fatal(err)
	}
	key := cfg.Streams[1].Tables[0].Masks[0].Key
	if key.Reveal() != text {
		t.Fatalf("the key is %q", key.Reveal())
	}
	var shown strings.Builder
	for _, v := range []any{cfg, *cfg, cfg.Streams, key, &key, hidden{key}, &hidden{key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			fmt.Fprintf(&shown, verb, v)
		}
		slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "v", v)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(text)
	}
	for _, form := range []string{text, fmt.Sprintf("%x", text)} {
		if strings.Contains(shown.String(), form) {
			t.Errorf("it is shown as %s", form)
		}
	}
	if !strings.Contains(shown.String(), "xxxxx") {
		t.Error("nothing stands for it")
	}
}

// Another key is another mapping; the same one is not, wherever it comes from.
func TestMaskKeyInFingerprint(t *testing.T) {
	parse := func(key string) *Config {
		cfg, err := Parse("f.yaml", []byte(minimal("", "", "  b: {tables: {t: {mask: {email: {hash: \"${K}\"}}}}}\n")), environment(map[string]string{"K": key}))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	a, same, b := parse("0123456789abcdef"), parse("0123456789abcdef"), parse("0123456789abcdeX")
	if Fingerprint(a) != Fingerprint(same) || !reflect.DeepEqual(a.Streams, same.Streams) {
		t.Error("the same file is another")
	}
	if Fingerprint(a) == Fingerprint(b) || reflect.DeepEqual(a.Streams, b.Streams) {
		t.Error("another key is the same file")
	}
}

func TestMasksOfTable(t *testing.T) {
	cfg, err := Parse("f.yaml", []byte(minimal("", "", "  b: {tables: {s.*: {mask: {email: redact}}, s.t: {}, u: {mask: {name: {last: 4}}}}}\n")), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		table, column string
		want          bool
	}{{"s.t", "email", true}, {"s.x", "email", true}, {"s.x", "name", false}, {"public.u", "name", true}, {"u.s", "email", false}, {"public.u", "email", false}} {
		if got := cfg.Hides(c.table, c.column); got != c.want {
			t.Errorf("%s.%s: %t", c.table, c.column, got)
		}
	}
}
