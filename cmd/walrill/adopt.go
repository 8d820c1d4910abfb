package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

func newAdoptCommand() *cobra.Command {
	var f sourceFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Accept a new history: another Postgres, a slot made anew, or a Redis that lost entries",
		Long: `Raises the pipeline's epoch, so that its next entries come after all that were ever published,
and records the Postgres that source.url leads to. The daemon must be stopped.
Run it after the daemon has stopped with an error that names it; changes that are missing stay missing.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			return redacted(cfg, adopt(cmd.Context(), cmd, cfg, yes))
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it; without this, adopt only says what it would do")
	return cmd
}

func adopt(ctx context.Context, cmd *cobra.Command, cfg *config.Config, yes bool) error {
	source, err := newSource(cfg, mappingOf(cfg), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	info, err := source.Prepare(ctx)
	if err != nil {
		return err
	}
	if slot, err := source.Slot(ctx); err != nil {
		return err
	} else if slot.ActivePID != 0 {
		return fmt.Errorf("adopt: a daemon streams from slot %s (process %d of Postgres): stop it first", cfg.Source.Slot, slot.ActivePID)
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // what it wrote was acknowledged
	meta, err := readMeta(ctx, client, cfg.Pipeline)
	if err != nil {
		return err
	}
	watermark, _, err := consumer.Watermark(ctx, client, cfg.Pipeline)
	if err != nil {
		return err
	}
	top, _ := event.SplitClock(watermark)
	if meta.Epoch = max(meta.Epoch, top); meta.Epoch == math.MaxUint8 {
		return errors.New("adopt: the epochs are used up; use a new pipeline name")
	}
	meta.Epoch++
	meta.System, meta.Timeline, meta.HTTP = info.SystemID, info.Timeline, ""
	fmt.Fprintf(cmd.OutOrStdout(), "pipeline %s: epoch %d, Postgres system %s, timeline %d, starting at %s\n",
		cfg.Pipeline, meta.Epoch, meta.System, meta.Timeline, info.Confirmed)
	if !yes {
		return usageError{errors.New("nothing was changed; `walrill adopt --yes` does it")}
	}
	if err := client.HSet(ctx, event.MetaKey(cfg.Pipeline), meta.Fields()).Err(); err != nil {
		return fmt.Errorf("write %s: %w", event.MetaKey(cfg.Pipeline), err)
	}
	return nil
}
