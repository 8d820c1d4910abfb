package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

// backfillReport is a line of `backfill status`.
type backfillReport struct {
	Table string `json:"table"`
	event.Backfill
	Requested string  `json:"requested,omitempty"` // start or cancel, which the daemon has not seen yet
	Speed     float64 `json:"rows_per_second"`     // since it started
}

type backfillStatusFlags struct {
	sourceFlags
	json, follow, noFollow bool
}

func newBackfillStatusCommand() *cobra.Command {
	var f backfillStatusFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far backfills are",
		Long: `Shows how far backfills are. On a terminal it follows those that are not at their end, a bar for each table,
until all are or until Ctrl-C, which ends nothing but the look.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON, once")
	cmd.Flags().BoolVar(&f.follow, "follow", false, "follow also when the output is not a terminal, in lines")
	cmd.Flags().BoolVar(&f.noFollow, "no-follow", false, "print once, also on a terminal")
	return cmd
}

func (f *backfillStatusFlags) run(cmd *cobra.Command) error {
	if f.follow && (f.noFollow || f.json) {
		return usageError{errors.New("--follow excludes --no-follow and --json")}
	}
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	store, err := openBackfillStore(cfg)
	if err != nil {
		return redacted(cfg, err)
	}
	defer store.client.Close() //nolint:errcheck // it only read
	list, err := readBackfills(cmd.Context(), store)
	if err != nil {
		return redacted(cfg, err)
	}
	out := cmd.OutOrStdout()
	switch {
	case f.json:
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(list)
	case !slices.ContainsFunc(list, backfillReport.goesOn) || f.noFollow || !f.follow && !isTerminal(out):
		return printBackfills(out, list)
	}
	shown := map[string]bool{}
	err = followBackfills(cmd.Context(), store, newBackfillView(out), func(all []backfillReport) ([]backfillReport, bool) {
		list = slices.DeleteFunc(all, func(b backfillReport) bool {
			shown[b.Table] = shown[b.Table] || b.goesOn()
			return !shown[b.Table] // it was at its end before
		})
		return list, !slices.ContainsFunc(list, backfillReport.goesOn)
	})
	for _, b := range list {
		if b.Error != "" && isTerminal(out) { // it may be cut behind the bar
			fmt.Fprintf(out, "%s: %s\n", b.Table, b.progress())
		}
	}
	return redacted(cfg, err)
}

// openBackfillStore is the store as commands use it. The caller closes its client.
func openBackfillStore(cfg *config.Config) (*backfillStore, error) {
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return nil, err
	}
	return &backfillStore{client: client, pipeline: cfg.Pipeline}, nil
}

func readBackfills(ctx context.Context, store *backfillStore) ([]backfillReport, error) {
	records, err := store.Load(ctx)
	if err != nil {
		return nil, err
	}
	list := []backfillReport{}
	for table, r := range records {
		line := backfillReport{Table: table}
		if r.State != nil {
			line.Backfill = event.Backfill(*r.State)
		}
		if r.Request != nil && r.Request.ID != line.Request {
			line.Requested = r.Request.Action
		}
		end := time.Now()
		if !line.Finished.IsZero() {
			end = line.Finished
		}
		if took := end.Sub(line.Started); took > 0 && !line.Started.IsZero() {
			line.Speed = float64(line.Rows) / took.Seconds()
		}
		list = append(list, line)
	}
	slices.SortFunc(list, func(a, b backfillReport) int { return strings.Compare(a.Table, b.Table) })
	return list, nil
}

func printBackfills(w io.Writer, list []backfillReport) error {
	if len(list) == 0 {
		fmt.Fprintln(w, "no table was ever backfilled; `walrill backfill start TABLE` starts one")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TABLE\tSTATE\tROWS\tOF ABOUT\tSIZE\tROWS/S\tLEFT\t")
	for _, b := range list {
		state := b.State
		if b.Requested != "" {
			state = strings.TrimSpace(state + " (" + b.Requested + " requested)")
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%.0f\t%s\t%s\n", b.Table, state, b.Rows, percent(b), size(b.Bytes), b.Speed, left(b), b.note())
	}
	return t.Flush()
}

// goesOn reports whether there is more to come.
func (b backfillReport) goesOn() bool {
	return b.Requested != "" || b.State == capture.BackfillWaiting || b.State == capture.BackfillRunning
}

// note is what keeps the table, or ended it.
func (b backfillReport) note() string {
	if b.Waits != "" && b.goesOn() {
		return "waits: " + b.Waits
	}
	return b.Error
}

// percent is the estimate and how much of it is done; unknown with a condition.
func percent(b backfillReport) string {
	if b.Total <= 0 || b.Where != "" {
		return "-"
	}
	return fmt.Sprintf("%d (%d%%)", b.Total, min(100, 100*b.Rows/b.Total))
}

func left(b backfillReport) string {
	if b.State != capture.BackfillRunning || b.Speed <= 0 || b.Total <= b.Rows || b.Where != "" {
		return "-"
	}
	return time.Duration(float64(b.Total-b.Rows) / b.Speed * float64(time.Second)).Round(time.Second).String()
}
