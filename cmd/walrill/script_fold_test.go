package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"
)

// foldCommand applies the entries of a table's partitions one by one and prints the rows that are left, by key.
func foldCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) > 0, "fold KEY...")
	client := redisClient(ts)
	defer client.Close()
	rows := map[string]string{}
	for _, key := range args {
		entries, err := client.XRange(context.Background(), key, "-", "+").Result()
		if err != nil {
			return failed(err), nil
		}
		here := map[string]string{}
		for _, e := range entries {
			text := func(field string) string { s, _ := e.Values[field].(string); return s }
			switch op := text("op"); op {
			case "t":
				clear(here)
			case "d":
				delete(here, text("key"))
			default:
				here[text("key")] = text("data")
			}
		}
		maps.Copy(rows, here)
	}
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintln(&out, key, rows[key])
	}
	return result{stdout: out.String()}, nil
}

// holdCommand runs statements in a transaction that stays open until release.
func holdCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) == 1, "hold STATEMENTS")
	s := scriptOf(ts)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.roles.Owner)
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close(ctx) })
	_, err = conn.PgConn().Exec(ctx, "BEGIN; "+args[0]).ReadAll()
	ts.Check(err)
	s.held = conn
}

// releaseCommand commits what hold began.
func releaseCommand(ts *testscript.TestScript, args []string) {
	s := scriptOf(ts)
	need(ts, len(args) == 0 && s.held != nil, "release, after hold")
	_, err := s.held.Exec(context.Background(), "COMMIT")
	ts.Check(err)
	s.held = nil
}
