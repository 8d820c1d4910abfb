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
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/projector"
)

type verifyFlags struct {
	repair, json bool
	chunk        int
	patience     time.Duration
}

func newVerifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify [VIEW]",
		Short: "Compare views with the source, while both change",
		Long: `Compares the mirrors and the views with the source, row by row, and says which keys differ and how. A mirror is compared with its table, a query
with what the same SQL gives on the source, a fold with what the events of its streams give, folded again from the first, and documents in Redis
with the rows of their table or view. All may change meanwhile: what differs is looked at again until it is certain. What kept changing is said to be so; it never counts as equal.

It reads every row on both sides, in ranges, and writes nothing but markers to the source's WAL. --repair has rows of a mirror that differ read again
by a backfill of these keys, rows of a query computed anew, a fold folded anew, and documents written again; a daemon must be running for it.

Ends with 3 when something differs, is set aside or could not be judged; with --repair, when that is so at the end. A fold with start: now can never
be judged: that is said, and counts only when the fold is named.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s takes one view, or none for all; see `%[1]s --help`", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			view := ""
			if len(args) == 1 {
				view = args[0]
			}
			return f.run(cmd, view)
		},
	}
	cmd.Flags().BoolVar(&f.repair, "repair", false, "mend what differs")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	cmd.Flags().IntVar(&f.chunk, "chunk", 10000, "rows that are read at once")
	cmd.Flags().DurationVar(&f.patience, "patience", 30*time.Second, "how long keys that differ are looked at again, and how far a view may be behind")
	return cmd
}

func (f *verifyFlags) run(cmd *cobra.Command, view string) error {
	if f.chunk < 1 || f.patience <= 0 {
		return usageError{errors.New("--chunk and --patience must be above 0")}
	}
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	if view == "" {
		err = wantViews(cfg)
	} else {
		err = wantView(cmd.Context(), cfg, view)
	}
	if err != nil {
		return err
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return redacted(cfg, err)
	}
	defer client.Close() //nolint:errcheck // what it wrote was acknowledged
	documents, err := documentClient(cfg)
	if err != nil {
		return redacted(cfg, err)
	}
	defer documents.Close() //nolint:errcheck // what it wrote was acknowledged
	bars := &verifyBars{}
	if isTerminal(cmd.ErrOrStderr()) {
		bars.bars = mpb.New(mpb.WithOutput(cmd.ErrOrStderr()))
	}
	o := verifyOptions(cfg, client, documents, slog.New(slog.DiscardHandler))
	o.View, o.Repair, o.ChunkRows, o.Patience, o.Progress = view, f.repair, f.chunk, f.patience, bars.show
	list, err := verifyGroups(cmd.Context(), cfg, o)
	bars.end()
	if err != nil && len(list) == 0 {
		return redacted(cfg, err)
	}
	if f.json {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if e := encoder.Encode(list); e != nil {
			return e
		}
	} else if e := printComparisons(cmd.OutOrStdout(), list, f.repair); e != nil {
		return e
	}
	if err != nil {
		return redacted(cfg, err)
	}
	for _, c := range list {
		if len(c.Parked)+len(c.Unjudged) > 0 || c.Found > c.Repaired || c.NotJudged != "" && !(c.ByDesign && view == "") {
			return foundError{errors.New("verify: the views are not what they should be, or not all of them could be judged")}
		}
	}
	return nil
}

// verifyOptions are those of a configuration, for all views and without a look at progress.
func verifyOptions(cfg *config.Config, client, documents redis.UniversalClient, log *slog.Logger) projector.VerifyOptions {
	store := &backfillStore{client: client, pipeline: cfg.Pipeline}
	return projector.VerifyOptions{
		Options: projectorOptions(cfg, client, log), SourceURL: cfg.Source.URL.Reveal(), Publication: cfg.Source.Publication, Hidden: cfg.Hides,
		Documents: documentsOf(cfg), Redis: documents, ChunkRows: 10000, Patience: 30 * time.Second, Progress: func(string, int64, int64) {},
		Refresh: func(ctx context.Context, table, where string) error { return refreshRows(ctx, store, table, where) },
	}
}

// verifyGroups compares the views that are kept in whole transactions, those that are kept key by key, and the documents.
func verifyGroups(ctx context.Context, cfg *config.Config, o projector.VerifyOptions) (list []*projector.Comparison, err error) {
	documents := o.Documents
	o.Documents = nil
	var parts []projector.VerifyOptions
	for _, g := range groupOptions(cfg, nil, o.Log) {
		if o.View == "" || slices.ContainsFunc(g.Views, func(v projector.View) bool { return v.Name == o.View }) {
			part := o
			part.Pipeline, part.Views = g.Pipeline, g.Views
			parts = append(parts, part)
		}
	}
	for _, d := range documents {
		if o.View == "" || o.View == d.Name {
			part := o
			part.View, part.Documents = d.Name, []projector.DocumentView{d}
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		parts = append(parts, o) // a view that the store has, and not the configuration
	}
	for _, part := range parts {
		some, err := projector.Verify(ctx, part)
		list = append(list, some...)
		if err != nil {
			return list, err
		}
	}
	return list, nil
}

// refreshRows has a backfill read some rows again, and returns when they are published.
func refreshRows(ctx context.Context, store *backfillStore, table, where string) error {
	request := event.BackfillRequest{ID: rand.Text(), Action: "start", Where: where, At: time.Now().UTC()}
	if err := store.request(ctx, table, request); err != nil {
		return err
	}
	for {
		records, err := store.Load(ctx)
		if err != nil {
			return err
		}
		record := records[table]
		switch s := record.State; {
		case s != nil && s.Request == request.ID && s.State == capture.BackfillDone:
			return nil
		case s != nil && s.Request == request.ID && (s.State == capture.BackfillFailed || s.State == capture.BackfillCancelled):
			return fmt.Errorf("backfill of %s: %s %s", table, s.State, s.Error)
		case record.Request == nil || record.Request.ID != request.ID:
			return fmt.Errorf("backfill of %s: another request took the place of this one; see `walrill backfill status`", table)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("backfill of %s is asked for, and was not waited for: %w", table, ctx.Err())
		}
	}
}

// printComparisons writes what was found, a line each column that differs, and a line each view.
func printComparisons(w io.Writer, list []*projector.Comparison, repair bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	header := false
	row := func(view, key, what, column, inView, inSource string) {
		if !header {
			fmt.Fprintln(t, "VIEW\tKEY\tWHAT\tCOLUMN\tIN THE VIEW\tSHOULD BE")
			header = true
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", view, key, what, column, inView, inSource)
	}
	for _, c := range list {
		for _, d := range c.Differences {
			if len(d.Columns) == 0 {
				row(c.View, string(d.Key), d.Kind, "", "", "")
			}
			for _, v := range d.Columns {
				if v.Hidden {
					row(c.View, string(d.Key), d.Kind, v.Column, "(hidden)", "(hidden)")
					continue
				}
				row(c.View, string(d.Key), d.Kind, v.Column, shown(v.View), shown(v.Source))
			}
		}
		for _, p := range c.Parked {
			row(c.View, p.Name(), "set aside", "", p.Error, "")
		}
		for _, u := range c.Unjudged {
			row(c.View, string(u.Key), "not judged", "", u.Why, "")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range list {
		name := c.View
		if len(c.For) > 0 {
			name = "mirror of " + c.Table
		}
		if c.NotJudged != "" {
			fmt.Fprintf(w, "%s: could not be judged: %s\n", name, c.NotJudged)
			continue
		}
		fmt.Fprintf(w, "%s: %d rows compared, %d differ", name, c.Rows, c.Found)
		if n := len(c.Parked); n > 0 {
			fmt.Fprintf(w, ", %d set aside", n)
		}
		if n := len(c.Unjudged); n > 0 {
			fmt.Fprintf(w, ", %d could not be judged", n)
		}
		if n := c.Found - len(c.Differences); n > 0 {
			fmt.Fprintf(w, "; %d of them are not listed", n)
		}
		if repair && c.Found > 0 {
			fmt.Fprintf(w, "; %d repaired", c.Repaired)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// maxShown is how many characters of a value are printed.
const maxShown = 60

func shown(value *string) string {
	if value == nil {
		return "NULL"
	}
	text := []rune(*value)
	if len(text) > maxShown {
		return fmt.Sprintf("%q…", string(text[:maxShown]))
	}
	return fmt.Sprintf("%q", *value)
}

// verifyBars draws a bar for each mirror and view on a terminal.
type verifyBars struct {
	bars *mpb.Progress
	name string
	bar  *mpb.Bar
}

func (v *verifyBars) show(name string, done, total int64) {
	if v.bars == nil {
		return
	}
	if v.name != name || v.bar == nil {
		v.name, v.bar = name, v.bars.AddBar(0, mpb.BarWidth(32), mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersNoUnit("%d of about %d")))
	}
	v.bar.SetTotal(total, done == total)
	v.bar.SetCurrent(done)
}

func (v *verifyBars) end() {
	if v.bars == nil {
		return
	}
	if v.bar != nil {
		v.bar.Abort(false) // one that is at its end stays as it is
	}
	v.bars.Wait()
}
