package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

//go:embed demo/schema.sql
var demoSchema string

//go:embed demo/walrill.yaml
var demoConfig string

//go:embed demo/stop.sh
var demoStop string

// demoServers are Postgres, Redis and walrill, and the directory of their files.
type demoServers struct {
	program []string // how to start walrill, without its arguments
	keep    bool     // all go on when we end

	dir    string
	pg     *harness.Postgres
	redis  *harness.Redis
	daemon *harness.Program
	pid    int    // the daemon's
	http   string // where the daemon answers
}

// start starts Postgres and Redis at once and writes walrill's configuration.
// Servers that are to outlive us must not be in the harness's temporary directories,
// which the next process sweeps away.
func (s *demoServers) start(ctx context.Context) (err error) {
	pg := harness.PostgresOptions{Version: demoPostgresVersion(), Outlive: s.keep}
	rd := harness.RedisOptions{Outlive: s.keep}
	if s.keep {
		if s.dir, err = os.MkdirTemp("", "walrill-demo"); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := os.Chmod(s.dir, 0o755); err != nil { // Postgres may run as another user
			return fmt.Errorf("open directory to Postgres: %w", err)
		}
		pg.Dir, rd.Dir = s.path("postgres"), s.path("redis")
	}
	failed := make(chan error, 1)
	go func() {
		var err error
		s.pg, err = harness.StartPostgres(ctx, pg)
		failed <- err
	}()
	s.redis, err = harness.StartRedis(ctx, rd)
	if err = errors.Join(<-failed, err); err != nil {
		return err
	}
	if s.dir == "" {
		s.dir = s.redis.Dir()
	}
	return s.write("walrill.yaml", demoConfig, "${DATABASE_URL}", s.pgURL(), "${REDIS_URL}", s.redis.URL())
}

// demoPostgresVersion is the newest Postgres of Debian's packages that walrill
// knows; 0, the harness's own choice, when there is none.
func demoPostgresVersion() int {
	if os.Getenv("WALRILL_PG_BIN") != "" {
		return 0
	}
	for version := 18; version >= 14; version-- {
		if _, err := os.Stat(filepath.Join("/usr/lib/postgresql", strconv.Itoa(version), "bin/initdb")); err == nil {
			return version
		}
	}
	return 0
}

func (s *demoServers) pgURL() string { return s.pg.URL("postgres") }

func (s *demoServers) path(name string) string { return filepath.Join(s.dir, name) }

// write writes a file of the directory, with old texts replaced by new ones in turn.
func (s *demoServers) write(name, text string, oldnew ...string) error {
	text = strings.NewReplacer(oldnew...).Replace(text)
	if err := os.WriteFile(s.path(name), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// startDaemon starts walrill as a user would and returns when it streams.
func (s *demoServers) startDaemon(ctx context.Context, client redis.UniversalClient) (err error) {
	args := append(s.program[1:len(s.program):len(s.program)], "run", "-c", s.path("walrill.yaml"), "--http", "127.0.0.1:0")
	cmd := exec.Command(s.program[0], args...)
	if s.keep {
		s.daemon, err = harness.StartOutliving(cmd, s.path("walrill.log"))
	} else {
		s.daemon, err = harness.StartProgram(cmd, s.path("walrill.log"))
	}
	if err != nil {
		return err
	}
	s.pid = cmd.Process.Pid
	return s.waitStreaming(ctx, client)
}

// waitStreaming asks the daemon until it streams; where it answers stands in Redis.
func (s *demoServers) waitStreaming(ctx context.Context, client redis.UniversalClient) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoTimeout, errors.New("walrill does not come to streaming"))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if meta, err := readMeta(ctx, client, "demo"); err == nil && meta.HTTP != "" {
			if report, err := askDaemon(ctx, meta.HTTP); err == nil && report.State == "streaming" {
				s.http = meta.HTTP
				return nil
			}
		}
		if s.daemon.Ended() {
			return errors.New("walrill ended at once")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// explain adds to an error what walrill said last: its log goes when we do.
func (s *demoServers) explain(err error) error {
	if s.daemon == nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(s.daemon.Output()), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return fmt.Errorf("%w; walrill's log ends with:\n%s", err, strings.Join(lines, "\n"))
}

// stop stops what was started, walrill first, and removes its files.
func (s *demoServers) stop() error {
	var errs []error
	if s.daemon != nil {
		errs = append(errs, s.daemon.Signal(syscall.SIGTERM))
		if _, err := s.daemon.Wait(5 * time.Second); err != nil {
			errs = append(errs, s.daemon.Kill())
		}
	}
	if s.redis != nil {
		errs = append(errs, s.redis.Stop())
	}
	if s.pg != nil {
		errs = append(errs, s.pg.Stop())
	}
	if s.keep && s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// writeStop writes the script that does the same once we are gone.
func (s *demoServers) writeStop() error {
	pids := fmt.Sprint(s.pid, s.redis.Pid(), s.pg.Pid())
	return s.write("stop", demoStop, "${PIDS}", pids, "${DIR}", s.dir)
}
