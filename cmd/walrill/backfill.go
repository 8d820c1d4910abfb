package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
)

func newBackfillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backfill",
		Short: "Publish rows that exist already: start, status, cancel",
		Long: `Asks the daemon that streams to read tables and publish their rows as entries with op r, in order with
the changes that go on meanwhile. When no daemon streams, the next one does what was asked.`,
	}
	subcommands(cmd)
	cmd.AddCommand(newBackfillStartCommand(), newBackfillStatusCommand(), newBackfillCancelCommand())
	return cmd
}

func newBackfillStartCommand() *cobra.Command {
	var f sourceFlags
	var request event.BackfillRequest
	var wait bool
	cmd := &cobra.Command{
		Use:   "start TABLE",
		Short: "Read a table from its beginning and publish its rows",
		Args:  exactArgs(1, "a table, such as public.orders"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request.Rate < 0 {
				return usageError{errors.New("--rate must not be negative")}
			}
			request.Action = "start"
			return f.request(cmd, args[0], request, wait)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "follow the table to its end; 1 when it is not done then")
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
			return f.request(cmd, args[0], event.BackfillRequest{Action: "cancel"}, false)
		},
	}
	f.register(cmd)
	return cmd
}

// answerTimeout is how long a command waits for the daemon to take note.
const answerTimeout = 5 * time.Second

// request leaves a request for the daemon and waits a moment for its answer, or for the table's end.
func (f *sourceFlags) request(cmd *cobra.Command, table string, request event.BackfillRequest, wait bool) error {
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	if !strings.Contains(table, ".") {
		table = "public." + table
	}
	err = wantTableOf(cmd.Context(), cfg, table)
	if err == nil && request.Action == "start" { // what was asked of one that is gone by now may be cancelled
		err = wantExisting(cmd.Context(), cfg, table)
	}
	if err != nil {
		return err
	}
	store, err := openBackfillStore(cfg)
	if err != nil {
		return redacted(cfg, err)
	}
	defer store.client.Close() //nolint:errcheck // what it wrote was acknowledged
	request.ID, request.At = rand.Text(), time.Now().UTC()
	if err := store.request(cmd.Context(), table, request); err != nil {
		return redacted(cfg, err)
	}
	state, err := awaitAnswer(cmd.Context(), store, table, request)
	switch {
	case err != nil:
		return redacted(cfg, err)
	case state != nil && state.Request != request.ID:
		fmt.Fprintf(cmd.OutOrStdout(), "%s: requested; the whole table is being read, this comes after (%s, %d rows so far)\n", table, state.State, state.Rows)
	case state == nil:
		fmt.Fprintf(cmd.OutOrStdout(), "%s: requested; %s\n", table, idleDaemon(cmd.Context(), cfg))
	case state.State == capture.BackfillFailed && request.Action == "start":
		return fmt.Errorf("backfill of %s: %s", table, state.Error)
	case !wait:
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", table, state.State)
	}
	if !wait {
		return nil
	}
	return redacted(cfg, awaitBackfill(cmd, store, table, request.ID))
}

// awaitBackfill follows a table to the end of what was asked for.
func awaitBackfill(cmd *cobra.Command, store *backfillStore, table, id string) error {
	var now backfillReport
	err := followBackfills(cmd.Context(), store, newBackfillView(cmd.OutOrStdout()), func(all []backfillReport) ([]backfillReport, bool) {
		i := slices.IndexFunc(all, func(b backfillReport) bool { return b.Table == table })
		if i < 0 {
			now = backfillReport{Table: table, Backfill: event.Backfill{State: capture.BackfillFailed, Request: id, Error: "its record is gone from Redis"}}
			return nil, true
		}
		now = all[i]
		return all[i : i+1], !now.goesOn() || now.Requested == "" && now.Request != id
	})
	switch {
	case err != nil:
		return err
	case now.State == capture.BackfillCancelled && now.Requested == "":
		return fmt.Errorf("backfill of %s: cancelled", table)
	case now.Request != id && now.Requested == "":
		return fmt.Errorf("backfill of %s: another request took the place of this one; see `walrill backfill status`", table)
	case now.State == capture.BackfillDone:
		return nil
	case cmd.Context().Err() != nil:
		return fmt.Errorf("backfill of %s: not waited for any more; it goes on, see `walrill backfill status`", table)
	}
	return fmt.Errorf("backfill of %s: %s", table, now.Error)
}

// mapped reports whether a stream takes a table.
func mapped(cfg *config.Config, table string) bool {
	schema, name, _ := strings.Cut(table, ".")
	mapping := mapfile.Mapping(cfg)
	return name != "" && name != "*" && mapping.Takes(&change.Relation{Namespace: schema, Name: name})
}

// awaitAnswer returns the state that names the request, or the one that it has to wait for; nil when there is none in time.
func awaitAnswer(ctx context.Context, store *backfillStore, table string, r event.BackfillRequest) (*capture.BackfillState, error) {
	var answer *capture.BackfillState
	for deadline := time.Now().Add(answerTimeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		records, err := store.Load(ctx)
		if err != nil {
			return nil, err
		}
		if s := records[table].State; s != nil && (s.Request == r.ID || s.Precedes(capture.BackfillRequest(r))) {
			if answer = s; !trying(s) {
				break
			}
		}
	}
	return answer, nil
}

// trying reports whether it is still to be seen that Postgres takes the condition.
func trying(s *capture.BackfillState) bool {
	return s.Where != "" && (s.State == capture.BackfillWaiting || s.State == capture.BackfillRunning && s.Rows == 0)
}

// idleDaemon says why nobody answers.
func idleDaemon(ctx context.Context, cfg *config.Config) string {
	source, err := newSource(cfg, mapfile.Mapping(cfg), slog.New(slog.DiscardHandler), nil)
	if err == nil {
		if slot, e := source.Slot(ctx); errors.Is(e, capture.ErrNoSlot) || e == nil && slot.ActivePID == 0 {
			return "no daemon streams now, the next one does it"
		}
	}
	return "the daemon has not answered yet, see `walrill backfill status`"
}
