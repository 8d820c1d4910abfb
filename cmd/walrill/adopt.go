package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/projector"
)

func newAdoptCommand() *cobra.Command {
	var f sourceFlags
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Accept a new history: another Postgres, a slot made anew, or a Redis that lost entries",
		Long: `Raises the pipeline's epoch, so that its next entries come after all that were ever published,
and records the Postgres that source.url leads to; makes the slot anew when it is gone. The daemon must be stopped.
Run it after the daemon has stopped with an error that names it; changes that are missing stay missing.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			text, err := adopt(cmd.Context(), cfg)
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			return redacted(cfg, err)
		},
	}
	f.register(cmd)
	return cmd
}

// adopt returns what it has done, for people.
func adopt(ctx context.Context, cfg *config.Config) (string, error) {
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return "", err
	}
	defer client.Close() //nolint:errcheck // what it wrote was acknowledged
	meta, err := readMeta(ctx, client, cfg.Pipeline)
	if err != nil {
		return "", err
	}
	watermark, _, err := consumer.Watermark(ctx, client, cfg.Pipeline)
	if err != nil {
		return "", err
	}
	top, lsn := event.SplitClock(watermark)
	if meta.Epoch = max(meta.Epoch, top); meta.Epoch == math.MaxUint8 {
		return "", errors.New("adopt: the epochs are used up; use a new pipeline name")
	}
	meta.Epoch++
	info, err := adoptSource(ctx, cfg, meta, change.LSN(lsn))
	if err != nil {
		return "", err
	}
	meta.System, meta.Timeline, meta.HTTP, meta.Dropped, meta.RepairFrom = info.SystemID, info.Timeline, "", "", 0
	if err := tellViews(ctx, cfg, meta.Epoch); err != nil {
		return "", fmt.Errorf("adopt: %w\n  fix: start that server and adopt again; or adopt with a configuration without `views`, and waits may answer for the history before until something of the new one has come", err)
	}
	if err := client.HSet(ctx, event.MetaKey(cfg.Pipeline), meta.Fields()).Err(); err != nil {
		return "", fmt.Errorf("write %s: %w", event.MetaKey(cfg.Pipeline), err)
	}
	return fmt.Sprintf("pipeline %s: epoch %d, Postgres system %s, timeline %d, starting at %s\n"+
		"Next: walrill run; then, for each table whose rows readers need again: walrill backfill start TABLE",
		cfg.Pipeline, meta.Epoch, meta.System, meta.Timeline, info.Confirmed), nil
}

// adoptSource prepares Postgres, unless a daemon is at work. On a standby that was promoted, the slot
// goes on where its history and the streams part, so that what they have in common is not published twice.
func adoptSource(ctx context.Context, cfg *config.Config, meta event.Meta, top change.LSN) (capture.Info, error) {
	source, err := newSource(cfg, mapfile.Mapping(cfg), slog.New(slog.DiscardHandler), func(o *capture.Options) { o.Adopt = true })
	if err != nil {
		return capture.Info{}, err
	}
	if err := awaitFree(ctx, source, cfg.Source.Slot); err != nil {
		return capture.Info{}, fmt.Errorf("adopt: %w", err)
	}
	info, err := source.Prepare(ctx, capture.Known{}) // any system will do
	if err != nil {
		return info, err
	}
	left := info.History[meta.Timeline]
	if shared := min(left, top); meta.System == info.SystemID && info.Confirmed < shared {
		info.Confirmed, err = source.Advance(ctx, shared)
	}
	return info, err
}

// tellViews has waits for views answer for the new history only when there is something of it, from now on.
func tellViews(ctx context.Context, cfg *config.Config, epoch uint8) error {
	for _, o := range groupOptions(cfg, nil, slog.New(slog.DiscardHandler)) {
		if err := projector.TellEpoch(ctx, o.StoreURL, o.Pipeline, epoch); err != nil {
			return err
		}
	}
	for _, v := range documentsOf(cfg) {
		_, err := withDocuments(ctx, cfg, v.Name, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) error {
			return projector.TellDocuments(ctx, client, cfg.Pipeline, v, epoch)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// busyError says that a daemon is at work.
type busyError struct{ slot, holder string }

func (e *busyError) Error() string {
	return fmt.Sprintf("a daemon streams from slot %s (%s): stop it first, with SIGTERM", e.slot, e.holder)
}

// freeTimeout is how long Postgres may take to notice that a daemon has ended.
const freeTimeout = 3 * time.Second

// awaitFree returns when nobody streams from the slot, or there is none. The
// daemon whose error led here may have ended a moment ago.
func awaitFree(ctx context.Context, source *capture.Source, name string) error {
	deadline := time.Now().Add(freeTimeout)
	for {
		slot, err := source.Slot(ctx)
		switch {
		case errors.Is(err, capture.ErrNoSlot):
			return nil
		case err != nil:
			return err
		case slot.ActivePID == 0:
			return nil
		case time.Now().After(deadline):
			return &busyError{slot: name, holder: source.Holder(ctx, slot.ActivePID)}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
