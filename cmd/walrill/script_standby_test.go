package main

import (
	"context"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walrill/walrill/internal/harness"
)

// standbyCommand makes a standby of the script's Postgres, which must be a cluster of its own.
func standbyCommand(ts *testscript.TestScript, args []string) {
	const usage = "standby [-keep-slots|-no-sync] [SETTING=VALUE...]"
	s := scriptOf(ts)
	o := harness.StandbyOptions{Settings: map[string]string{}}
	for _, arg := range args {
		if arg == "-keep-slots" || arg == "-no-sync" {
			o.KeepSlots, o.NoSync = arg == "-keep-slots", arg == "-no-sync"
			continue
		}
		name, value, ok := strings.Cut(arg, "=")
		need(ts, ok, usage)
		o.Settings[name] = value
	}
	need(ts, s.standby == nil && s.pg != nil, usage+", once")
	s.standby = harness.NewStandby(s.t, s.pg, o)
	ts.Setenv("STANDBY_URL", s.roles.At(s.t, s.standby.Addr()).Daemon)
	ts.Setenv("STANDBY_ADDR", s.standby.Addr())
}

// promoteCommand promotes the standby: it is the script's Postgres from then on.
func promoteCommand(ts *testscript.TestScript, args []string) {
	s := scriptOf(ts)
	need(ts, len(args) == 0 && s.standby != nil, "promote, after standby")
	ts.Check(s.standby.Promote(context.Background()))
	s.roles = s.roles.At(s.t, s.standby.Addr())
	s.primary, s.pg, s.standby = s.pg, s.standby, nil
}

// killPostgresCommand ends Postgres as a crash of its machine does.
func killPostgresCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) == 0, "postgres-kill")
	ts.Check(scriptOf(ts).pg.Kill())
}

// startOldPrimaryCommand starts the former primary again.
func startOldPrimaryCommand(ts *testscript.TestScript, args []string) {
	s := scriptOf(ts)
	need(ts, len(args) == 0 && s.primary != nil, "old-primary-start, after promote")
	ts.Check(s.primary.Start(context.Background()))
}
