package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFromFlags(t *testing.T) {
	got, err := FromFlags(dbURL, "redis://localhost", []string{"public.*", "users"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Pipeline != "walrill" || got.Source.Slot != "walrill_walrill" || got.Source.URL.Reveal() != dbURL ||
		got.Sink.Durability.Timeout != defaultTimeout || got.Source.BackfillSet {
		t.Errorf("got %+v", got)
	}
	at := Pos{File: "--tables"}
	want := []Stream{{Name: "*", Partitions: 1, Compatibility: CompatibilityBackward, At: at,
		Tables: []Table{{Pattern: "public.*", At: at}, {Pattern: "public.users", At: at}}}}
	if diff := cmp.Diff(want, got.Streams); diff != "" {
		t.Error(diff)
	}
	if c, err := FromFlags(dbURL, "redis://localhost", []string{"t"}, "eu"); err != nil || c.Pipeline != "eu" {
		t.Errorf("pipeline eu: %v, %v", c, err)
	}
}

func TestFromFlagsErrors(t *testing.T) {
	_, err := FromFlags("redis://:hunter2@h", "", []string{"*", "t", "public.t", "a.t"}, "a b")
	if err == nil {
		t.Fatal("no error")
	}
	checkErrors(t, "testdata/errors/flags.txt", err.Error()+"\n")
	_, err = FromFlags(dbURL, "hunter2", nil, "")
	if err == nil {
		t.Fatal("no error")
	}
	checkErrors(t, "testdata/errors/flags_none.txt", err.Error()+"\n")
}
