package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// What init writes for each of these databases runs as it is; or the daemon says what the file says
// too, that there is nothing to capture yet.
func TestInitRuns(t *testing.T) {
	t.Parallel()
	pg := harness.SharedPostgres(t, postgresVersion(t))
	redis := harness.NewRedis(t, harness.RedisOptions{})
	schemas, err := filepath.Glob("../../internal/propose/testdata/*.sql")
	if err != nil || len(schemas) < 7 {
		t.Fatalf("%d schemas: %v", len(schemas), err)
	}
	for _, schema := range schemas {
		name := strings.TrimSuffix(filepath.Base(schema), ".sql")
		t.Run(name, func(t *testing.T) {
			sql, err := os.ReadFile(schema)
			if err != nil {
				t.Fatal(err)
			}
			url := harness.Database(t, pg)
			harness.Exec(t, url, string(sql))
			file := filepath.Join(t.TempDir(), "walrill.yaml")
			output, err := exec.Command("walrill", "init", "--source", url, "--sink", redis.URL(), "-c", file).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			if text := string(output); !strings.Contains(text, "walrill run -c "+file) {
				t.Errorf("no next step: %s", text)
			}
			startsWith(t, file, url, map[string]string{"empty": "no table of the database matches", "unfit": "REPLICA IDENTITY FULL"}[name])
		})
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
