package harness

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout bounds a server's start when the caller's context does not.
const startTimeout = time.Minute

// RedisOptions says how to start a Redis. The zero value is a Redis without
// persistence on a free port.
type RedisOptions struct {
	// Config are lines of redis.conf: directive to arguments. A directive that
	// occurs several times has its arguments on several lines.
	Config  map[string]string
	Dir     string // where it keeps its files; default a temporary directory
	Port    int    // default a free one
	Outlive bool   // keep it running when we end; give Dir too, a temporary one is swept then
}

// Redis is a redis-server on 127.0.0.1. Its methods may be called from any goroutine.
type Redis struct {
	dir      string
	temp     *tempDir // nil when the caller gave the directory
	port     int
	password string
	outlive  bool

	mu   sync.Mutex
	proc *process
}

// StartRedis starts redis-server and returns when it answers.
func StartRedis(ctx context.Context, o RedisOptions) (*Redis, error) {
	for attempt := 1; ; attempt++ {
		r, err := startRedis(ctx, o)
		if err == nil {
			return r, nil
		}
		// Between our look and the server's another process may take the port.
		if o.Port != 0 || attempt == 5 || !strings.Contains(err.Error(), "Address already in use") {
			return nil, fmt.Errorf("start redis: %w", err)
		}
	}
}

func startRedis(ctx context.Context, o RedisOptions) (*Redis, error) {
	r := &Redis{dir: o.Dir, port: o.Port, password: o.Config["requirepass"], outlive: o.Outlive}
	var err error
	if r.dir == "" {
		if r.temp, err = newTempDir("redis"); err != nil {
			return nil, err
		}
		r.dir = r.temp.path
	}
	if r.port == 0 {
		r.port, err = freePort()
	}
	if err == nil {
		err = r.configure(o.Config)
	}
	if err == nil {
		err = r.Start(ctx)
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// configure writes redis.conf, once: CONFIG REWRITE may change it later.
func (r *Redis) configure(config map[string]string) error {
	lines := map[string]string{
		"bind":                 "127.0.0.1",
		"port":                 fmt.Sprint(r.port),
		"unixsocket":           r.socket(),
		"dir":                  r.dir,
		"save":                 `""`,
		"appendonly":           "no",
		"databases":            "16",
		"daemonize":            "no",
		"loglevel":             "notice",
		"enable-debug-command": "yes", // DEBUG SLEEP and its like, for tests
	}
	maps.Copy(lines, config)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(lines)) {
		for line := range strings.SplitSeq(lines[k], "\n") {
			fmt.Fprintf(&b, "%s %s\n", k, cmp.Or(line, `""`))
		}
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.WriteFile(r.path("redis.conf"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func (r *Redis) path(name string) string { return filepath.Join(r.dir, name) }
func (r *Redis) socket() string          { return r.path("redis.sock") }

// Start starts a server that was stopped or killed, on its old port and
// directory, and returns when it answers and has loaded its data.
func (r *Redis) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc != nil && !r.proc.ended() {
		return fmt.Errorf("start redis: it runs already, as process %d", r.proc.pid())
	}
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("find redis-server: %w; install it with `apt-get install redis-server`", err)
	}
	cmd := exec.Command(bin, r.path("redis.conf"))
	cmd.Dir = r.dir
	if r.proc, err = startProcess(cmd, r.Log(), orphanSignal(r.outlive, syscall.SIGKILL)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.proc.ready(ctx, r.probe); err != nil {
		r.proc.stop(time.Second)
		return fmt.Errorf("wait for redis on %s: %w", r.Addr(), err)
	}
	return nil
}

// probe asks over the socket in our own directory: on the port another
// process's server could answer, when both were started on it.
func (r *Redis) probe(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.socket())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "-LOADING") { // any other answer, NOAUTH too, is of a server that is up
		return fmt.Errorf("answer to PING: %s", strings.TrimSpace(line))
	}
	return nil
}

// URL is the server's address for database 0, with the password of
// `requirepass` when one was configured.
func (r *Redis) URL() string {
	return (&url.URL{Scheme: "redis", User: r.user(), Host: r.Addr(), Path: "/0"}).String()
}

// SocketURL is the URL of its unix socket.
func (r *Redis) SocketURL() string {
	return (&url.URL{Scheme: "unix", User: r.user(), Path: r.socket()}).String()
}

func (r *Redis) user() *url.Userinfo {
	if r.password == "" {
		return nil
	}
	return url.UserPassword("", r.password)
}

// Addr is host:port.
func (r *Redis) Addr() string { return localAddr(r.port) }

// Port is the TCP port; it stays the same over restarts.
func (r *Redis) Port() int { return r.port }

// Dir is the directory with redis.conf, the socket, the log and the data.
func (r *Redis) Dir() string { return r.dir }

// Log is the path of the server's log.
func (r *Redis) Log() string { return r.path("redis.log") }

// Pid is the id of the running server, 0 when it is down.
func (r *Redis) Pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil || r.proc.ended() {
		return 0
	}
	return r.proc.pid()
}

// Kill ends the server with SIGKILL, as a crash does. Start starts it again.
func (r *Redis) Kill() error { return r.halt() }

// Shutdown ends the server in order (SIGTERM: it saves when `save` or
// `appendonly` is configured) and keeps its files. Start starts it again.
func (r *Redis) Shutdown() error { return r.halt(syscall.SIGTERM) }

// Stop ends the server for good and removes its temporary directory. It may be
// called more than once.
func (r *Redis) Stop() error {
	err := r.halt()
	if r.temp != nil {
		if e := r.temp.remove(); err == nil {
			err = e
		}
	}
	return err
}

func (r *Redis) halt(signals ...os.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil {
		return nil
	}
	if err := r.proc.stop(10*time.Second, signals...); err != nil {
		return fmt.Errorf("stop redis: %w", err)
	}
	return nil
}
