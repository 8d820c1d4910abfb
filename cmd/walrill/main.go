// Command walrill carries changes from Postgres to Redis Streams. This file
// is the way in: flags that every command shares, signals, exit codes. Each command has
// a file of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/cobra"
)

// Exit codes, part of the contract with scripts.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitFound  = 3 // a check found something
)

// sameSignal is how long after the first signal another counts as the same: timeout(1) sends its signal to the process and to
// its group.
const sameSignal = 300 * time.Millisecond

// version is set by the linker.
var version = "devel"

func main() { os.Exit(run(os.Args[1:])) }

// run executes a command line and returns its exit code. The first SIGINT or
// SIGTERM asks for a graceful stop, the second ends the process at once.
func run(args []string) int {
	logging.Disable() // go-redis would print to stderr what it also returns
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		<-signals
		cancel()
		for first := time.Now(); time.Since(first) < sameSignal; {
			<-signals
		}
		fmt.Fprintln(os.Stderr, "walrill: second signal: ending at once; nothing is lost, the next start goes on where Redis stands")
		os.Exit(exitFailed)
	}()
	root := newRoot()
	root.SetArgs(args)
	return report(root.ExecuteContext(ctx))
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// foundError is a check that found something; what, has been printed.
type foundError struct{ error }

func report(err error) int {
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(os.Stderr, "walrill:", advised(err))
	var usage usageError
	var found foundError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &found):
		return exitFound
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "walrill",
		Short: "Change data capture from Postgres to Redis Streams",
		Example: `  walrill demo                                       all of it on servers of its own, in a minute
  walrill init --source postgres://localhost/shop    propose walrill.yaml for a database
  walrill check                                      what is missing, with the statements that mend it
  walrill run                                        carry changes until stopped
  walrill tail orders                                see them arrive`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	subcommands(root)
	root.PersistentFlags().StringP("config", "c", "walrill.yaml", "configuration file")
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(newRunCommand(), newCheckCommand(), newCatalogueCommand(), newStatusCommand(), newTailCommand(), newInitCommand(), newTestCommand(), newSchemaCommand(), newBackfillCommand(), newAdoptCommand(), newForgetCommand(), newDecryptCommand(), newDropCommand(), newWaitCommand(), newRebuildCommand(), newVerifyCommand(), newReplayCommand(), newParkedCommand(), newExplainCommand(), newDemoCommand(), newVersionCommand())
	tidyBuiltIn(root)
	return root
}

// exactArgs is cobra's, as a usage error.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s takes %s; see `%s --help`", cmd.CommandPath(), what, cmd.CommandPath())}
		}
		return nil
	}
}
