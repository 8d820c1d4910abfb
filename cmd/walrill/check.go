package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/bridge"
	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/sink"
	"github.com/walrill/walrill/transform"
)

// checkTimeout bounds the whole of a check.
const checkTimeout = time.Minute

// finding is a line of `walrill check`: Fix is what mends it, to be pasted into psql or a shell, or an edit of the file.
type finding struct {
	Level   string `json:"level"` // ok, warning or error
	Subject string `json:"subject"`
	Finding string `json:"finding"`
	Fix     string `json:"fix,omitempty"`
}

func newCheckCommand() *cobra.Command {
	var f sourceFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at everything the pipeline needs, and say how to mend what is missing",
		Long: `Compares the configuration with the live Postgres and Redis and changes nothing. Each finding that is not
ok has its mend beneath it: SQL, a command line, or a place in the file. It can be run before the first
start and beside a running daemon.

An error means that walrill would not start, or would leave something out; a warning, that it works and
something is good to know. Ends with 3 when there is an error, with 0 when there are only warnings.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(cmd)
			if err != nil {
				return err
			}
			findings, err := check(cmd.Context(), cfg)
			if err != nil {
				return redacted(cfg, err)
			}
			if asJSON {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				encoder.SetEscapeHTML(false)
				err = encoder.Encode(findings)
			} else {
				err = printFindings(cmd.OutOrStdout(), findings)
			}
			if err != nil {
				return err
			}
			return verdict(findings)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// verdict is an error when one of the findings is.
func verdict(findings []finding) error {
	count := map[string]int{}
	for _, f := range findings {
		count[f.Level]++
	}
	if n := count[capture.LevelError]; n > 0 {
		return foundError{fmt.Errorf("check: errors: %d, warnings: %d", n, count[capture.LevelWarning])}
	}
	return nil
}

// check asks Postgres first: what is read of Redis afterwards is then not behind it.
func check(ctx context.Context, cfg *config.Config) ([]finding, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	mapping := mapfile.Mapping(cfg)
	source, err := newSource(cfg, mapping, slog.New(slog.DiscardHandler), func(o *capture.Options) {
		o.Backfill.Initial = cfg.Source.Backfill == config.BackfillInitial
		o.Repairs = cfg.Source.OnSlotLoss == config.OnSlotLossBackfill
	})
	if err != nil {
		return nil, err
	}
	pg := source.Check(ctx)
	mapper, err := transform.New(mapping, 0)
	if err != nil {
		return nil, err
	}
	streams, fitting := streamsOf(cfg, mapper, pg)
	redis := sink.Check(ctx, sinkOptions(cfg), streams)
	var findings []finding
	for _, f := range pg.Findings {
		findings = append(findings, finding(f))
	}
	findings = append(findings, misnamed(cfg, pg)...)
	for _, f := range redis.Findings {
		findings = append(findings, finding(f))
	}
	if pg.Asked {
		findings = append(findings, subjectKeyRights(ctx, cfg)...)
		findings = append(findings, compatible(mapper, fitting, redis)...)
	}
	findings = append(findings, lineage(cfg, pg, redis, streams)...)
	findings = append(findings, checkViews(ctx, cfg)...)
	for i := range findings {
		findings[i].Finding, findings[i].Fix = redact(cfg, findings[i].Finding), redact(cfg, findings[i].Fix)
	}
	return findings, nil
}

// streamsOf are the streams that the tables of the database feed; without Postgres, those that the file names. Fitting are
// the tables that the mapping fits.
func streamsOf(cfg *config.Config, mapper *transform.Mapper, pg *capture.Diagnosis) (streams []*event.Stream, fitting []*change.Relation) {
	seen := map[string]bool{}
	add := func(s *event.Stream) {
		if !seen[s.Name] {
			seen[s.Name] = true
			streams = append(streams, s)
		}
	}
	for _, table := range pg.Info.Tables {
		fed, err := mapper.Check(table)
		if err != nil {
			continue // it has its finding
		}
		fitting = append(fitting, table)
		for _, s := range fed {
			add(s)
		}
	}
	for _, s := range cfg.Streams {
		if s.Name != "*" {
			add(event.NewStream(s.Name, s.Partitions))
		}
	}
	return streams, fitting
}

// checkViews looks at what keeping the views needs.
func checkViews(ctx context.Context, cfg *config.Config) []finding {
	if len(cfg.Views.List) == 0 {
		return nil
	}
	var findings []finding
	for _, f := range append(checkStore(ctx, cfg), checkDocuments(ctx, cfg)...) {
		level := capture.LevelError
		if f.OK {
			level = capture.LevelOK
		}
		findings = append(findings, finding{level, f.Subject, f.Finding, f.Fix})
	}
	for _, v := range cfg.Views.List {
		if v.Whole != "" {
			findings = append(findings, finding{capture.LevelWarning, "view " + v.Name, keptWhole + ": " + v.Whole, ""})
		}
	}
	return append(findings, needWhole(cfg)...)
}

// keptWhole is said of a view that cannot be kept otherwise.
const keptWhole = "it is kept in whole transactions, not key by key"

// misnamed are the tables that the file names and the database does not have.
func misnamed(cfg *config.Config, pg *capture.Diagnosis) []finding {
	var existing []string
	for _, rel := range pg.Existing {
		existing = append(existing, rel.String())
	}
	var findings []finding
	for _, name := range pg.Missing {
		f := finding{capture.LevelError, "table " + name, "does not exist", ""}
		at := placeOf(cfg, name)
		if near := config.Nearest(name, existing); near != "" {
			f.Finding += "; " + near + " does"
			f.Fix = fmt.Sprintf("%s: write %s", at, near)
		} else {
			f.Fix = fmt.Sprintf("%s: correct the name, or CREATE TABLE %s (…);", at, name)
		}
		findings = append(findings, f)
	}
	return findings
}

// placeOf is where the file names a table.
func placeOf(cfg *config.Config, table string) string {
	for _, s := range cfg.Streams {
		for _, t := range s.Named() {
			if t.Pattern == table {
				return t.At.String()
			}
		}
	}
	return ""
}

// lineage compares what Redis has with where the slot stands, as a start would.
func lineage(cfg *config.Config, pg *capture.Diagnosis, redis *sink.Diagnosis, streams []*event.Stream) []finding {
	if !redis.Read {
		return nil
	}
	subject := "pipeline " + cfg.Pipeline
	if err := bridge.CheckDropped(redis.Meta); err != nil {
		return []finding{brought(subject, err)}
	}
	var findings []finding
	for _, s := range streams {
		if top, ok := redis.Tops[s]; ok {
			if err := bridge.CheckStream(redis.Meta, s, top); err != nil {
				findings = append(findings, brought("stream "+s.Name, err))
			}
		}
	}
	if pg.Info.SystemID == "" || pg.Slot == nil && pg.Info.SlotUsed {
		return findings // not known, or said already
	}
	source, start := sourceOf(pg.Info), pg.Info.Confirmed
	source.SlotCreated = pg.Slot == nil
	_, err := bridge.CheckLineage(redis.Meta, redis.Watermark, source, start)
	epoch, lsn := event.SplitClock(redis.Watermark)
	switch {
	case err != nil && pg.Slot == nil && redis.Meta.System == source.SystemID:
		f := brought(subject, &capture.SlotLostError{Slot: cfg.Source.Slot, Gone: true, From: change.LSN(lsn)})
		if cfg.Source.OnSlotLoss == config.OnSlotLossBackfill && redis.Meta.Begun() {
			f.Level, f.Fix = capture.LevelWarning, capture.RepairFix
		}
		findings = append(findings, f)
	case err != nil:
		findings = append(findings, brought(subject, err))
	case redis.Meta.IsZero():
		findings = append(findings, finding{capture.LevelOK, subject, "new: it has not been started with this Redis", ""})
	case redis.Watermark == 0 || epoch < redis.Meta.Epoch:
		findings = append(findings, finding{capture.LevelOK, subject, fmt.Sprintf("epoch %d, nothing published in it yet", redis.Meta.Epoch), ""})
	default:
		findings = append(findings, finding{capture.LevelOK, subject, fmt.Sprintf("epoch %d, complete up to %s", epoch, change.LSN(lsn)), ""})
	}
	return findings
}

// brought makes a finding of an error that brings its fix along.
func brought(subject string, err error) finding {
	text, fix, _ := strings.Cut(err.Error(), "\n  fix: ")
	return finding{capture.LevelError, subject, text, fix}
}

// printFindings writes a line for each, and beneath it what mends it.
func printFindings(w io.Writer, findings []finding) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Level, f.Subject, strings.ReplaceAll(f.Finding, "\n", "; "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	lines := strings.Split(b.String(), "\n")
	for i, f := range findings {
		if _, err := fmt.Fprintln(w, lines[i]); err != nil {
			return err
		}
		for line := range strings.Lines(f.Fix) {
			if _, err := fmt.Fprintf(w, "         %s\n", strings.TrimSuffix(line, "\n")); err != nil {
				return err
			}
		}
	}
	return nil
}
