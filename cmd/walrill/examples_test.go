package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// TestExamples runs the README of each example as a reader would: its commands in their order, the
// output compared. UPDATE_SCRIPTS=1 writes what was printed into the READMEs.
func TestExamples(t *testing.T) {
	t.Parallel()
	readmes, err := filepath.Glob("../../examples/*/README.md")
	if err != nil || len(readmes) < 4 {
		t.Fatalf("%d examples: %v", len(readmes), err)
	}
	index, err := os.ReadFile("../../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	pg := harness.NewPostgres(t, harness.PostgresOptions{Version: postgresVersion(t)})
	for _, readme := range readmes {
		name := filepath.Base(filepath.Dir(readme))
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(string(index), "("+name+")") {
				t.Errorf("examples/README.md does not name it")
			}
			e := &example{t: t, dir: filepath.Dir(readme), name: name, pg: pg, redis: harness.NewRedis(t, harness.RedisOptions{})}
			e.run(readme)
		})
	}
}

type example struct {
	t       *testing.T
	dir     string
	name    string // of the folder, and of the pipeline
	pg      *harness.Postgres
	redis   *harness.Redis
	exports []string // lines that a shell of the reader's has run already
	daemon  *harness.Program
}

var codeBlock = regexp.MustCompile("(?s)```(sh|console)\n(.*?)```")

// run goes through the README. A block of sh is for pasting; in one of console the commands stand behind `$ `,
// and below them what they print.
func (e *example) run(readme string) {
	text, err := os.ReadFile(readme)
	if err != nil {
		e.t.Fatal(err)
	}
	commands := 0
	got := codeBlock.ReplaceAllStringFunc(string(text), func(block string) string {
		m := codeBlock.FindStringSubmatch(block)
		commands++
		if m[1] == "sh" {
			e.paste(m[2])
			return block
		}
		var out strings.Builder
		for line := range strings.Lines(m[2]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				out.WriteString(line + e.shell(command))
				e.settle()
			}
		}
		return "```console\n" + out.String() + "```"
	})
	if e.daemon != nil {
		if err := e.daemon.Kill(); err != nil {
			e.t.Error(err)
		}
	}
	if commands < 3 {
		e.t.Errorf("%d blocks of commands", commands)
	}
	if os.Getenv("UPDATE_SCRIPTS") != "" && !e.t.Failed() {
		if err := os.WriteFile(readme, []byte(got), 0o644); err != nil {
			e.t.Error(err)
		}
	} else if diff := cmp.Diff(unvarying(string(text)), unvarying(got)); diff != "" {
		e.t.Errorf("%s prints something else (-want +got), UPDATE_SCRIPTS=1 writes it:\n%s", readme, diff)
	}
}

var varying = regexp.MustCompile(`\d\d:\d\d:\d\d\.\d{3}  [0-9A-F]+/[0-9A-F]+(:\d+) +`)

// unvarying leaves times and places in the log out, which are others each time.
func unvarying(text string) string { return varying.ReplaceAllString(text, "TIME LSN$1 ") }

// paste runs lines of a block; the daemon goes to the background until the test ends.
func (e *example) paste(block string) {
	if strings.HasPrefix(block, "walrill run") {
		e.start(block)
		return
	}
	var lines []string
	for line := range strings.Lines(block) {
		switch {
		case strings.HasPrefix(line, "cd examples/"): // the shell starts there
		case strings.HasPrefix(line, "export "):
			e.exports = append(e.exports, line)
		default:
			lines = append(lines, line)
		}
	}
	if out := e.shell(strings.Join(lines, "")); out != "" {
		e.t.Logf("%s", out)
	}
	e.settle()
}

func (e *example) start(command string) {
	d, err := harness.StartProgram(e.command(context.Background(), "exec "+command), filepath.Join(e.t.TempDir(), "daemon.log"))
	if err != nil {
		e.t.Fatal(err)
	}
	e.daemon = d
	harness.Eventually(e.t, 2*patience, "the daemon is ready", func() bool { return isReady(d) || d.Ended() })
	if d.Ended() {
		e.t.Fatalf("the daemon ended:\n%s", d.Output())
	}
	client := redis.NewClient(&redis.Options{Addr: e.redis.Addr()})
	defer client.Close()
	harness.Eventually(e.t, 2*patience, "the tables are read", func() bool {
		tables, err := client.HVals(e.t.Context(), "walrill:{"+e.name+"}:backfill").Result()
		for _, table := range tables {
			if !strings.Contains(table, `"state":"done"`) {
				return false
			}
		}
		return err == nil
	})
}

// settle waits until what was committed is in Redis.
func (e *example) settle() {
	if e.daemon == nil {
		return
	}
	lsn, err := harness.ParseLSN(harness.Value(e.t, e.pg.URL("postgres"), "SELECT pg_current_wal_lsn()"))
	if err != nil {
		e.t.Fatal(err)
	}
	p := harness.Pipeline{Name: e.name, RedisURL: e.redis.URL()}
	harness.Eventually(e.t, 2*patience, "the watermark passes the last commit", func() bool {
		w, err := p.Watermark(e.t.Context())
		return err == nil && w >= lsn
	})
}

// shell runs a command in the example's folder and gives what it prints.
func (e *example) shell(command string) string {
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	out, err := e.command(ctx, command).CombinedOutput()
	if err != nil {
		e.t.Errorf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// command is a line for a shell, with the servers of the test in place of those of the reader.
func (e *example) command(ctx context.Context, line string) *exec.Cmd {
	script := strings.Join(e.exports, "") + line
	for there, here := range map[string]string{"postgres@localhost:5432": "postgres@" + e.pg.Addr(), "localhost:6379": e.redis.Addr()} {
		script = strings.ReplaceAll(script, there, here)
	}
	cmd := exec.CommandContext(ctx, "bash", "-e", "-c", script)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", fmt.Sprintf("PATH=%s:%s", os.Getenv("PATH"), e.pg.BinDir()))
	return cmd
}
