package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// postgresCommand gives the script a database: a fresh one of the cluster that
// the scripts share, or, with settings, a cluster of its own. $DATABASE_URL is a role's with the rights
// that docs/operations.md asks for.
func postgresCommand(ts *testscript.TestScript, args []string) {
	s := scriptOf(ts)
	version := postgresVersion(s.t)
	if len(args) > 1 && args[0] == "-least" {
		least, err := strconv.Atoi(args[1])
		ts.Check(err)
		version, args = max(version, least), args[2:]
	}
	if len(args) == 0 {
		s.pg = harness.SharedPostgres(s.t, version)
		s.roles = harness.DatabaseWithRoles(s.t, s.pg)
	} else {
		settings := map[string]string{}
		for _, arg := range args {
			name, value, ok := strings.Cut(arg, "=")
			need(ts, ok, "postgres [SETTING=VALUE...]")
			settings[name] = value
		}
		s.pg = harness.NewPostgres(s.t, harness.PostgresOptions{Version: version, Settings: settings})
		s.roles = harness.MakeRoles(s.t, s.pg.URL("postgres"))
	}
	ts.Setenv("DATABASE_URL", s.roles.Daemon)
	ts.Setenv("DATABASE_ADDR", s.pg.Addr())
	// Slots are the cluster's, so a pipeline is named after the database.
	ts.Setenv("PIPELINE", harness.DatabaseName(s.t, s.roles.Admin))
}

// sqlCommand runs statements, those of one argument in one transaction, and prints rows with | between
// the columns. An argument that ends in .sql names a file. It works as the owner of the database; what
// an owner may not do, the superuser does.
func sqlCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) > 0, "sql [-standby] STATEMENTS|FILE.sql...")
	s := scriptOf(ts)
	roles := s.roles
	if args[0] == "-standby" {
		need(ts, s.standby != nil, "sql -standby, after standby")
		roles, args = roles.At(s.t, s.standby.Addr()), args[1:]
	}
	var out strings.Builder
	for _, text := range args {
		if strings.HasSuffix(text, ".sql") {
			text = ts.ReadFile(text)
		}
		rows, err := runSQL(roles.Owner, text)
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == "42501" {
			rows, err = runSQL(roles.Admin, text)
		}
		out.WriteString(rows)
		if err != nil {
			return result{out.String(), err.Error() + "\n", 1}, nil
		}
	}
	return result{stdout: out.String()}, nil
}

func runSQL(url, text string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience) // one makes a million rows
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var out strings.Builder
	results, err := conn.PgConn().Exec(ctx, text).ReadAll()
	for _, r := range results {
		for _, row := range r.Rows {
			var values []string
			for _, v := range row {
				values = append(values, string(v))
			}
			fmt.Fprintln(&out, strings.Join(values, "|"))
		}
	}
	return out.String(), err
}

// startRedisCommand starts a Redis of the script's own; each argument is a line of redis.conf.
func startRedisCommand(ts *testscript.TestScript, args []string) {
	s := scriptOf(ts)
	config := map[string]string{}
	for _, line := range args {
		directive, value, _ := strings.Cut(line, " ")
		config[directive] = value
	}
	s.redis = harness.NewRedis(s.t, harness.RedisOptions{Config: config})
	ts.Setenv("REDIS_URL", s.redis.URL())
	ts.Setenv("REDIS_ADDR", s.redis.Addr())
}

// redisUserCommand makes the user of docs/operations.md and points $REDIS_URL at it.
func redisUserCommand(ts *testscript.TestScript, args []string) {
	documents := slices.Equal(args, []string{"-documents"})
	need(ts, len(args) == 0 || documents, "redis-user [-documents]")
	doc, err := os.ReadFile(filepath.Join(repository, "docs", "operations.md"))
	ts.Check(err)
	rule := regexp.MustCompile(`(?m)^ACL SETUSER (walrill) on >(\w+) .*$`).FindSubmatch(doc)
	if rule == nil {
		ts.Fatalf("docs/operations.md has no line ACL SETUSER walrill on >…")
	}
	line := strings.ReplaceAll(string(rule[0]), "{shop}", "{"+ts.Getenv("PIPELINE")+"}")
	r, err := redisCommand(ts, strings.Fields(line))
	ts.Check(err)
	if r.code != 0 {
		ts.Fatalf("%s: %s", line, r.stderr)
	}
	if more := regexp.MustCompile(`(?m)^ACL SETUSER walrill ~.*$`).Find(doc); documents {
		r, err := redisCommand(ts, strings.Fields(string(more)))
		ts.Check(err)
		if r.code != 0 {
			ts.Fatalf("%s: %s", more, r.stderr)
		}
	}
	ts.Setenv("REDIS_URL", fmt.Sprintf("redis://%s:%s@%s", rule[1], rule[2], ts.Getenv("REDIS_ADDR")))
}

// repository is the path from this package to the repository's root, for what is read at run time.
var repository = func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}()

