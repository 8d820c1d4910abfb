package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/projector"
)

func newParkedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "parked",
		Short: "Show and settle what views have set aside",
		Long: `A row that a view's SQL or types refuse sets its key aside: the key keeps its last state, and everything else goes on.
It is tried again with the key's next change, or with retry.`,
		Args: exactArgs(0, "a subcommand: list, show, retry or drop"),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newParkedListCommand(), newParkedShowCommand(),
		newParkedChangeCommand("retry", "Try keys of a view again", "to be tried again", projector.RetryParked),
		newParkedChangeCommand("drop", "Forget keys of a view: their rows stay as they are until they change", "forgotten", projector.DropParked))
	return cmd
}

// inStore runs f with a session of the view store.
func inStore(cmd *cobra.Command, f func(context.Context, *config.Config, *pgx.Conn) error) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	if err := wantViews(cfg); err != nil {
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

func newParkedListCommand() *cobra.Command {
	var view string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys that are set aside",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return inStore(cmd, func(ctx context.Context, cfg *config.Config, conn *pgx.Conn) error {
				list, err := projector.ListParked(ctx, conn, cfg.Pipeline, view)
				if err != nil {
					return err
				}
				if asJSON {
					encoder := json.NewEncoder(cmd.OutOrStdout())
					encoder.SetIndent("", "  ")
					return encoder.Encode(list)
				}
				return printParked(cmd.OutOrStdout(), list)
			})
		},
	}
	cmd.Flags().StringVar(&view, "view", "", "of this view only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printParked(w io.Writer, list []projector.Parked) error {
	if len(list) == 0 {
		fmt.Fprintln(w, "nothing is set aside")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VIEW\tKEY\tSINCE\tERROR")
	for _, p := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.View, p.Key, p.At.UTC().Format(time.RFC3339), p.Error)
	}
	return t.Flush()
}

func newParkedShowCommand() *cobra.Command {
	var view string
	cmd := &cobra.Command{
		Use:   "show --view VIEW KEY",
		Short: "Show all that is known of a key that is set aside",
		Args:  exactArgs(1, `a key as the list shows it, such as '{"order_id": 7}'`),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inStore(cmd, func(ctx context.Context, cfg *config.Config, conn *pgx.Conn) error {
				list, err := projector.ListParked(ctx, conn, cfg.Pipeline, view)
				if err != nil {
					return err
				}
				for _, p := range list {
					if string(p.Key) == args[0] {
						encoder := json.NewEncoder(cmd.OutOrStdout())
						encoder.SetIndent("", "  ")
						return encoder.Encode(p)
					}
				}
				return fmt.Errorf("view %s has no key %s set aside; `walrill parked list` shows them", view, args[0])
			})
		},
	}
	cmd.Flags().StringVar(&view, "view", "", "the view")
	return cmd
}

func newParkedChangeCommand(verb, short, done string, change func(context.Context, *pgx.Conn, string, string, string) (int64, error)) *cobra.Command {
	var view string
	var all bool
	cmd := &cobra.Command{
		Use:   verb + " --view VIEW KEY",
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if view == "" || all != (len(args) == 0) || len(args) > 1 {
				return usageError{errors.New(`want --view VIEW and a key as the list shows it, such as '{"order_id": 7}', or --all`)}
			}
			key := ""
			if !all {
				key = args[0]
				if !json.Valid([]byte(key)) {
					return usageError{fmt.Errorf(`the key %s is not JSON; want it as the list shows it, such as '{"order_id": 7}'`, key)}
				}
			}
			return inStore(cmd, func(ctx context.Context, cfg *config.Config, conn *pgx.Conn) error {
				n, err := change(ctx, conn, cfg.Pipeline, view, key)
				if err == nil && n == 0 {
					err = fmt.Errorf("view %s has no such key set aside; `walrill parked list` shows them", view)
				}
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: keys %s: %d\n", view, done, n)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&view, "view", "", "the view")
	cmd.Flags().BoolVar(&all, "all", false, "all keys of the view")
	return cmd
}
