package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// dataName is the data directory within a server's directory.
const dataName = "data"

// PostgresOptions says how to start a cluster. The zero value is a fresh one of
// DefaultVersion that is ready for logical decoding.
type PostgresOptions struct {
	Version int // major; default DefaultVersion
	// Settings go over the defaults (wal_level logical, 50 slots and senders, 200
	// connections). They are in a file, so that ALTER SYSTEM goes over them in turn.
	Settings map[string]string
	Dir      string // default a temporary directory; one that holds a cluster already is used as it is
	Port     int    // default a free one
	Outlive  bool   // keep it running when we end; give Dir too, a temporary one is swept then
}

// Postgres is a cluster on 127.0.0.1 whose superuser is `postgres`, trusted
// without a password. Its methods may be called from any goroutine.
type Postgres struct {
	bin      string
	dir      string
	sockets  string     // directory of the unix socket
	temps    []*tempDir // what Stop removes
	port     int
	user     *account
	outlive  bool
	version  int
	settings map[string]string // in the file

	mu   sync.Mutex
	proc *process
}

// StartPostgres makes a cluster, starts it and returns when it takes connections.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	for attempt := 1; ; attempt++ {
		p, err := startPostgres(ctx, o)
		if err == nil {
			return p, nil
		}
		// Between our look and the server's another process may take the port.
		if o.Port != 0 || attempt == 5 || !strings.Contains(err.Error(), "Address already in use") {
			return nil, fmt.Errorf("start postgres: %w", err)
		}
	}
}

func startPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	p := &Postgres{dir: o.Dir, port: o.Port, outlive: o.Outlive, version: cmp.Or(o.Version, DefaultVersion)}
	err := p.prepare(ctx, o)
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// prepare finds the binaries and makes the directories, the cluster and its settings.
func (p *Postgres) prepare(ctx context.Context, o PostgresOptions) (err error) {
	if p.bin, err = postgresBin(ctx, p.version); err != nil {
		return err
	}
	if p.user, err = postgresAccount(); err != nil {
		return err
	}
	if err = p.makeDirs(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		if err := p.initdb(ctx); err != nil {
			return err
		}
	}
	if p.port == 0 {
		if p.port, err = freePort(); err != nil {
			return err
		}
	}
	return p.configure(o.Settings)
}

func (p *Postgres) makeDirs() error {
	if p.dir == "" {
		d, err := newTempDir("pg")
		if err != nil {
			return err
		}
		p.temps = append(p.temps, d)
		p.dir = d.path
	}
	var err error
	if p.dir, err = filepath.Abs(p.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(p.data(), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	p.sockets = p.dir
	if len(filepath.Join(p.sockets, ".s.PGSQL.12345")) > 107 { // as long as the path of a unix socket can be
		d, err := newTempDir("pgsock")
		if err != nil {
			return err
		}
		p.temps = append(p.temps, d)
		p.sockets = d.path
	}
	if err := errors.Join(p.user.own(p.dir), p.user.own(p.data()), p.user.own(p.sockets)); err != nil {
		return fmt.Errorf("give directory to Postgres: %w", err)
	}
	return errors.Join(p.user.reach(p.dir), p.user.reach(p.bin))
}

func (p *Postgres) initdb(ctx context.Context) error {
	var out []byte
	var err error
	for _, locale := range []string{"C.UTF-8", "C"} { // the first is not everywhere
		cmd := p.command(ctx, "initdb", "--auth=trust", "-U", "postgres", "-E", "UTF8", "--locale="+locale, "-N", "-D", p.data())
		if out, err = cmd.CombinedOutput(); err == nil {
			conf := filepath.Join(p.data(), "postgresql.conf")
			return appendLine(conf, "include '"+settingsName+"'")
		}
		if !strings.Contains(string(out), "locale") {
			break
		}
	}
	return fmt.Errorf("run initdb: %w: %s", err, out)
}

// command is a program of this Postgres, run as the user it needs in a
// directory and an environment that suit that user.
func (p *Postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "LC_ALL=C", "TZ=UTC"}
	p.user.run(cmd)
	return cmd
}

// settingsName is the file of settings in the data directory.
const settingsName = "walrill.conf"

func (p *Postgres) configure(settings map[string]string) error {
	all := map[string]string{
		"wal_level":             "logical",
		"max_replication_slots": "50",
		"max_wal_senders":       "50",
		"max_connections":       "200",
		"listen_addresses":      "127.0.0.1",
	}
	maps.Copy(all, settings)
	all["port"] = fmt.Sprint(p.port)
	all["unix_socket_directories"] = p.sockets
	p.settings = all
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(all[k], "'", "''"))
	}
	path := filepath.Join(p.data(), settingsName)
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return p.user.own(path)
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}

func (p *Postgres) data() string { return filepath.Join(p.dir, dataName) }

// Start starts a cluster that was shut down or killed, on its old port and
// data, and returns when it takes connections.
func (p *Postgres) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc != nil && !p.proc.ended() {
		return fmt.Errorf("start postgres: it runs already, as process %d", p.proc.pid())
	}
	cmd := p.command(context.Background(), "postgres", "-D", p.data())
	var err error
	// SIGQUIT is an immediate shutdown: the postmaster takes its children along.
	if p.proc, err = startProcess(cmd, p.Log(), orphanSignal(p.outlive, syscall.SIGQUIT)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.proc.ready(ctx, p.probe); err != nil {
		p.proc.stop(time.Second, syscall.SIGQUIT)
		return fmt.Errorf("wait for postgres on %s: %w", p.Addr(), err)
	}
	return nil
}

// probe connects over the socket in our own directory: on the port another
// process's server could answer, when both were started on it.
func (p *Postgres) probe(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.SocketURL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// URL is the superuser's URL of a database, over TCP.
func (p *Postgres) URL(db string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: p.Addr(), Path: "/" + db, RawQuery: "sslmode=disable"}
	return u.String()
}

// SocketURL is the superuser's URL of a database, over the unix socket.
func (p *Postgres) SocketURL(db string) string {
	q := url.Values{"host": {p.sockets}, "port": {fmt.Sprint(p.port)}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + db, RawQuery: q.Encode()}
	return u.String()
}

// Port is the TCP port; it stays the same over restarts.
func (p *Postgres) Port() int { return p.port }

// Addr is host:port.
func (p *Postgres) Addr() string { return localAddr(p.port) }

// BinDir is the directory of this version's programs: pg_recvlogical, pgbench, psql
// where the distribution has them.
func (p *Postgres) BinDir() string { return p.bin }

// Dir is the server's directory; the cluster itself is in its subdirectory data.
func (p *Postgres) Dir() string { return p.dir }

// Log is the path of the server's log.
func (p *Postgres) Log() string { return filepath.Join(p.dir, "postgres.log") }

// Pid is the postmaster's process id, 0 when it is down.
func (p *Postgres) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil || p.proc.ended() {
		return 0
	}
	return p.proc.pid()
}