// stopPostgresCommand tells Postgres to stop as `pg_ctl stop` does, and waits until it has.
func stopPostgresCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) == 0, "postgres-stop")
	s := scriptOf(ts)
	ts.Check(syscall.Kill(s.pg.Pid(), syscall.SIGINT))
	harness.Eventually(s.t, 10*time.Second, "Postgres to stop", func() bool { return s.pg.Pid() == 0 })
}

func killRedisCommand(ts *testscript.TestScript, _ []string) { ts.Check(scriptOf(ts).redis.Kill()) }

func restartRedisCommand(ts *testscript.TestScript, _ []string) {
	ts.Check(scriptOf(ts).redis.Start(context.Background()))
}

// redisClient is a client of the script's Redis, whatever $REDIS_URL says.
func redisClient(ts *testscript.TestScript) *redis.Client {
	o, err := redis.ParseURL(scriptOf(ts).redis.URL())
	ts.Check(err)
	o.MaxRetries = -1
	return redis.NewClient(o)
}

// redisCommand sends one command to Redis and prints the reply, one value a line.
func redisCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) > 0, "rediscli COMMAND [ARG...]")
	client := redisClient(ts)
	defer client.Close()
	var command []any
	for _, arg := range args {
		command = append(command, arg)
	}
	reply, err := client.Do(context.Background(), command...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return failed(err), nil
	}
	var out strings.Builder
	printReply(&out, reply)
	return result{stdout: out.String()}, nil
}

func printReply(out *strings.Builder, reply any) {
	switch v := reply.(type) {
	case nil:
		fmt.Fprintln(out, "(nil)")
	case []any:
		for _, item := range v {
			printReply(out, item)
		}
	case map[any]any:
		var lines []string
		for name, value := range v {
			lines = append(lines, fmt.Sprintf("%v %v\n", name, value))
		}
		slices.Sort(lines)
		out.WriteString(strings.Join(lines, ""))
	default:
		fmt.Fprintln(out, v)
	}
}

// entriesCommand prints all entries of Redis streams in the order of their IDs,
// one a line, with the fields as they are. What differs from run to run is
// checked for its form and replaced: a commit LSN by the transaction's rank
// among those printed, time and transaction id by TIME and XID.
func entriesCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) > 0, "entries KEY...")
	client := redisClient(ts)
	defer client.Close()
	type line struct {
		at   event.Position
		text string
	}
	var lines []line
	for _, key := range args {
		reply, err := client.Do(context.Background(), "XRANGE", key, "-", "+").Slice()
		if err != nil {
			return failed(err), nil
		}
		for _, item := range reply {
			entry := item.([]any)
			at, err := event.ParseID(entry[0].(string))
			ts.Check(err)
			text := showFields(ts, entry[1].([]any))
			if len(args) > 1 {
				text = key + " " + text
			}
			lines = append(lines, line{at, text})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	var out strings.Builder
	rank, commit := 0, uint64(0)
	for _, l := range lines {
		if l.at.Commit != commit {
			rank, commit = rank+1, l.at.Commit
		}
		fmt.Fprintf(&out, "%d-%d %s\n", rank, l.at.Ordinal, l.text)
	}
	return result{stdout: out.String()}, nil
}

var (
	timeForm = regexp.MustCompile(`^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
	xidForm  = regexp.MustCompile(`^\d+$`)
)

func showFields(ts *testscript.TestScript, fields []any) string {
	var parts []string
	for i := 0; i < len(fields); i += 2 {
		name, value := fields[i].(string), fields[i+1].(string)
		switch {
		case name == "time" && timeForm.MatchString(value):
			value = "TIME"
		case name == "tx" && xidForm.MatchString(value):
			value = "XID"
		case name == "time", name == "tx":
			ts.Fatalf("field %s is %q", name, value)
		}
		parts = append(parts, name+"="+value)
	}
	return strings.Join(parts, " ")
}

// reachedCommand says whether the watermark has reached an LSN.
func reachedCommand(ts *testscript.TestScript, args []string) (result, error) {
	need(ts, len(args) == 1, "reached LSN")
	p := harness.Pipeline{Name: ts.Getenv("PIPELINE"), RedisURL: scriptOf(ts).redis.URL()}
	watermark, err := p.Watermark(context.Background())
	if err != nil {
		return failed(err), nil
	}
	want, err := harness.ParseLSN(args[0])
	ts.Check(err)
	return result{stdout: fmt.Sprintf("%X/%X %t\n", watermark>>32, uint32(watermark), watermark >= want)}, nil
}

// catchUpCommand waits until all that is committed now is in Redis.
func catchUpCommand(ts *testscript.TestScript, args []string) {
	limit, args := within(ts, args)
	need(ts, len(args) == 0, "catch-up [-in DURATION]")
	lsn, err := sqlCommand(ts, []string{"SELECT pg_current_wal_lsn()"})
	ts.Check(err)
	awaitCommand(ts, []string{"-in", limit.String(), "true", "reached", strings.TrimSpace(lsn.stdout)})
}
