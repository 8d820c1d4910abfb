package main

import (
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file, for editors",
		Long: `Prints the JSON Schema of the configuration file. With it an editor that has a YAML language server completes and checks
what you write:

  walrill schema > walrill.schema.json

and as a first line of walrill.yaml:

  # yaml-language-server: $schema=walrill.schema.json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}
