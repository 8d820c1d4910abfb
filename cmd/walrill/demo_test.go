package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// TestDemo runs the demo as its users do.
func TestDemo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "walrill")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Run("kept", func(t *testing.T) { testDemoKept(t, program) })
	t.Run("tampered", func(t *testing.T) { testDemoTampered(t, program) })
	t.Run("interrupted", func(t *testing.T) { testDemoInterrupted(t, program) })
}

// demoTemp is where the demo makes its directories; at the end none may be left.
// t.TempDir is closed to the user that Postgres runs as.
func demoTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	return dir
}

// With --keep everything outlives the demo, until the script stops it.
func testDemoKept(t *testing.T, program string) {
	dir := demoTemp(t)
	t.Cleanup(func() { // when the test ended before
		if scripts, _ := filepath.Glob(filepath.Join(dir, "*", "stop")); len(scripts) > 0 {
			exec.Command("sh", scripts[0]).Run()
		}
	})
	out, err := exec.Command(program, "demo", "--seconds", "1", "--keep").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`Ada', 0\);  -- open an account\n   event .* accounts.created  1  {"id":1,"owner":"Ada","balance":0.00}`,
		`accounts.updated  1  {"id":1,"owner":"Ada","balance":80.00}  old {"balance":100.00}`,
		`The balance is 80.00 in Postgres and 80.00 in the last event`,
		`kill -9 \d+`,
		`events    [\d,]+ from [\d,]+ transactions in [\d.]+ s: [\d,]+ events/s`,
		`latency   p50 [\d.]+ ms, p99 [\d.]+ ms from commit to stream`,
		`ok    [\d,]+ row changes committed, [\d,]+ events`,
		`ok    seq runs 1, 2, 3 … in each of the 6 partitions`,
		`ok    old values in each event`,
		`ok    the events add up to the tables, row by row: 21 accounts, 20 customers, [\d,]+ orders, [\d,]+ order_items`,
		`ok    19,000,080.00 in all accounts together`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("no %s in:\n%s", want, out)
		}
	}
	if bytes.Contains(out, []byte("\x1b")) {
		t.Error("colour where there is no terminal")
	}
	config := filepath.Join(filepath.Dir(demoScript(t, dir)), "walrill.yaml")
	if out, err := exec.Command(program, "status", "-c", config).CombinedOutput(); err != nil {
		t.Errorf("status: %v\n%s", err, out)
	}
	if out, err := exec.Command("sh", demoScript(t, dir)).CombinedOutput(); err != nil {
		t.Fatalf("stop: %v\n%s", err, out)
	}
	if err := exec.Command(program, "status", "-c", config).Run(); err == nil {
		t.Error("it runs still")
	}
	for _, address := range regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(string(out), -1) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("somebody answers on %s", address)
		}
	}
}

// demoScript is the script that stops a demo that was kept in dir.
func demoScript(t *testing.T, dir string) string {
	t.Helper()
	scripts, err := filepath.Glob(filepath.Join(dir, "*", "stop"))
	if err != nil || len(scripts) != 1 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	return scripts[0]
}

// An entry that is missing fails the check, which says where.
func testDemoTampered(t *testing.T, program string) {
	demoTemp(t)
	var out bytes.Buffer
	d := &demo{out: newDemoOutput(&out), seconds: 1, servers: demoServers{program: []string{program}}}
	d.tamper = func(ctx context.Context, client redis.UniversalClient) error {
		entries, err := client.XRangeN(ctx, "shop:2", "-", "+", 5).Result()
		if err != nil {
			return err
		}
		return client.XDel(ctx, "shop:2", entries[3].ID).Err()
	}
	err := d.run(t.Context())
	if _, ok := errors.AsType[demoFailed](err); !ok {
		t.Fatalf("error %v, want that of a failed check", err)
	}
	for _, want := range []string{"FAIL", "shop:2: 1 missing between seq 3 and 5", "events read", "ok    19,000,080.00"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in:\n%s", want, out.String())
		}
	}
}

// Ctrl-C, which a terminal sends to the servers too, leaves nothing behind.
func testDemoInterrupted(t *testing.T, program string) {
	demoTemp(t)
	cmd := exec.Command(program, "demo", "--seconds", "30")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.Contains(lines.Text(), "orders.created") {
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer ended.Stop()
	for lines.Scan() {
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), "interrupted; what it had started is stopped") {
		t.Errorf("%v, printed %s", err, stderr.String())
	}
	harness.Eventually(t, 5*time.Second, "no process is left", func() bool { return syscall.Kill(-cmd.Process.Pid, 0) != nil })
}
