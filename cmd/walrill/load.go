package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
)

// load reads the configuration that the command line names: a file, or
// source, sink and tables by flags.
func load(cmd *cobra.Command) (*config.Config, error) {
	path, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	return config.Load(path, os.LookupEnv)
}

// sourceFlags are the form without a file.
type sourceFlags struct {
	source, sink, pipeline string
	tables                 []string
}

func (f *sourceFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.source, "source", "", "Postgres URL; instead of a configuration file, with --sink and --tables")
	cmd.Flags().StringVar(&f.sink, "sink", "", "Redis URL")
	cmd.Flags().StringSliceVar(&f.tables, "tables", nil, "tables, such as 'public.*' or public.orders,public.customers; each in a stream of its own name")
	cmd.Flags().StringVar(&f.pipeline, "pipeline", "walrill", "the pipeline's name, in the form without a file")
}

// file is the configuration file, "" in the form without one.
func (f *sourceFlags) file(cmd *cobra.Command) string {
	if f.source != "" || f.sink != "" || len(f.tables) != 0 {
		return ""
	}
	return cmd.Flag("config").Value.String()
}

// load prefers the flags when any of them is given.
func (f *sourceFlags) load(cmd *cobra.Command) (*config.Config, error) {
	if f.file(cmd) != "" {
		cfg, err := load(cmd)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; or do without: `%s --source URL --sink URL --tables 'public.*'`", err, strings.TrimSuffix(cmd.UseLine(), " [flags]"))
		}
		return cfg, err
	}
	if cmd.Flags().Changed("config") {
		return nil, usageError{fmt.Errorf("--config and --source, --sink, --tables exclude each other")}
	}
	var missing []string
	for _, flag := range []struct{ name, value string }{{"--source", f.source}, {"--sink", f.sink}, {"--tables", strings.Join(f.tables, "")}} {
		if flag.value == "" {
			missing = append(missing, flag.name)
		}
	}
	if missing != nil {
		return nil, usageError{fmt.Errorf("without a configuration file, --source, --sink and --tables go together, as the daemon was started with them: missing %s", strings.Join(missing, ", "))}
	}
	cfg, err := config.FromFlags(f.source, f.sink, f.tables, f.pipeline)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}
