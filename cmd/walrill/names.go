package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/projector"
)

// meant is what to say behind a name that nothing has: the nearest one that is there, or else all of them.
func meant(got string, names []string) string {
	if near := config.Nearest(got, names); near != "" {
		return "; did you mean " + near + "?"
	}
	if len(names) == 0 {
		return ""
	}
	return "; valid here: " + strings.Join(names, ", ")
}

// namesOfViews are the views of the configuration.
func namesOfViews(cfg *config.Config) (names []string) {
	for _, v := range cfg.Views.List {
		names = append(names, v.Name)
	}
	return names
}

// wantViewOf refuses a view that the configuration does not have.
func wantViewOf(cfg *config.Config, view string) error {
	if err := wantViews(cfg); err != nil {
		return err
	}
	return wantName(view, namesOfViews(cfg))
}

func wantName(view string, names []string) error {
	if slices.Contains(names, view) {
		return nil
	}
	return usageError{fmt.Errorf("the configuration has no view %s%s", view, meant(view, names))}
}

// wantView refuses a view that neither the configuration has nor the view store, which may have those of Go programs and
// of a file that has changed since.
func wantView(ctx context.Context, cfg *config.Config, view string) error {
	err := wantViewOf(cfg, view)
	if err == nil || cfg.Views.Store.IsZero() {
		return err
	}
	kept, storeErr := keptViews(ctx, cfg)
	if storeErr != nil {
		return redacted(cfg, fmt.Errorf("%w; the view store cannot be asked: %w", err, storeErr))
	}
	names := append(namesOfViews(cfg), kept...)
	slices.Sort(names)
	return wantName(view, slices.Compact(names))
}

func keptViews(ctx context.Context, cfg *config.Config) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := projector.Connect(ctx, cfg.Views.Store.Reveal())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	return projector.Kept(ctx, conn)
}

// noTable is the error of explain for a table that the database does not have.
func noTable(table string, names []string) error {
	if near := config.Nearest(table, names); near != "" {
		return usageError{fmt.Errorf("explain: the database has no table %s; did you mean %s?", table, near)}
	}
	return usageError{fmt.Errorf("explain: the database has no table %s; write it as Postgres has it, schema and name without quotes", table)}
}

// noStreamTakes is the error of explain for a table that no stream takes.
func noStreamTakes(ctx context.Context, cfg *config.Config, table string) error {
	if near := config.Nearest(table, tablesTaken(ctx, cfg)); near != "" {
		return usageError{fmt.Errorf("explain: no stream takes table %s; did you mean %s?", table, near)}
	}
	return usageError{fmt.Errorf("explain: no stream takes table %s; name it under streams.<name>.tables", table)}
}

// tablesTaken are the tables that streams take: those that the file names, and those of the database, if that can be asked.
func tablesTaken(ctx context.Context, cfg *config.Config) (names []string) {
	for _, s := range cfg.Streams {
		for _, t := range s.Named() {
			names = append(names, t.Pattern)
		}
	}
	if !cfg.Source.URL.IsZero() { // else only the mapping was loaded
		if existing, err := existingTables(ctx, cfg); err == nil {
			names = append(names, existing...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// existingTables are the tables of the database that streams take.
func existingTables(ctx context.Context, cfg *config.Config) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	tables, err := capture.Tables(ctx, cfg.Source.URL.Reveal())
	if err != nil {
		return nil, err
	}
	mapping := mapfile.Mapping(cfg)
	for _, t := range tables {
		if mapping.Takes(t) {
			names = append(names, t.String())
		}
	}
	return names, nil
}

// wantTableOf refuses a table that no stream takes.
func wantTableOf(ctx context.Context, cfg *config.Config, table string) error {
	if mapped(cfg, table) {
		return nil
	}
	return usageError{fmt.Errorf("no stream of pipeline %s takes table %s%s\n  fix: give one table's name as Postgres has it, schema and name without quotes; the configuration names what streams take",
		cfg.Pipeline, table, meant(table, tablesTaken(ctx, cfg)))}
}

// wantExisting refuses a table that the database does not have. When the database cannot be asked, the daemon says it.
func wantExisting(ctx context.Context, cfg *config.Config, table string) error {
	names, err := existingTables(ctx, cfg)
	if err != nil || slices.Contains(names, table) {
		return nil
	}
	return usageError{fmt.Errorf("the database has no table %s%s", table, meant(table, names))}
}

// subcommands has a command that is only a name for others say so: it prints its help, and refuses what is none of them.
func subcommands(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// tidyBuiltIn gives cobra's own commands, help and completion, the exit code of others for what they do not know.
func tidyBuiltIn(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 && found.HasSubCommands() {
					err = unknownCommand(found, rest[0])
				}
				return err
			}
		case "completion":
			c.Short = "Print a script that completes commands and flags in your shell"
			c.Long = c.Short + ".\n\n  source <(walrill completion bash)       for this shell; `walrill completion zsh --help` says how for zsh, and so on"
			subcommands(c)
		}
	}
}

// unknownCommand refuses what is no command, and names the nearest of those that parent has.
func unknownCommand(parent *cobra.Command, got string) error {
	var names []string
	for _, c := range parent.Commands() {
		names = append(names, c.Name())
	}
	said := fmt.Sprintf("; `%s --help` lists the commands", parent.CommandPath())
	if near := config.Nearest(got, names); near != "" {
		said = fmt.Sprintf("; did you mean `%s %s`?", parent.CommandPath(), near)
	}
	return usageError{fmt.Errorf("unknown command %q%s", got, said)}
}

// wrongFlag says what is wrong with a flag, and names the nearest of those that the command has.
func wrongFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			return usageError{fmt.Errorf("%w; did you mean --%s? See `%s --help`", err, near, cmd.CommandPath())}
		}
	}
	return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
}
