package main

import (
	"os"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9/logging"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walrill/walrill/internal/harness"
)

// TestMain makes of the test binary the program `walrill` too, first in PATH:
// the tests run it as processes of its own, with the race detector when the
// tests have it.
func TestMain(m *testing.M) {
	testscript.Main(testsWithServers{m}, map[string]func(){"walrill": main})
}

type testsWithServers struct{ m *testing.M }

// Run runs the tests and stops the servers that they shared.
func (t testsWithServers) Run() int {
	logging.Disable() // the tests ask servers that are down, too
	return harness.Run(t.m)
}

// postgresVersion is the major version that WALRILL_PG asks for, 0 for the
// harness's default.
func postgresVersion(t testing.TB) int {
	t.Helper()
	text := os.Getenv("WALRILL_PG")
	if text == "" {
		return 0
	}
	version, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("WALRILL_PG=%s: want a major version of Postgres", text)
	}
	return version
}
