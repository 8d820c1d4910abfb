package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/projector"
)

// inStore runs f with a session of the view store.
func inStore(cmd *cobra.Command, f func(context.Context, *config.Config, *pgx.Conn) error) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 4*askTimeout)
	defer cancel()
	conn, err := projector.Connect(ctx, cfg.Views.Store.Reveal())
	if err != nil {
		return redacted(cfg, err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	return redacted(cfg, f(ctx, cfg, conn))
}

// parkedInViews are the keys that views have set aside, of one view when it is not "".
func parkedInViews(cmd *cobra.Command, view string) (list []projector.Parked, err error) {
	cfg, err := load(cmd)
	if err != nil {
		return nil, err
	}
	if view != "" {
		if err := wantView(cmd.Context(), cfg, view); err != nil {
			return nil, err
		}
	}
	documents, err := parkedDocuments(cmd.Context(), cfg, view)
	if err != nil || cfg.Views.Store.IsZero() {
		return documents, err
	}
	err = inStore(cmd, func(ctx context.Context, cfg *config.Config, conn *pgx.Conn) (err error) {
		list, err = projector.ListParked(ctx, conn, cfg.Pipeline, view)
		return err
	})
	return append(list, documents...), err
}

func printParked(w io.Writer, list []projector.Parked) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VIEW\tKEY\tSINCE\tERROR")
	for _, p := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.View, p.Name(), p.At.UTC().Format(time.RFC3339), p.Error)
	}
	return t.Flush()
}

// showParkedKey prints all that is known of a key that a view has set aside.
func showParkedKey(cmd *cobra.Command, view, key string) error {
	list, err := parkedInViews(cmd, view)
	if err != nil {
		return err
	}
	for _, p := range list {
		if string(p.Key) == key {
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			return encoder.Encode(p)
		}
	}
	return fmt.Errorf("view %s has no key %s set aside; `walrill parked list` shows them", view, key)
}

// settleParkedRows retries or drops a key of a view, or all of them when it is nil.
func settleParkedRows(cmd *cobra.Command, action, view string, key *string) error {
	text := ""
	if key != nil {
		if text = *key; !json.Valid([]byte(text)) {
			return usageError{fmt.Errorf(`the key %s is not JSON; want it as the list shows it, such as '{"order_id": 7}'`, text)}
		}
	}
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	if err := wantView(cmd.Context(), cfg, view); err != nil {
		return err
	}
	report := func(n int64, done string, err error) error {
		if err == nil && n == 0 && key != nil {
			err = fmt.Errorf("view %s has no such key set aside; `walrill parked list` shows them", view)
		}
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: keys %s: %d\n", view, done, n)
		}
		return err
	}
	if ok, err := withDocuments(cmd.Context(), cfg, view, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) error {
		change, done := projector.RetryParkedDocuments, "written"
		if action == "drop" {
			change, done = projector.DropParkedDocuments, "forgotten"
		}
		n, err := change(ctx, client, cfg.Pipeline, v, text)
		return report(n, done, err)
	}); ok {
		return err
	}
	change, done := projector.RetryParked, "to be tried again"
	if action == "drop" {
		change, done = projector.DropParked, "dropped"
	}
	return inStore(cmd, func(ctx context.Context, cfg *config.Config, conn *pgx.Conn) error {
		n, err := change(ctx, conn, cfg.Pipeline, view, text)
		return report(n, done, err)
	})
}
