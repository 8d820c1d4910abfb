package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/bridge"
	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/sink"
	"github.com/walrill/walrill/web"
)

// askTimeout bounds each of the questions that status asks.
const askTimeout = 5 * time.Second

type statusFlags struct {
	sourceFlags
	json bool
	http string
}

func newStatusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the pipeline is doing",
		Long: `Asks the running daemon. Where it answers is recorded in Redis; --http says so otherwise.
When it does not answer, Postgres and Redis are asked what they know.
Ends with 1 when the pipeline does not stream or Redis does not take entries.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	cmd.Flags().StringVar(&f.http, "http", "", "address of the daemon")
	return cmd
}

func (f *statusFlags) run(cmd *cobra.Command) error {
	cfg, err := f.load(cmd)
	if errors.Is(err, fs.ErrNotExist) && f.http != "" {
		cfg, err = &config.Config{}, nil // the daemon knows
	}
	if err != nil {
		return err
	}
	report, err := f.ask(cmd.Context(), cfg)
	if err != nil {
		return redacted(cfg, err)
	}
	if f.json {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = printReport(cmd.OutOrStdout(), report, report.Views == nil && !report.Since.IsZero() && len(cfg.Views.List) > 0)
	}
	if err != nil {
		return err
	}
	switch {
	case report.State != "streaming" && report.State != "standby":
		return fmt.Errorf("pipeline %s is not streaming: %s", report.Pipeline, report.State)
	case report.Sink.ErrorKind != "":
		return fmt.Errorf("pipeline %s waits for Redis: %s", report.Pipeline, report.Sink.ErrorKind)
	}
	return nil
}

// ask prefers the daemon's own word.
func (f *statusFlags) ask(ctx context.Context, cfg *config.Config) (web.Report, error) {
	if f.http != "" {
		report, err := askDaemon(ctx, f.http)
		if err != nil {
			if asked, ok := errors.AsType[*url.Error](err); ok { // which names the address again
				err = asked.Err
			}
			return report, fmt.Errorf("ask the daemon on %s: %w\n  fix: give --http the address that the daemon's log has behind \"answering over HTTP\"", f.http, err)
		}
		return report, nil
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return web.Report{}, err
	}
	defer client.Close() //nolint:errcheck // it only read
	meta, metaErr := readMeta(ctx, client, cfg.Pipeline)
	report, others := findDaemon(ctx, cfg.Pipeline, meta.HTTP, defaultHTTP)
	if report != nil {
		return *report, nil
	}
	servers := askServers(ctx, cfg, client, meta, metaErr)
	if others != "" && servers.State == stateNotRunning {
		servers.Error = others
	}
	return servers, nil
}

// findDaemon asks at some addresses for the daemon of a pipeline. When it answers at none, and that of another pipeline does, others says so: a new
// daemon, which has to take another port then, cannot say which to a Redis that is full.
func findDaemon(ctx context.Context, pipeline string, addrs ...string) (report *web.Report, others string) {
	for _, addr := range addrs {
		found, err := askDaemon(ctx, addr)
		switch {
		case err == nil && found.Pipeline == pipeline:
			return &found, ""
		case err == nil && found.Pipeline != "":
			others = fmt.Sprintf("%s is the daemon of pipeline %s; if one of this pipeline runs, its log says \"answering over HTTP\" and where: walrill status --http ADDRESS", addr, found.Pipeline)
		}
	}
	return nil, others
}

func readMeta(ctx context.Context, client redis.UniversalClient, pipeline string) (event.Meta, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	fields, err := client.HGetAll(ctx, event.MetaKey(pipeline)).Result()
	if err != nil {
		return event.Meta{}, fmt.Errorf("read %s: %w", event.MetaKey(pipeline), err)
	}
	return event.ParseMeta(fields)
}

func askDaemon(ctx context.Context, addr string) (web.Report, error) {
	var report web.Report
	if addr == "" {
		return report, errors.New("no address")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.Trim(strings.TrimPrefix(addr, "http://"), "/")+"/api/status", nil)
	if err != nil {
		return report, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return report, err
	}
	defer response.Body.Close() //nolint:errcheck // it only read
	if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
		return report, fmt.Errorf("not a walrill daemon: %w", err)
	}
	return report, nil
}

// askServers tells what can be known without the daemon.
func askServers(ctx context.Context, cfg *config.Config, client redis.UniversalClient, meta event.Meta, redisErr error) web.Report {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	report := web.Report{Pipeline: cfg.Pipeline, Version: version, State: stateNotRunning}
	report.Source.SecondsToLoss = -1 // one look is no rate
	report.Source.Slot, report.Sink.Epoch = cfg.Source.Slot, meta.Epoch
	source, err := newSource(cfg, mapfile.Mapping(cfg), slog.New(slog.DiscardHandler), nil)
	var slot capture.SlotState
	if err == nil {
		slot, err = source.Slot(ctx)
	}
	fillSlot(&report.Source, slot)
	if err != nil {
		report.Source.Error = redact(cfg, err.Error())
	}
	if errors.Is(err, capture.ErrNoSlot) && meta.Begun() || slot.WALStatus == "lost" {
		report.State, report.Error = stateSlotLost, slotLostAdvice
	}
	if slot.ActivePID != 0 {
		report.State, report.Error = "unreachable", "a daemon streams from the slot but does not answer over HTTP where Redis says, nor at the default; its log says where it does: walrill status --http ADDRESS"
	}
	report.Sink.State = sink.StateConnected
	watermark, _, err := consumer.Watermark(ctx, client, cfg.Pipeline)
	if err = errors.Join(redisErr, err); err != nil {
		report.Sink.State, report.Sink.ErrorKind, report.Sink.Error = "unknown", "connection", redact(cfg, err.Error())
	}
	if _, lsn := event.SplitClock(watermark); lsn != 0 {
		report.Sink.Watermark = change.LSN(lsn).String()
	}
	return report
}

const (
	stateNotRunning = "not running"
	stateSlotLost   = string(bridge.StateSlotLost)
	slotLostAdvice  = "changes are missing from the streams; `walrill run` says since when, and the way out"
)

// printReport writes the report for people; what is empty or usual is left out. Views that are elsewhere are kept by another process than the one
// that was asked.
func printReport(w io.Writer, r web.Report, elsewhere bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("pipeline", "%s", r.Pipeline)
	state := r.State
	if !r.Since.IsZero() {
		state += " for " + time.Since(r.Since).Round(time.Second).String()
	}
	row("state", "%s", state)
	if r.Error != "" {
		row("", "%s", r.Error)
	}
	switch {
	case r.Source.Slot == "": // views alone
	case r.Source.WALStatus == "": // not known, or there is none
		row("slot", "%s", r.Source.Slot)
	default:
		row("slot", "%s %s, Postgres keeps %s of WAL for it", r.Source.Slot, r.Source.WALStatus, size(r.Source.RetainedBytes))
	}
	if r.Source.Error != "" {
		row("", "%s", r.Source.Error)
	}
	if left := r.Source.SecondsToLoss; left >= 0 {
		row("", "lost in %s at the present rate, if it stands still", time.Duration(left*float64(time.Second)).Round(time.Second))
	}
	if r.Source.Current != "" {
		row("lag", "%s, %.1f s behind %s", size(r.Source.LagBytes), r.Source.LagSeconds, r.Source.Current)
	}
	if r.Since.IsZero() { // no daemon has counted
		if r.Sink.Watermark != "" {
			row("published", "complete up to %s", r.Sink.Watermark)
		}
	} else {
		row("read", "%d changes in %d transactions", r.Source.Changes, r.Source.Transactions)
		row("published", "%d entries, %.0f a second; complete up to %s", r.Sink.Entries, r.Sink.Rate, r.Sink.Watermark)
	}
	if n := r.Sink.ParkedKeys; n > 0 {
		row("parked", "%d keys, see `walrill parked list`", n)
	}
	if b := r.Backfill; b.Waiting+b.Running+b.Failed > 0 {
		row("backfill", "%d tables running, %d waiting, %d failed; %d rows", b.Running, b.Waiting, b.Failed, b.Rows)
	}
	if elsewhere {
		row("views", "not kept by this process; `walrill status --http ADDRESS` asks the one whose log says \"answering over HTTP\" there")
	}
	if v := r.Views; v != nil {
		if v.Behind == nil { // there is no position, or it is another process's
			row("views", "%s", v.State)
		} else {
			row("views", "%s, %s behind the streams; complete up to %s", v.State, size(v.LagBytes), v.Position)
		}
		if v.Error+v.Gap != "" {
			row("", "%s", v.Error+v.Gap)
		}
		for _, w := range v.Views {
			line := w.State
			if w.Parked > 0 {
				line += fmt.Sprintf(", %d keys set aside", w.Parked)
			}
			if w.Error != "" {
				line += ": " + w.Error
			}
			row("  "+w.Name, "%s", line)
		}
	}
	if r.Views != nil && r.Views.Workers != nil {
		row("workers", "%s", workersSummary(r.Views.Workers))
	}
	if r.Views != nil && r.Views.Verify != nil {
		row("verify", "%s", verifySummary(r.Views.Verify))
	}
	if r.Retention != nil {
		printRetention(row, r.Retention)
	}
	switch r.Reload.State {
	case "failed":
		row("reload", "failed %s ago, an earlier configuration is in force: %s", time.Since(r.Reload.At).Round(time.Second), r.Reload.Error)
	case "pending":
		row("reload", "waits for the streams to be complete")
	}
	redis := r.Sink.State
	if r.Sink.ErrorKind != "" {
		redis = fmt.Sprintf("%s (%s): %s", r.Sink.State, r.Sink.ErrorKind, r.Sink.Error)
	}
	if redis != "" {
		row("redis", "%s", redis)
	}
	return t.Flush()
}

// size prints bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 4 {
		value, prefix = value/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}
