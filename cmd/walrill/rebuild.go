package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/projector"
)

func newRebuildCommand() *cobra.Command {
	var rollback bool
	cmd := &cobra.Command{
		Use:   "rebuild VIEW",
		Short: "Compute a view anew beside the old one, and take over what differs",
		Long: `Asks the daemon that keeps the views to compute one anew: a query from its mirrors, a mirror by a backfill. What differs comes into the
view's table in one transaction: readers see the view as it was until then. A view whose definition changes in the configuration is rebuilt without being asked.`,
		Args: exactArgs(1, "a view"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			if err := wantView(cmd.Context(), cfg, args[0]); err != nil {
				return err
			}
			action := projector.Rebuild
			if rollback {
				action = projector.Rollback
			}
			return redacted(cfg, rebuild(cmd, cfg, args[0], action))
		},
	}
	cmd.Flags().BoolVar(&rollback, "rollback", false, "go back to the definition that the view had before, until the configuration changes")
	return cmd
}

// rebuild leaves a request in the view store and waits for its answer, if anybody is there to give one.
func rebuild(cmd *cobra.Command, cfg *config.Config, view, action string) error {
	ctx, w := cmd.Context(), cmd.OutOrStdout()
	streams, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return err
	}
	defer streams.Close() //nolint:errcheck // it only read
	bar := newRebuildBar(cmd.ErrOrStderr(), cfg, streams, view)
	ok, err := withDocuments(ctx, cfg, view, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) error {
		if action == projector.Rollback {
			return fmt.Errorf("rollback of view %s: documents have one definition, in the configuration: change it there", view)
		}
		request, err := projector.AskDocuments(ctx, client, cfg.Pipeline, v)
		if err != nil {
			return err
		}
		return follow(ctx, w, bar, view, action, request.Answer)
	})
	if ok {
		return err
	}
	conn, err := projector.Connect(ctx, cfg.Views.Store.Reveal())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it wrote is committed
	request, err := projector.Ask(ctx, conn, cfg.Pipeline, view, action)
	if err != nil {
		return err
	}
	return follow(ctx, w, bar, view, action, request.Answer)
}

// follow waits for an answer, as long as somebody is there to give one.
func follow(ctx context.Context, w io.Writer, bar *rebuildBar, view, action string, ask func(context.Context) (projector.Answer, error)) error {
	answer, err := awaitRebuild(ctx, bar, ask)
	bar.end()
	switch {
	case err != nil:
		return err
	case answer.Failed != "":
		return fmt.Errorf("%s of view %s: %s", action, view, answer.Failed)
	case answer.Done:
		fmt.Fprintf(w, "%s: %s\n", view, answer.Text)
	default:
		fmt.Fprintf(w, "%s: requested; no daemon keeps the views now, the next one does it\n", view)
	}
	return nil
}

// keeperPause is how long nobody may keep the views before it is believed: a daemon that begins anew is back within that.
const keeperPause = 3 * time.Second

// awaitRebuild returns the answer when there is one, or when nobody is there to give one.
func awaitRebuild(ctx context.Context, bar *rebuildBar, ask func(context.Context) (projector.Answer, error)) (projector.Answer, error) {
	for kept := time.Now(); ; {
		answer, err := ask(ctx)
		if answer.Kept {
			kept = time.Now()
		}
		if err != nil || answer.Failed != "" || answer.Done || time.Since(kept) > keeperPause {
			return answer, err
		}
		bar.show(ctx)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return answer, ctx.Err()
		}
	}
}
