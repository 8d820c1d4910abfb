package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

func newBackfillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backfill",
		Short: "Publish rows that exist already: start, status, cancel",
		Long: `Asks the daemon that streams to read tables and publish their rows as entries with op r, in order with
the changes that go on meanwhile. When no daemon streams, the next one does what was asked.`,
		Args: func(cmd *cobra.Command, args []string) error {
			return usageError{errors.New("walrill backfill takes start, status or cancel; see `walrill backfill --help`")}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBackfillStartCommand(), newBackfillStatusCommand(), newBackfillCancelCommand())
	return cmd
}

func newBackfillStartCommand() *cobra.Command {
	var f sourceFlags
	var request event.BackfillRequest
	cmd := &cobra.Command{
		Use:   "start TABLE",
		Short: "Read a table from its beginning and publish its rows",
		Args:  exactArgs(1, "a table, such as public.orders"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request.Rate < 0 {
				return usageError{errors.New("--rate must not be negative")}
			}
			request.Action = "start"
			return f.request(cmd, args[0], request)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&request.Where, "where", "", "SQL condition; only rows that meet it are published")
	cmd.Flags().IntVar(&request.Rate, "rate", 0, "rows a second at most; 0: no limit")
	return cmd
}

func newBackfillCancelCommand() *cobra.Command {
	var f sourceFlags
	cmd := &cobra.Command{
		Use:   "cancel TABLE",
		Short: "End a table's backfill where it is",
		Args:  exactArgs(1, "a table, such as public.orders"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.request(cmd, args[0], event.BackfillRequest{Action: "cancel"})
		},
	}
	f.register(cmd)
	return cmd
}

// answerTimeout is how long a command waits for the daemon to take note.
const answerTimeout = 5 * time.Second

// request leaves a request for the daemon and waits a moment for its answer.
func (f *sourceFlags) request(cmd *cobra.Command, table string, request event.BackfillRequest) error {
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	if !strings.Contains(table, ".") {
		table = "public." + table
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return redacted(cfg, err)
	}
	defer client.Close() //nolint:errcheck // what it wrote was acknowledged
	request.ID, request.At = rand.Text(), time.Now().UTC()
	if err := (&backfillStore{client: client, pipeline: cfg.Pipeline}).request(cmd.Context(), table, request); err != nil {
		return redacted(cfg, err)
	}
	state, err := awaitAnswer(cmd.Context(), &backfillStore{client: client, pipeline: cfg.Pipeline}, table, request.ID)
	switch {
	case err != nil:
		return redacted(cfg, err)
	case state == nil:
		fmt.Fprintf(cmd.OutOrStdout(), "%s: requested; %s\n", table, idleDaemon(cmd.Context(), cfg))
	case state.State == capture.BackfillFailed && request.Action == "start":
		return fmt.Errorf("backfill of %s: %s", table, state.Error)
	default:
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", table, state.State)
	}
	return nil
}

// awaitAnswer returns the state that names the request; nil when none does in time.
func awaitAnswer(ctx context.Context, store *backfillStore, table, id string) (*capture.BackfillState, error) {
	for deadline := time.Now().Add(answerTimeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		records, err := store.Load(ctx)
		if err != nil {
			return nil, err
		}
		if s := records[table].State; s != nil && s.Request == id {
			return s, nil
		}
	}
	return nil, nil
}

// idleDaemon says why nobody answers.
func idleDaemon(ctx context.Context, cfg *config.Config) string {
	source, err := newSource(cfg, mappingOf(cfg), slog.New(slog.DiscardHandler), nil)
	if err == nil {
		if slot, e := source.Slot(ctx); e == nil && slot.ActivePID == 0 {
			return "no daemon streams now, the next one does it"
		}
	}
	return "the daemon has not answered yet, see `walrill backfill status`"
}

// backfillReport is a line of `backfill status`.
type backfillReport struct {
	Table string `json:"table"`
	event.Backfill
	Requested string  `json:"requested,omitempty"` // start or cancel, which the daemon has not seen yet
	Speed     float64 `json:"rows_per_second"`     // since it started
}

func newBackfillStatusCommand() *cobra.Command {
	var f sourceFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far backfills are",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			list, err := readBackfills(cmd.Context(), cfg)
			if err != nil {
				return redacted(cfg, err)
			}
			if !asJSON {
				return printBackfills(cmd.OutOrStdout(), list)
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(list)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func readBackfills(ctx context.Context, cfg *config.Config) ([]backfillReport, error) {
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // it only read
	records, err := (&backfillStore{client: client, pipeline: cfg.Pipeline}).Load(ctx)
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
	fmt.Fprintln(t, "TABLE\tSTATE\tROWS\tOF ABOUT\tROWS/S\tLEFT\t")
	for _, b := range list {
		state := b.State
		if b.Requested != "" {
			state = strings.TrimSpace(state + " (" + b.Requested + " requested)")
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%.0f\t%s\t%s\n", b.Table, state, b.Rows, percent(b), b.Speed, left(b), b.Error)
	}
	return t.Flush()
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
