package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/projector"
)

// explainView shows what a view needs, and which of its rows a change affects.
func explainView(cmd *cobra.Command, view string, asJSON bool) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	if err := wantViewOf(cfg, view); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 4*askTimeout)
	defer cancel()
	options := projectorOptions(cfg, nil, slog.New(slog.DiscardHandler))
	for _, v := range documentsOf(cfg) {
		if v.Name == view {
			e, err := projector.ExplainDocuments(ctx, options, &v)
			if err == nil {
				err = printDocuments(cmd.OutOrStdout(), e, asJSON)
			}
			return redacted(cfg, err)
		}
	}
	e, err := projector.Explain(ctx, options, view)
	if err != nil {
		return redacted(cfg, err)
	}
	if asJSON {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(e)
	}
	printExplanation(cmd.OutOrStdout(), e)
	return nil
}

func printDocuments(w io.Writer, e projector.DocumentExplanation, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(e)
	}
	var columns []string
	for _, c := range e.Columns {
		columns = append(columns, c.As)
	}
	fmt.Fprintf(w, "%s: documents %s, as %s\n  %s\n", e.View, e.Pattern, e.As, strings.Join(columns, ", "))
	if e.From != "" {
		fmt.Fprintf(w, "  from:  view %s\n", e.From)
	} else {
		fmt.Fprintf(w, "  from:  %s, by stream %s\n", e.Table, e.Stream)
	}
	_, err := fmt.Fprintf(w, "  state: %s\n", e.State)
	return err
}

func printExplanation(w io.Writer, e projector.Explanation) {
	var columns []string
	for _, c := range e.Columns {
		columns = append(columns, c.As+" "+c.Type)
	}
	fmt.Fprintf(w, "%s: %s, key %s\n  %s\n", e.View, e.Kind, strings.Join(e.Key, ", "), strings.Join(columns, ", "))
	if e.ByKey {
		fmt.Fprintln(w, "  kept key by key: rows of one transaction may be seen apart")
	}
	if e.Now {
		fmt.Fprintln(w, "  from what comes when the view is made; what was in the streams before is not in it")
	}
	for _, f := range e.Events {
		fmt.Fprintf(w, "\n%s, from stream %s\n  %s\n", f.Type, strings.Join(f.Streams, ", "), strings.ReplaceAll(f.SQL, "\n", "\n  "))
	}
	for _, t := range e.Tables {
		fmt.Fprintf(w, "\n%s, from stream %s\n  mirrored: %s\n", t.Table, t.Stream, strings.Join(t.Columns, ", "))
		if len(t.Indexes) > 0 {
			fmt.Fprintf(w, "  indexes:  %s\n", strings.Join(t.Indexes, ", "))
		}
		if t.Affects == "" {
			continue
		}
		how := "from the configuration"
		if t.Derived {
			how = "derived"
		}
		fmt.Fprintf(w, "  affects:  %s   (%s)\n", t.Affects, how)
	}
}
