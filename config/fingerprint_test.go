package config

import "testing"

func TestFingerprint(t *testing.T) {
	parse := func(streams string) *Config {
		t.Helper()
		c, err := Parse("w.yaml", []byte("pipeline: p\nsource: {url: postgres://u:one@h/d}\nsink: {url: redis://h}\nstreams:\n"+streams), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	same := parse("  a: {tables: {t: {key: id}}}\n")
	if Fingerprint(*same) != Fingerprint(*parse("  # moved\n  a:\n    tables:\n      public.t: {key: [id]}\n")) {
		t.Error("the same elsewhere in the file is told apart")
	}
	if Fingerprint(*same) != Fingerprint(*parse("  a: {description: x, owner: y, tables: {t: {key: id, description: z}}}\n")) {
		t.Error("a description is told apart")
	}
	rule := func(more string) *Config {
		return parse("  a: {tables: {t: {events: [{type: x, on: insert, data: {a: new.a}, version: 2" + more + "}]}}}\n")
	}
	if Fingerprint(*rule("")) != Fingerprint(*rule(", upcast: {1: {remove: b}}")) {
		t.Error("an upcast is told apart: nothing that is published depends on it")
	}
	for _, other := range []string{"  b: {tables: {t: {key: id}}}\n", "  a: {tables: {t: {}}}\n", "  a: {tables: {t: {key: [id, x]}}}\n", "  a: {partitions: 2, tables: {t: {key: id}}}\n",
		"  a: {tables: {t: {key: id}, u: {}}}\n"} {
		if Fingerprint(*same) == Fingerprint(*parse(other)) {
			t.Errorf("not told apart: %s", other)
		}
	}
	c := *same
	c.Source.URL = NewURL("postgres://u:two@h/d")
	if Fingerprint(c) == Fingerprint(*same) {
		t.Error("another password is not told apart")
	}
}
