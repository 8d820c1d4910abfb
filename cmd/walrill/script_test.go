package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walrill/walrill/internal/harness"
)

// patience bounds every wait of a script that names no other time.
const patience = time.Minute

// TestScript runs the scenarios of testdata/script with the real program, a
// real Postgres and a real Redis. README.md there explains the commands.
func TestScript(t *testing.T) {
	t.Parallel() // with the tests beside it: no processor waits for the last scenario
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Values[scriptKey{}] = &script{t: env.T().(testing.TB), programs: map[string]*harness.Program{}}
			// The race detector would sleep for a second at the end of each process.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds:               scriptCommands(),
		Condition:          condition,
		RequireUniqueNames: true,
		UpdateScripts:      os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// condition knows pg15, pg16 …: the scripts run on that version of Postgres or a later one, and memory: what a
// program uses is what it uses in earnest.
func condition(name string) (bool, error) {
	if name == "memory" {
		return runtime.GOOS == "linux" && !raceDetector, nil
	}
	text, ok := strings.CutPrefix(name, "pg")
	want, err := strconv.Atoi(text)
	if !ok || err != nil {
		return false, fmt.Errorf("unknown condition %s", name)
	}
	version := harness.DefaultVersion
	if text := os.Getenv("WALRILL_PG"); text != "" {
		if version, err = strconv.Atoi(text); err != nil {
			return false, err
		}
	}
	return version >= want, nil
}

// script is what one script has started.
type script struct {
	t        testing.TB
	pg       *harness.Postgres
	roles    harness.Roles     // of its database
	standby  *harness.Postgres // of pg, until it is promoted
	primary  *harness.Postgres // before that
	held     *pgx.Conn         // with an open transaction
	redis    *harness.Redis
	programs map[string]*harness.Program
}

type scriptKey struct{}

func scriptOf(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int // 0 when it succeeded
}

// asker is a command that asks for something and changes nothing in the
// script, so that await can repeat it.
type asker func(ts *testscript.TestScript, args []string) (result, error)

func askers() map[string]asker {
	return map[string]asker{
		"sql":      sqlCommand,
		"rediscli": redisCommand,
		"entries":  entriesCommand,
		"fold":     foldCommand,
		"http":     httpCommand,
		"reached":  reachedCommand,
		"walrill":  runCommand,
		"log":      logCommand,
		"peak":     peakCommand,
	}
}

func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	commands := map[string]func(*testscript.TestScript, bool, []string){
		"postgres":          only(postgresCommand),
		"postgres-stop":     only(stopPostgresCommand),
		"postgres-kill":     only(killPostgresCommand),
		"old-primary-start": only(startOldPrimaryCommand),
		"standby":           only(standbyCommand),
		"promote":           only(promoteCommand),
		"redis":             only(startRedisCommand),
		"redis-kill":        only(killRedisCommand),
		"redis-user":        only(redisUserCommand),
		"redis-start":       only(restartRedisCommand),
		"asyncapi":          only(asyncapiCommand),
		"entries-fit":       only(entriesFitCommand),
		"start":             only(startCommand),
		"ready":             only(readyCommand),
		"signal":            only(signalCommand),
		"exit-code":         only(exitCodeCommand),
		"exits":             only(exitsCommand),
		"await":             only(awaitCommand),
		"hold":              only(holdCommand),
		"release":           only(releaseCommand),
		"catch-up":          only(catchUpCommand),
		"let":               only(letCommand),
	}
	for name, ask := range askers() {
		commands[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			r, err := ask(ts, args)
			ts.Check(err)
			r.print(ts)
			if (r.code != 0) != neg {
				ts.Fatalf("%s ended with %d", name, r.code)
			}
		}
	}
	delete(commands, "walrill") // testscript's own, by testscript.Main
	return commands
}

// only is for commands that know no `!`.
func only(f func(*testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("the command does not take !")
		}
		f(ts, args)
	}
}

// print makes of a result what the commands stdout and stderr look at.
func (r result) print(ts *testscript.TestScript) {
	fmt.Fprint(ts.Stdout(), r.stdout)
	fmt.Fprint(ts.Stderr(), r.stderr)
}

// failed is the result of a command that could not do what it was asked.
func failed(err error) result { return result{stderr: err.Error() + "\n", code: 1} }

// need fails the script unless there are so many arguments.
func need(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// awaitCommand repeats another command until its standard output matches.
func awaitCommand(ts *testscript.TestScript, args []string) {
	limit, args := within(ts, args)
	need(ts, len(args) >= 2, "await [-in DURATION] REGEXP COMMAND [ARG...]")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	ask := askers()[args[1]]
	need(ts, ask != nil, "await can repeat sql, rediscli, entries, http, reached, walrill, log and peak")
	var r result
	if !harness.Poll(limit, func() bool {
		r, err = ask(ts, args[2:])
		return err == nil && pattern.MatchString(r.stdout)
	}) {
		r.print(ts)
		ts.Fatalf("not within %v: %q in the output of %s; last: %v", limit, args[0], strings.Join(args[1:], " "), err)
	}
	r.print(ts)
}

// within takes a leading -in DURATION off the arguments.
func within(ts *testscript.TestScript, args []string) (time.Duration, []string) {
	if len(args) < 2 || args[0] != "-in" {
		return patience, args
	}
	limit, err := time.ParseDuration(args[1])
	ts.Check(err)
	return limit, args[2:]
}

// letCommand sets a variable to what a command prints.
func letCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) >= 2 && askers()[args[1]] != nil, "let NAME COMMAND [ARG...]")
	r, err := askers()[args[1]](ts, args[2:])
	ts.Check(err)
	r.print(ts)
	if r.code != 0 {
		ts.Fatalf("%s ended with %d", args[1], r.code)
	}
	ts.Setenv(args[0], strings.TrimSpace(r.stdout))
}

// exitsCommand runs walrill to its end and looks at the exit code.
func exitsCommand(ts *testscript.TestScript, args []string) {
	need(ts, len(args) >= 2 && args[1] == "walrill", "exits CODE walrill [ARG...]")
	r, err := runCommand(ts, args[2:])
	ts.Check(err)
	r.print(ts)
	if fmt.Sprint(r.code) != args[0] {
		ts.Fatalf("exit code %d, want %s", r.code, args[0])
	}
}

// runCommand runs walrill to its end.
func runCommand(ts *testscript.TestScript, args []string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := walrill(ctx, ts, args)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		return r, fmt.Errorf("walrill %s: %w\n%s%s", strings.Join(args, " "), errors.Join(ctx.Err(), err), r.stdout, r.stderr)
	}
	return r, nil
}

// walrill is a command line of the program, in the script's directory and
// environment: of that, the variables that it has use for.
func walrill(ctx context.Context, ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "walrill", args...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE", "GOCOVERDIR", "DATABASE_URL", "MASK_KEY", "MASTER_KEY", "DATABASE_ADDR", "STANDBY_URL", "STANDBY_ADDR", "REDIS_URL", "PIPELINE", "VIEWS_URL", "PGPASSWORD"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}
