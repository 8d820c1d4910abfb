package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/internal/rehearse"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/transform"
)

type testFlags struct {
	update  bool
	verbose bool
}

func newTestCommand() *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{
		Use:   "test [FILE...]",
		Short: "Test the mapping: given rows, when changes, then events",
		Long: `Plays the changes of test files through the mapping and compares the events. Without files: testdata/*.test.yaml
beside the configuration. Needs no server when the files describe their tables; else it asks the configuration's database for them.

  walrill test
  walrill test --update     writes what happened into the files`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	cmd.Flags().BoolVar(&f.update, "update", false, "rewrite the expectations that differ")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "name every test")
	return cmd
}

func (f *testFlags) run(cmd *cobra.Command, files []string) error {
	path := cmd.Flag("config").Value.String()
	cfg, err := config.LoadMapping(path, os.LookupEnv)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		pattern := filepath.Join(filepath.Dir(path), "testdata", "*.test.yaml")
		if files, err = filepath.Glob(pattern); err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("test: there is no file %s; name others behind `walrill test`", pattern)
		}
	}
	failed, total := 0, 0
	for _, file := range files {
		tests, err := config.LoadTests(file)
		if err != nil {
			return err
		}
		tables, err := describedTables(cmd.Context(), cmd, tests)
		if err != nil {
			return err
		}
		n, err := f.file(cmd.OutOrStdout(), cfg, file, tests, tables)
		if err != nil {
			return err
		}
		failed, total = failed+n, total+len(tests.Tests)
	}
	switch {
	case failed == 0:
		return nil
	case f.update:
		fmt.Fprintf(cmd.OutOrStdout(), "%d expectations rewritten: look at them before you keep them\n", failed)
		return nil
	}
	return foundError{fmt.Errorf("%d of %d tests differ; when the events are right, `walrill test --update` writes them", failed, total)}
}

// file runs the tests of a file and reports how many differ.
func (f *testFlags) file(out io.Writer, cfg *config.Config, name string, tests *config.TestFile, tables map[string]*change.Relation) (int, error) {
	differ := map[int][]rehearse.Event{}
	for i := range tests.Tests {
		t := &tests.Tests[i]
		events, err := playTest(cfg, tables, t)
		if err != nil {
			return 0, fmt.Errorf("test %q: %w", t.Name, err)
		}
		if diff := rehearse.Compare(t, events); diff != "" {
			differ[i] = events
			if !f.update {
				fmt.Fprintf(out, "differs  %s:%d  %s\n%s\n", name, t.At.Line, t.Name, diff)
			}
		} else if f.verbose {
			fmt.Fprintf(out, "ok       %s:%d  %s\n", name, t.At.Line, t.Name)
		}
	}
	fmt.Fprintf(out, "%s  %s: %d tests, %d differ\n", map[bool]string{true: "ok     ", false: "differs"}[len(differ) == 0], name, len(tests.Tests), len(differ))
	if f.update && len(differ) > 0 {
		return len(differ), rewriteTests(name, tests, differ)
	}
	return len(differ), nil
}

// playTest runs one test with a mapper of its own: nothing of another test is left.
func playTest(cfg *config.Config, tables map[string]*change.Relation, t *config.Test) ([]rehearse.Event, error) {
	m, err := transform.New(mapfile.Mapping(cfg), 0)
	if err != nil {
		return nil, err
	}
	if t.Upcast != nil {
		upcaster, err := mapfile.UpcasterOf(cfg)
		if err != nil {
			return nil, err
		}
		return rehearse.Upcast(mapfile.Mapping(cfg), upcaster.Event, t)
	}
	for _, name := range usedTables(t) {
		if rel := tables[name]; rel != nil {
			if _, err := m.Check(rel); err != nil {
				return nil, err
			}
		}
	}
	return rehearse.Play(m, tables, t)
}

func usedTables(t *config.Test) []string {
	var names []string
	for _, given := range t.Given {
		names = append(names, given.Table)
	}
	for _, c := range t.When {
		names = append(names, c.Table)
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

func rewriteTests(name string, tests *config.TestFile, got map[int][]rehearse.Event) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if data, err = rehearse.Rewrite(data, tests.Tests, got); err != nil {
		return err
	}
	if _, err := config.ParseTests(name, data); err != nil {
		return fmt.Errorf("test: %s as rewritten could not be read, so it is left as it is: %w", name, err)
	}
	return os.WriteFile(name, data, 0o666)
}

// describedTables are the tables of a file of tests. Those that it does not describe are taken from the database.
func describedTables(ctx context.Context, cmd *cobra.Command, tests *config.TestFile) (map[string]*change.Relation, error) {
	tables := map[string]*change.Relation{}
	for i, t := range tests.Tables {
		var columns []rehearse.Column
		for _, c := range t.Columns {
			columns = append(columns, rehearse.Column(c))
		}
		rel, err := rehearse.NewRelation(uint32(i+1), t.Name, columns, t.Key, t.Identity)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.At, err)
		}
		tables[t.Name] = rel
	}
	var missing []string
	for i := range tests.Tests {
		for _, name := range usedTables(&tests.Tests[i]) {
			if tables[name] == nil {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) == 0 {
		return tables, nil
	}
	live, err := liveTables(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("test: the file does not describe %s under `tables:`, and the database could not be asked: %w", strings.Join(missing, ", "), err)
	}
	for _, name := range missing {
		if live[name] == nil {
			return nil, fmt.Errorf("test: there is no table %s, neither in the file nor in the database; describe it under `tables:`", name)
		}
		tables[name] = live[name]
	}
	return tables, nil
}

// liveTables are the tables of the configuration's database by their names.
func liveTables(ctx context.Context, cmd *cobra.Command) (map[string]*change.Relation, error) {
	cfg, err := load(cmd)
	if err != nil {
		return nil, err
	}
	relations, err := capture.Tables(ctx, cfg.Source.URL.Reveal())
	if err != nil {
		return nil, redacted(cfg, err)
	}
	tables := map[string]*change.Relation{}
	for _, rel := range relations {
		tables[rel.String()] = rel
	}
	return tables, nil
}
