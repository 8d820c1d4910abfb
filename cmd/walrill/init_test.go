package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// What init writes for each of these databases runs as it is; or the daemon says what the file says
// too, that there is nothing to capture yet. With every proposal taken it runs, too.
func TestInitRuns(t *testing.T) {
	t.Parallel()
	pg := harness.SharedPostgres(t, postgresVersion(t))
	schemas, err := filepath.Glob("../../internal/propose/testdata/*.sql")
	if err != nil || len(schemas) < 7 {
		t.Fatalf("%d schemas: %v", len(schemas), err)
	}
	reasons := map[string]string{"empty": "no table of the database matches", "unfit": "REPLICA IDENTITY FULL"}
	for _, schema := range schemas {
		name := strings.TrimSuffix(filepath.Base(schema), ".sql")
		t.Run(name, func(t *testing.T) {
			file, url, _ := initialise(t, pg, schema)
			startsWith(t, file, url, reasons[name])
		})
		if name == "empty" {
			continue
		}
		for with, kept := range map[string]*regexp.Regexp{
			"rules":      regexp.MustCompile(`(?m)^    #aggregates:\n(      .*\n)*`), // which are in place of them
			"aggregates": regexp.MustCompile(`(?m)^ *#(events:|- \{type).*\n`),
		} {
			t.Run(name+" with all proposals and "+with, func(t *testing.T) {
				file, url, output := initialise(t, pg, schema)
				useProposals(t, file, url, output, kept)
				startsWith(t, file, url, "")
			})
		}
	}
}

// initialise makes a database of a schema, lets init write a file for it, and gives what it printed.
func initialise(t *testing.T, pg *harness.Postgres, schema string) (file, url, output string) {
	t.Helper()
	sql, err := os.ReadFile(schema)
	if err != nil {
		t.Fatal(err)
	}
	url = harness.Database(t, pg)
	harness.Exec(t, url, string(sql))
	file = filepath.Join(t.TempDir(), "walrill.yaml")
	redis := harness.NewRedis(t, harness.RedisOptions{})
	out, err := exec.Command("walrill", "init", "--source", url, "--sink", redis.URL(), "-c", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "walrill run -c "+file) {
		t.Errorf("no next step: %s", out)
	}
	return file, url, string(out)
}

// useProposals takes every proposal of the file but for some, which it removes, and runs the statements that init prints for them.
func useProposals(t *testing.T, file, url, output string, but *regexp.Regexp) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`(?m)^( *)#([^ #])`).ReplaceAllString(but.ReplaceAllString(string(text), ""), "$1$2")
	if err := os.WriteFile(file, []byte(used), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^  #   (ALTER TABLE .*;)$`).FindAllStringSubmatch(output, -1) {
		harness.Exec(t, url, m[1])
	}
}

// startsWith runs a daemon with the file until it is ready, or until it gives up for a reason.
func startsWith(t *testing.T, file, url, reason string) {
	t.Helper()
	cmd := exec.Command("walrill", "run", "-c", file, "--http", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url, "GORACE=atexit_sleep_ms=0")
	d, err := harness.StartProgram(cmd, file+".log")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Kill() //nolint:errcheck // it has ended when the test succeeds
	if reason == "" {
		harness.Eventually(t, 2*patience, "the daemon is ready", func() bool { return isReady(d) || d.Ended() })
		if err := d.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	code, err := d.Wait(2 * patience)
	if err != nil || (code == exitDone) != (reason == "") || !strings.Contains(d.Output(), reason) {
		t.Errorf("the daemon ended with %d, %v; want %q in\n%s", code, err, reason, d.Output())
	}
}
