package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/web"
)

const defaultHTTP = "127.0.0.1:8077"

// The parts of --only.
const (
	onlyCapture = "capture"
	onlyViews   = "views"
)

type runFlags struct {
	sourceFlags
	http, logFormat, logLevel, only string
	backfill                        capture.BackfillOptions
}

func newRunCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Carry changes from Postgres to Redis until stopped",
		Long: `Carries every committed row change of the configured tables to Redis Streams until SIGINT or SIGTERM.

Needs a configuration file (-c), or without one:
  walrill run --source postgres://… --sink redis://… --tables 'public.*'`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.http, "http", defaultHTTP, "address for health, metrics and status; empty turns it off")
	cmd.Flags().StringVar(&f.logFormat, "log-format", "text", "text or json")
	cmd.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().IntVar(&f.backfill.Readers, "backfill-readers", 2, "connections that read at the same time in backfills: one a table, two for a table that is alone")
	cmd.Flags().IntVar(&f.backfill.ChunkRows, "backfill-chunk", 10000, "rows that a backfill reads at once")
	cmd.Flags().StringVar(&f.only, "only", "", "which part to run: capture or views; default both, as far as configured")
	return cmd
}

func (f *runFlags) run(cmd *cobra.Command) error {
	if f.only != "" && f.only != onlyCapture && f.only != onlyViews {
		return usageError{fmt.Errorf("--only %s: want capture or views", f.only)}
	}
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	if f.only == onlyViews && len(cfg.Views.List) == 0 {
		return usageError{errors.New("--only views: the configuration has no `views`")}
	}
	log, err := newLogger(cmd.ErrOrStderr(), f.logFormat, f.logLevel, cfg)
	if err != nil {
		return err
	}
	if f.backfill.Readers < 1 || f.backfill.ChunkRows < 1 {
		return usageError{errors.New("--backfill-readers and --backfill-chunk must be above 0")}
	}
	return f.serve(cmd.Context(), cmd, cfg, log)
}

// serve runs the pipeline and, beside it, the HTTP server.
func (f *runFlags) serve(ctx context.Context, cmd *cobra.Command, cfg *config.Config, log *slog.Logger) error {
	report := &reporter{config: cfg, log: log, reload: web.Reload{State: reloadNone}}
	server, err := f.listen(cmd, report, log)
	if err != nil {
		return err
	}
	addr := ""
	if server != nil {
		addr = server.Addr()
		go func() {
			if err := server.Serve(); err != nil {
				log.Error("HTTP stopped", "error", err)
			}
		}()
		defer server.Close() //nolint:errcheck // requests that do not end are cut off
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return redacted(cfg, err)
	}
	defer client.Close() //nolint:errcheck // what it wrote was acknowledged
	parts := newParts(ctx)
	var views *viewRunner
	if f.only != onlyCapture {
		views = newViewRunner(client, report, log)
	}
	reloads := newReloader(f.file(cmd), cfg, views, report, log)
	if f.only == onlyViews {
		parts.run(func(ctx context.Context) error { reloads.watch(ctx); return nil })
	} else {
		if reloads.pipeline, err = f.capture(cfg, addr, client, log); err != nil {
			return redacted(cfg, err)
		}
		if err := report.retain(log); err != nil {
			return redacted(cfg, err)
		}
		parts.run(func(ctx context.Context) error { return runPipeline(ctx, reloads.pipeline, report, reloads) })
	}
	if views != nil {
		parts.run(func(ctx context.Context) error { return views.run(ctx, cfg) })
	}
	if err = parts.wait(); err == nil {
		log.Info("stopped")
	}
	return redacted(cfg, err)
}

// capture makes the pipeline that carries changes.
func (f *runFlags) capture(cfg *config.Config, addr string, client redis.UniversalClient, log *slog.Logger) (*pipeline, error) {
	backfill := f.backfill
	store := &backfillStore{client: client, pipeline: cfg.Pipeline}
	backfill.Store = store
	backfill.Initial = cfg.Source.Backfill == config.BackfillInitial
	store.config.Store(cfg)
	p, err := newPipeline(cfg, addr, backfill, store.writer.Store, client, log)
	if err != nil {
		return nil, err
	}
	p.inForce = store.config.Store
	return p, nil
}

// runPipeline carries changes, follows the slot and reloads the configuration until ctx ends or the pipeline cannot go on.
func runPipeline(ctx context.Context, p *pipeline, report *reporter, reloads *reloader) error {
	beside, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { report.watch(beside, p) })
	group.Go(func() { reloads.watch(beside) })
	if report.retained != nil {
		group.Go(func() { report.retained.run(beside) })
	}
	err := p.bridge.Run(ctx)
	p.keys.Close(ctx)
	stop()
	group.Wait()
	return err
}

// listen opens the HTTP address. When nobody chose the default address and it
// is taken, most likely by another instance, a free port does as well.
func (f *runFlags) listen(cmd *cobra.Command, report *reporter, log *slog.Logger) (*web.Server, error) {
	if f.http == "" {
		return nil, nil
	}
	server, err := web.Listen(f.http, report.report, report.wait)
	if err != nil && !cmd.Flags().Changed("http") {
		taken := err
		if server, err = web.Listen("127.0.0.1:0", report.report, report.wait); err == nil {
			log.Warn("the default HTTP address is taken: using another", "error", taken, "http", server.Addr())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w; choose another address with --http, or --http '' for none", err)
	}
	log.Info("answering over HTTP", "http", server.Addr())
	return server, nil
}

// newLogger makes a logger in whose lines no password of the configuration shows.
func newLogger(w io.Writer, format, level string, cfg *config.Config) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %s: want debug, info, warn or error", level)}
	}
	opts := &slog.HandlerOptions{Level: l, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return redactAttr(cfg, a) }}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %s: want text or json", format)}
}

func redactAttr(cfg *config.Config, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case error:
		a.Value = slog.StringValue(redact(cfg, v.Error()))
	case string:
		a.Value = slog.StringValue(redact(cfg, v))
	case time.Duration:
		a.Value = slog.StringValue(v.Round(time.Millisecond).String())
	case fmt.Stringer:
		if a.Key != slog.TimeKey && a.Key != slog.LevelKey {
			a.Value = slog.StringValue(redact(cfg, v.String()))
		}
	}
	return a
}

// redact removes what drivers may have put of a connection string into text.
func redact(cfg *config.Config, text string) string {
	return config.Redact(plainly(text), cfg.Source.URL, cfg.Sink.URL, cfg.Views.Store, cfg.Views.Documents)
}

// redactedError is an error whose text has no secrets. What it wraps says which kind it is, and is not to be printed.
type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }

// redacted keeps an error's kind and hides its secrets.
func redacted(cfg *config.Config, err error) error {
	if err == nil {
		return nil
	}
	if text := redact(cfg, err.Error()); text != err.Error() {
		return &redactedError{text, err}
	}
	return err
}

// isTerminal reports whether a person reads what is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && !strings.HasPrefix(os.Getenv("TERM"), "dumb")
}
