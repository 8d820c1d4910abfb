package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
)

type replayFlags struct {
	until, schema string
	json          bool
}

func newReplayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay [VIEW]",
		Short: "Build views as they were at a moment, in a schema of their own",
		Long: `Reads the streams from their beginning up to a moment and builds the views, or one of them, as they were then: whole transactions only. The tables
come into a schema of the view store that is made for them; the views that are kept, and the daemon, are not touched.

The moment is an LSN, such as pg_current_wal_lsn() gave it after a commit: everything that committed below it is in. Or it is a time: then everything
is in up to the first transaction that committed later. The streams must go back to their beginning, and a table's rows are
complete in them from the end of its first backfill on; what is earlier is refused. A fold needs its streams' beginning only.
Documents of a table are built as a table of their rows; for documents of a view, build that view. When all views are asked for, those that
cannot be built are left out, and the reason is printed.`,
		Example: `  walrill replay --until 0/16B3748 --schema then
  walrill replay order_summary --until 2026-05-01T12:00:00Z --schema may`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s takes one view, or none for all; see `%[1]s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, strings.Join(args, "")) },
	}
	cmd.Flags().StringVar(&f.until, "until", "", "the moment: an LSN, such as 0/16B3748, or a time, such as 2026-05-01T12:00:00Z")
	cmd.Flags().StringVar(&f.schema, "schema", "", "schema for the tables; it must not be there yet")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *replayFlags) run(cmd *cobra.Command, view string) error {
	if f.until == "" || f.schema == "" {
		return usageError{errors.New("--until and --schema are needed: the moment, and a new schema for the tables, such as --until 0/16B3748 --schema then")}
	}
	if len(f.schema) > maxReplaySchema || strings.HasPrefix(f.schema, "pg_") || strings.HasPrefix(f.schema, "walrill") {
		return usageError{fmt.Errorf("--schema %s: want up to %d bytes, and neither pg_ nor walrill in front", f.schema, maxReplaySchema)}
	}
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	if view == "" {
		err = wantViews(cfg)
	} else {
		err = wantViewOf(cfg, view)
	}
	if err != nil {
		return err
	}
	if cfg.Views.Store.IsZero() {
		return usageError{errors.New("replay builds tables, and the configuration has no Postgres for them, as all its views are documents; write `store: ${DATABASE_URL}` under `views`")}
	}
	var ofTables []projector.View
	for _, v := range documentsOf(cfg) {
		switch {
		case v.From == "":
			table := v.Table
			table.Name, table.Where = v.Name, v.Where
			ofTables = append(ofTables, table)
		case v.Name == view:
			return fmt.Errorf("replay: view %s is the rows of view %s as documents; build that one: walrill replay %[2]s --until '%s' --schema %s", view, v.From, f.until, f.schema)
		}
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return redacted(cfg, err)
	}
	defer client.Close() //nolint:errcheck // it only read
	o := projector.ReplayOptions{Options: projectorOptions(cfg, client, slog.New(slog.DiscardHandler)), View: view, Into: f.schema}
	o.Views = append(o.Views, ofTables...)
	if err := f.moment(cmd.Context(), client, cfg, &o); err != nil {
		return redacted(cfg, err)
	}
	bar := &replayBar{}
	if isTerminal(cmd.ErrOrStderr()) {
		bar.bars = mpb.New(mpb.WithOutput(cmd.ErrOrStderr()))
	}
	o.Progress = bar.show
	result, err := projector.Replay(cmd.Context(), o)
	bar.end()
	if err != nil {
		return redacted(cfg, fmt.Errorf("replay: %w", err))
	}
	_, lsn := event.SplitClock(result.Position)
	out := cmd.OutOrStdout()
	if f.json {
		answer := map[string]any{"schema": f.schema, "position_lsn": change.LSN(lsn).String(), "events": result.Events, "rows": result.Rows}
		if len(result.Refused) > 0 {
			answer["set_aside"] = result.Refused
		}
		if len(result.LeftOut) > 0 {
			answer["not_built"] = result.LeftOut
		}
		return json.NewEncoder(out).Encode(answer)
	}
	for _, name := range slices.Sorted(maps.Keys(result.Rows)) {
		aside := ""
		if n := result.Refused[name]; n > 0 {
			aside = fmt.Sprintf(", %d keys set aside, because an event was refused", n)
		}
		fmt.Fprintf(out, "%s.%s: %d rows%s\n", f.schema, name, result.Rows[name], aside)
	}
	for _, name := range slices.Sorted(maps.Keys(result.LeftOut)) {
		fmt.Fprintf(out, "%s: not built: %s\n", name, result.LeftOut[name])
	}
	fmt.Fprintf(out, "as of %s, from %d events; DROP SCHEMA %s CASCADE removes it\n", change.LSN(lsn), result.Events, quoteName(f.schema))
	return nil
}

// maxReplaySchema leaves room for the names that are made of it.
const maxReplaySchema = 40

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// moment reads --until. A time must be one that the streams have come to.
func (f *replayFlags) moment(ctx context.Context, client redis.UniversalClient, cfg *config.Config, o *projector.ReplayOptions) error {
	watermark, at, err := consumer.Watermark(ctx, client, cfg.Pipeline)
	if err != nil {
		return err
	}
	epoch, _ := event.SplitClock(watermark)
	if strings.Contains(f.until, "/") {
		if o.Until, err = clockOf(f.until, epoch); err != nil || o.Until == 0 {
			return usageError{fmt.Errorf("--until %s: want an LSN, such as 0/16B3748, or a time", f.until)}
		}
		return nil
	}
	if o.Time, err = parseTime(f.until); err != nil {
		return usageError{fmt.Errorf("--until %s: want an LSN, such as 0/16B3748, or a time with its zone, such as 2026-05-01T12:00:00Z", f.until)}
	}
	if o.Time.After(at) {
		return fmt.Errorf("replay: the streams are complete up to %s, and not yet up to %s", at.Format(time.RFC3339Nano), f.until)
	}
	return nil
}

// untrimmed fails when a partition does not have its first entry any more.
func untrimmed(ctx context.Context, client redis.UniversalClient, cfg *config.Config, streams []string) error {
	meta, err := readMeta(ctx, client, cfg.Pipeline)
	if err != nil {
		return err
	}
	for _, name := range streams {
		for _, key := range event.NewStream(name, meta.Streams[name]).Keys {
			n, err := client.Exists(ctx, key).Result()
			if err != nil {
				return fmt.Errorf("look at stream %s: %w", key, err)
			}
			if n == 0 {
				continue // it has never had one, or it is gone, and then an event behind says so
			}
			info, err := client.XInfoStream(ctx, key).Result()
			if err != nil {
				return fmt.Errorf("look at stream %s: %w", key, err)
			}
			if seq, ok := event.ParseSeq(info.FirstEntry.Values); info.LastGeneratedID != "0-0" && (info.Length == 0 || ok && seq != 1) {
				return &projector.MissingError{Err: fmt.Errorf("the first entries of %s have been trimmed; it begins at %s", key, firstOf(info))}
			}
		}
	}
	return nil
}

func firstOf(info *redis.XInfoStream) string {
	if pos, err := event.ParseID(info.FirstEntry.ID); err == nil && info.Length > 0 {
		return pos.LSN()
	}
	return "nothing: it is empty"
}

// replayBar shows how much of the WAL up to the moment is read.
type replayBar struct {
	bars  *mpb.Progress
	bar   *mpb.Bar
	first uint64
}

func (b *replayBar) show(_ int64, at, until uint64) {
	if b.bars == nil {
		return
	}
	if b.bar == nil {
		b.first = at
		b.bar = b.bars.AddBar(0, mpb.BarWidth(32), mpb.PrependDecorators(decor.Name("replay", decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Percentage(), decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	}
	b.bar.SetTotal(int64(until-b.first), false)
	b.bar.SetCurrent(int64(at - b.first))
}

func (b *replayBar) end() {
	if b.bars == nil {
		return
	}
	if b.bar != nil {
		b.bar.Abort(false)
	}
	b.bars.Wait()
}

// parseTime reads RFC 3339, or as psql prints a timestamptz: 2026-05-01 12:00:00.25+00.
func parseTime(text string) (t time.Time, err error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05Z07", "2006-01-02 15:04:05Z07:00"} {
		if t, err = time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, err
}
