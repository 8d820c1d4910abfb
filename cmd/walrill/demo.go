package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/consumer"
)

func newDemoCommand() *cobra.Command {
	var keep bool
	var seconds int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all on a Postgres and a Redis of its own, and check that nothing is lost or doubled",
		Long: `Starts a throwaway Postgres and Redis on free ports of 127.0.0.1 and walrill between them, tells the story
of a bank account, runs a busy shop, kills walrill in the middle of it, and then checks the streams against
the tables. Everything is stopped and removed at the end.
Ends with 1 when a check fails.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if seconds < 1 {
				return usageError{fmt.Errorf("--seconds %d: want 1 or more", seconds)}
			}
			path, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find our own program: %w", err)
			}
			d := &demo{out: newDemoOutput(cmd.OutOrStdout()), seconds: seconds}
			d.servers = demoServers{program: []string{path}, keep: keep}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave Postgres, Redis and walrill running, and say how to use and stop them")
	cmd.Flags().IntVar(&seconds, "seconds", 12, "how long the shop is busy")
	return cmd
}

// demoTimeout bounds every wait for something that takes milliseconds.
const demoTimeout = 30 * time.Second

// demoStreams are the streams of demo/walrill.yaml.
var demoStreams = []string{"bank", "customers", "shop"}

// demo is one run of the demo.
type demo struct {
	out     *demoOutput
	seconds int
	servers demoServers
	tamper  func(context.Context, redis.UniversalClient) error // what a test does before the check

	db     *pgx.Conn
	client redis.UniversalClient
	began  time.Time
	result demoResult
}

// demoResult is what the parts leave for the summary and the check.
type demoResult struct {
	changes int           // rows changed by committed transactions, from the first one on
	shop    demoStats     // of the shop alone
	took    time.Duration // the shop, until its last event was in Redis
	behind  time.Duration // the shop's last event behind its last commit
	restart time.Duration // after walrill was killed
	latency []time.Duration
	opening demoOpening
}

// demoFailed is a check that found the streams wrong.
type demoFailed struct{ error }

func (d *demo) run(ctx context.Context) error {
	d.began = time.Now()
	var err error
	for _, part := range []func(context.Context) error{d.start, d.tellBank, d.runShop, d.measure, d.check} {
		if err = part(ctx); err != nil {
			break
		}
	}
	return d.end(ctx, err)
}

// start brings up the servers and walrill, and shows the configuration.
func (d *demo) start(ctx context.Context) error {
	d.out.line("walrill turns every committed row change in Postgres into an event in Redis Streams: in order, exactly once.")
	d.out.line("This demo shows it at work and then checks that this is true.")
	d.out.heading("Postgres, Redis and walrill, started for this demo", "On free ports of 127.0.0.1, apart from everything else on this machine.")
	err := d.servers.start(ctx)
	if err == nil {
		err = d.connect(ctx)
	}
	if err == nil {
		err = d.servers.startDaemon(ctx, d.client)
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.out.field("Postgres", "%s", d.servers.pgURL())
	d.out.field("Redis", "%s", d.servers.redis.URL())
	d.out.field("walrill", "http://%s, process %d", d.servers.http, d.servers.pid)
	d.out.heading("walrill's configuration", "One file says which tables go to which streams, and by what key their events stay in order.")
	return d.out.file(d.servers.path("walrill.yaml"))
}

// connect opens the demo's own connections and makes the tables.
func (d *demo) connect(ctx context.Context) (err error) {
	if d.db, err = pgx.Connect(ctx, d.servers.pgURL()); err != nil {
		return err
	}
	if _, err = d.db.Exec(ctx, demoSchema); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	d.client, err = consumer.NewClient(d.servers.redis.URL())
	return err
}

// end closes and stops everything, unless it is to be kept.
func (d *demo) end(ctx context.Context, err error) error {
	d.out.progress("")
	if d.db != nil {
		d.db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // its work is done
	}
	if d.client != nil {
		d.client.Close() //nolint:errcheck // its work is done
	}
	var failed demoFailed
	if finished := err == nil || errors.As(err, &failed); finished && d.servers.keep {
		d.out.kept(&d.servers)
		return err
	} else if !finished && ctx.Err() == nil {
		err = d.servers.explain(err)
	}
	stopped := d.servers.stop()
	if ctx.Err() != nil {
		err = errors.New("demo: interrupted; what it had started is stopped and removed")
	}
	if err == nil && stopped == nil {
		d.out.line("\nDone in %.0f s; everything is stopped and removed. `make demo KEEP=1` or `walrill demo --keep` leaves it running.",
			time.Since(d.began).Seconds())
	}
	return errors.Join(err, stopped)
}
