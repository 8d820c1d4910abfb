package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/internal/propose"
)

type initFlags struct {
	sourceFlags
	output string
	force  bool
}

func newInitCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Propose a configuration file for a database",
		Long: `Reads a database's catalogue and writes a first configuration file with comments: streams of the tables
that belong together, keys, and what to decide. Changes nothing in the database.

  walrill init --source postgres://localhost/shop`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.source, "source", "", "Postgres URL (default $DATABASE_URL)")
	cmd.Flags().StringVar(&f.sink, "sink", "redis://localhost:6379/0", "Redis URL; one with a password is written as ${REDIS_URL}")
	cmd.Flags().StringSliceVar(&f.tables, "tables", nil, "tables to propose, such as 'public.*,billing.*' or public.orders (default all)")
	cmd.Flags().StringVar(&f.pipeline, "pipeline", "", "the pipeline's name (default the database's)")
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "file to write, - prints it (default what -c names)")
	cmd.Flags().BoolVar(&f.force, "force", false, "overwrite the file")
	return cmd
}

func (f *initFlags) run(cmd *cobra.Command) error {
	if f.output == "" {
		f.output = cmd.Flag("config").Value.String()
	}
	if f.source == "" {
		f.source = os.Getenv("DATABASE_URL")
	}
	if f.source == "" {
		return usageError{errors.New("init: which database? Give it with --source postgres://…, or in $DATABASE_URL")}
	}
	tables := f.tables
	if len(tables) == 0 {
		tables = []string{"public.*"} // to have the rest looked at
	}
	flags, err := config.FromFlags(f.source, f.sink, tables, f.pipeline)
	if err != nil {
		return usageError{err}
	}
	if _, err := os.Lstat(f.output); err == nil && !f.force && f.output != "-" {
		return fmt.Errorf("init: %s exists; write elsewhere with -o FILE, print with -o -, or overwrite it with --force", f.output)
	}
	catalogue, err := readCatalogue(cmd.Context(), flags)
	if err != nil {
		return redacted(flags, fmt.Errorf("init: %w", err))
	}
	options := propose.Options{Pipeline: f.pipeline, Sink: f.sink}
	if flags.Sink.URL.String() != f.sink || strings.Contains(f.sink, "${") {
		options.Sink = "${REDIS_URL}" // with a password
	}
	for _, t := range flags.Streams[0].Tables[:len(f.tables)] {
		options.Patterns = append(options.Patterns, t.Pattern)
	}
	if err := wantProposed(catalogue, options.Patterns); err != nil {
		return err
	}
	p := propose.File(catalogue, options)
	if err := f.check(p); err != nil {
		return err
	}
	if f.output == "-" {
		_, err := io.WriteString(cmd.OutOrStdout(), p.Text)
		return err
	}
	if err := f.write(p.Text); err != nil {
		return err
	}
	f.nextSteps(cmd.OutOrStdout(), flags, catalogue, p)
	return nil
}

// wantProposed refuses a table that the database does not have, and a schema that is probably another. One without tables may get some.
func wantProposed(c *propose.Catalogue, patterns []string) error {
	var names, schemas []string
	for _, t := range c.Tables {
		names, schemas = append(names, t.String()), append(schemas, t.Schema+".*")
	}
	for _, p := range patterns {
		of := schemas
		if !strings.HasSuffix(p, ".*") {
			of = names
		}
		near := config.Nearest(p, of)
		switch {
		case slices.Contains(of, p):
		case near != "":
			return usageError{fmt.Errorf("init: --tables %s: the database has no such table; did you mean %s?", p, near)}
		case !strings.HasSuffix(p, ".*"):
			return usageError{fmt.Errorf("init: --tables %s: the database has no such table; write it as Postgres has it, schema and name without quotes", p)}
		}
	}
	return nil
}

func readCatalogue(ctx context.Context, cfg *config.Config) (*propose.Catalogue, error) {
	conn, err := pgx.Connect(ctx, cfg.Source.URL.Reveal())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has only read
	return propose.Read(ctx, conn)
}

// check reads the file as every other command will.
func (f *initFlags) check(p propose.Proposal) error {
	env := map[string]string{"DATABASE_URL": f.source, "REDIS_URL": f.sink}
	_, err := config.Parse("proposal", []byte(p.Text), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		return fmt.Errorf("init: the proposal for these tables is not valid, which is a mistake in walrill; leave the table out with --tables: %w", err)
	}
	return nil
}

// write makes the file, and never overwrites one that came in between unless forced.
func (f *initFlags) write(text string) error {
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if f.force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	file, err := os.OpenFile(f.output, mode, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("init: %s exists; overwrite it with --force", f.output)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = io.WriteString(file, text)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("init: write %s: %w", f.output, err)
	}
	return nil
}

// nextSteps prints the commands that lead from the file to events.
func (f *initFlags) nextSteps(out io.Writer, cfg *config.Config, c *propose.Catalogue, p propose.Proposal) {
	file := ""
	if f.output != "walrill.yaml" {
		file = " -c " + shellWord(f.output)
	}
	fmt.Fprintf(out, "Wrote %s. Streams: %d, with %d tables. Left out: %d.\n\nNext:\n", f.output, p.Streams, p.Tables, p.Left)
	export(out, "DATABASE_URL", cfg.Source.URL)
	if strings.Contains(p.Text, "${REDIS_URL}") {
		export(out, "REDIS_URL", cfg.Sink.URL)
	}
	if c.WALLevel != "logical" {
		fmt.Fprintln(out, `  psql "$DATABASE_URL" -c 'ALTER SYSTEM SET wal_level = logical'   # and restart Postgres`)
	}
	if len(p.Fixes) > 0 {
		fmt.Fprintf(out, "  $EDITOR %s   # proposals behind # want these statements first:\n", shellWord(f.output))
		for _, sql := range p.Fixes {
			fmt.Fprintf(out, "  #   %s\n", sql)
		}
	}
	fmt.Fprintf(out, "  walrill check%s\n", file)
	fmt.Fprintf(out, "  walrill run%s\n", file)
	if p.Stream != "" {
		fmt.Fprintf(out, "  walrill tail%s %s   # in another terminal, with the same variables\n", file, shellWord(p.Stream))
	}
}

func export(out io.Writer, name string, url config.URL) {
	note := ""
	if url.String() != url.Reveal() {
		note = "   # with the password in place of xxxxx"
	}
	fmt.Fprintf(out, "  export %s=%s%s\n", name, shellWord(url.String()), note)
}

// shellWord quotes what a shell would not take as one plain word.
func shellWord(text string) string {
	if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=-") == "" && text != "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
