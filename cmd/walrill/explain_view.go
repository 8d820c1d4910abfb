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
	if err := wantViews(cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 4*askTimeout)
	defer cancel()
	e, err := projector.Explain(ctx, projectorOptions(cfg, nil, slog.New(slog.DiscardHandler)), view)
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

func printExplanation(w io.Writer, e projector.Explanation) {
	var columns []string
	for _, c := range e.Columns {
		columns = append(columns, c.As+" "+c.Type)
	}
	fmt.Fprintf(w, "%s: %s, key %s\n  %s\n", e.View, e.Kind, strings.Join(e.Key, ", "), strings.Join(columns, ", "))
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
