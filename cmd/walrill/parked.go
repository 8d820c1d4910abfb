package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/projector"
)

func newParkedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "parked",
		Short: "Show and settle what streams and views have set aside",
		Long: `In a stream with on_error: park, a change that a rule fails on is set aside with all later changes of its key,
and everything else goes on. Mend the rule and retry the key: its changes are published in their order.

A row that a view's SQL or types refuse sets its key aside: the key keeps its last state, and everything else goes on.
It is tried again with the key's next change, or with retry.
An event that a fold refuses is set aside with all later ones of its key. retry applies them in their order; drop leaves out
the one that was refused, and applies those behind it.`,
	}
	subcommands(cmd)
	cmd.AddCommand(newParkedListCommand(), newParkedShowCommand(),
		newParkedSettleCommand("retry", "Try what is set aside of a key again",
			"Publishes the changes of a key by the rules as they are now, or tries a key of a view again."),
		newParkedSettleCommand("drop", "Give up what is set aside of a key",
			"Gives up the changes of a key, forgets a key of a view, whose row stays as it is until it changes, or leaves out the event that a fold refuses."))
	return cmd
}

// parkedPlace is where something is set aside.
type parkedPlace struct{ stream, view string }

func (p *parkedPlace) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.stream, "stream", "", "the stream")
	cmd.Flags().StringVar(&p.view, "view", "", "the view")
}

// check wants one place.
func (p *parkedPlace) check() error {
	if (p.stream == "") == (p.view == "") {
		return usageError{errors.New("want one of --stream STREAM and --view VIEW; `walrill parked list` shows what is set aside")}
	}
	return nil
}

func newParkedListCommand() *cobra.Command {
	var place parkedPlace
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys that are set aside, and why",
		Args:  exactArgs(0, "no arguments"),
		RunE:  func(cmd *cobra.Command, _ []string) error { return listParked(cmd, place, asJSON) },
	}
	place.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listParked(cmd *cobra.Command, place parkedPlace, asJSON bool) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	list := struct {
		Streams []parkedKey        `json:"streams"`
		Views   []projector.Parked `json:"views"`
	}{[]parkedKey{}, []projector.Parked{}}
	if place.view == "" {
		changes, err := parkedIn(cmd.Context(), cfg, place.stream)
		if err != nil {
			return err
		}
		list.Streams = parkedKeys(changes)
	}
	if place.stream == "" && (place.view != "" || len(cfg.Views.List) > 0) {
		if list.Views, err = parkedInViews(cmd, place.view); err != nil {
			return err
		}
	}
	w := cmd.OutOrStdout()
	switch {
	case asJSON:
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(list)
	case len(list.Streams)+len(list.Views) == 0:
		_, err := fmt.Fprintln(w, "nothing is set aside")
		return err
	}
	if len(list.Streams) > 0 {
		err = printParkedKeys(w, list.Streams)
	}
	if len(list.Views) > 0 {
		err = errors.Join(err, printParked(w, list.Views))
	}
	return err
}

func newParkedShowCommand() *cobra.Command {
	var place parkedPlace
	cmd := &cobra.Command{
		Use:   "show --stream STREAM KEY | --view VIEW KEY",
		Short: "Show all that is known of a key that is set aside, with the rows of its changes",
		Args:  exactArgs(1, `a key as the list shows it, such as 7, or '{"order_id": 7}' of a view`),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := place.check(); err != nil {
				return err
			}
			if place.view != "" {
				return showParkedKey(cmd, place.view, args[0])
			}
			return showParkedChanges(cmd, place.stream, args[0])
		},
	}
	place.register(cmd)
	return cmd
}

func newParkedSettleCommand(verb, short, long string) *cobra.Command {
	var place parkedPlace
	var all bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   verb + " --stream STREAM KEY | --view VIEW KEY",
		Short: short,
		Long: long + `
For a stream the daemon does it when it comes to the request, which is a logical message in Postgres's log, and the command waits for that.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := place.check(); err != nil {
				return err
			}
			if all != (len(args) == 0) || len(args) > 1 {
				return usageError{errors.New(`want a key as the list shows it, such as 7, or '{"order_id": 7}' of a view, or --all`)}
			}
			var key *string
			if !all {
				key = &args[0]
			}
			if place.view != "" {
				return settleParkedRows(cmd, verb, place.view, key)
			}
			return settleParkedChanges(cmd, verb, place.stream, key, timeout)
		},
	}
	place.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all keys")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the daemon")
	return cmd
}
