package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Servers of a process that is killed end, and the next process removes what
// they left.
func TestServersDieWithParent(t *testing.T) {
	if os.Getenv("HARNESS_PARENT") != "" {
		beParent(t)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestServersDieWithParent$")
	cmd.Env = append(os.Environ(), "HARNESS_PARENT=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pgPort, redisPort int
	var pgDir, redisDir string
	if _, err := fmt.Fscan(out, &pgPort, &redisPort, &pgDir, &redisDir); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, port := range []int{pgPort, redisPort} {
		Eventually(t, 10*time.Second, "nobody listens on "+strconv.Itoa(port), func() bool {
			conn, err := net.Dial("tcp", localAddr(port))
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	}
	for _, dir := range []string{pgDir, redisDir} {
		// A server that listens no more may still be about to end, and hold its lock.
		Eventually(t, 30*time.Second, dir+" is swept away", func() bool {
			age(t, dir)
			sweep(os.TempDir())
			_, err := os.Stat(dir)
			return os.IsNotExist(err)
		})
	}
}

// beParent starts servers, tells of them and waits to be killed.
func beParent(t *testing.T) {
	pg, err := StartPostgres(context.Background(), PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := StartRedis(context.Background(), RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(pg.Port(), r.Port(), pg.Dir(), r.Dir())
	io.Copy(io.Discard, os.Stdin) // ends when the test does, should that be killed itself
}

// age makes a directory's lock as old as sweep wants it.
func age(t *testing.T, dir string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, lockName), old, old); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func TestSweepLeavesWhatIsOwned(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	owned, err := newTempDir("owned")
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := newTempDir("fresh")
	if err != nil {
		t.Fatal(err)
	}
	fresh.lock.Close()
	stale, err := newTempDir("stale")
	if err != nil {
		t.Fatal(err)
	}
	stale.lock.Close()
	age(t, owned.path)
	age(t, stale.path)
	strange := filepath.Join(os.TempDir(), "walrill-strange")
	if err := os.Mkdir(strange, 0o755); err != nil {
		t.Fatal(err)
	}
	sweep(os.TempDir())
	for path, want := range map[string]bool{owned.path: true, fresh.path: true, strange: true, stale.path: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
	if err := owned.remove(); err != nil {
		t.Error(err)
	}
}

func TestServersLeaveNoGoroutines(t *testing.T) {
	before := goleak.IgnoreCurrent()
	r := NewRedis(t, RedisOptions{})
	p := StartProxy(t, r.Addr())
	if err := client(t, "redis://"+p.Addr()).Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	p.Close()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction(LeakIgnore))
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}

// A server that does not come up is not waited for longer than the caller wants,
// and the error has its log. One that ignores a signal gets the next.
func TestReadyEndsWithContext(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("sh", "-c", "trap '' TERM; echo still thinking; while :; do read x; done </dev/zero")
	p, err := startProcess(cmd, log, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, 5*time.Second, "it has said something", func() bool { return logTail(log) != "" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = p.ready(ctx, func(context.Context) error { return errors.New("no answer") })
	for _, want := range []string{"deadline exceeded", "no answer", "still thinking"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if err := p.stop(50*time.Millisecond, syscall.SIGTERM); err != nil || !p.ended() {
		t.Errorf("stop: %v, ended: %v", err, p.ended())
	}
	if err := p.stop(time.Second); err != nil {
		t.Errorf("stop it again: %v", err)
	}
}
