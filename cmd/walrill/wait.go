package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/projector"
)

type waitFlags struct {
	lsn     string
	timeout time.Duration
	json    bool
}

func newWaitCommand() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "wait VIEW",
		Short: "Wait until a view has what was committed up to an LSN",
		Long: `Waits until every commit up to an LSN is in the view, and prints the view's position. The LSN of your own write
is what pg_current_wal_lsn() says after its commit. Ends with 1 when that takes longer than --timeout.`,
		Example: `  walrill wait order_summary --lsn "$(psql -Atc 'SELECT pg_current_wal_lsn()')"`,
		Args:    exactArgs(1, "a view"),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&f.lsn, "lsn", "", "position in the WAL, such as 0/16B3748")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *waitFlags) run(cmd *cobra.Command, view string) error {
	if f.lsn == "" {
		return usageError{errors.New("--lsn is missing: give the LSN to wait for, such as 0/16B3748")}
	}
	lsn, err := change.ParseLSN(f.lsn)
	if err != nil {
		return usageError{fmt.Errorf("--lsn: %w", err)}
	}
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout+askTimeout)
	defer cancel()
	if err := wantView(ctx, cfg, view); err != nil {
		return err
	}
	var reached uint64
	ok, err := withDocuments(ctx, cfg, view, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) (err error) {
		reached, err = projector.WaitForDocuments(ctx, client, cfg.Pipeline, v, uint64(lsn), f.timeout)
		return err
	})
	if !ok {
		reached, err = waitInStore(ctx, cfg, view, uint64(lsn), f.timeout)
	}
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"view": view, "position": change.LSN(reached).String()})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is at %s\n", view, change.LSN(reached))
	return nil
}

func waitInStore(ctx context.Context, cfg *config.Config, view string, lsn uint64, timeout time.Duration) (uint64, error) {
	conn, err := projector.Connect(ctx, cfg.Views.Store.Reveal())
	if err != nil {
		return 0, redacted(cfg, err)
	}
	defer conn.Close(ctx) //nolint:errcheck // it only read
	reached, err := projector.WaitFor(ctx, conn, view, lsn, timeout)
	return reached, redacted(cfg, err)
}

func wantViews(cfg *config.Config) error {
	if len(cfg.Views.List) == 0 {
		return usageError{errors.New("the configuration has no `views`")}
	}
	return nil
}
