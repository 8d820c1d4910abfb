package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/rehearse"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/transform"
)

type explainFlags struct {
	view          string
	op, old, new  string
	offline, json bool
	live          bool
	count         int
	message       string
}

func newExplainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain TABLE | --live [TABLE] | --message PREFIX CONTENT | --view VIEW",
		Short: "Show the events that a row change makes and why, or what a view needs",
		Long: `Shows which rules a change of a row matches and which not, by which values, and the events that come of it. Nothing is
published. The table's columns are the database's; columns that are not given are NULL, or in an update as in the other row.

  walrill explain public.orders --new '{"id": 1, "status": "new"}'
  walrill explain public.orders --old '{"id": 1, "status": "new"}' --new '{"status": "paid"}'
  walrill explain public.orders --old '{"id": 1}'
  walrill explain --message orders '{"type": "order.paid", "data": {}}'   a logical message

With --live it explains the changes that are committed while it runs, of one table or of all, by a temporary slot beside the daemon's.

With --view it shows what a view needs, and which of its rows a change affects.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			message := cmd.Flags().Changed("message")
			switch {
			case (message || f.view != "") && (f.op+f.old+f.new != "" || f.offline), !f.live && cmd.Flags().Changed("count"):
				return usageError{errors.New("explain: --op, --old, --new and --offline are for a table, and --count is for --live")}
			case f.view != "" && len(args) == 0 && !message && !f.live:
				return explainView(cmd, f.view, f.json)
			case f.view == "" && message && !f.live && len(args) == 1:
				return f.explainMessage(cmd, args[0])
			case f.view == "" && f.live && len(args) <= 1:
				if f.op+f.old+f.new+f.message != "" || f.offline || f.count < 0 {
					return usageError{errors.New("explain --live takes the changes as they come: neither rows nor --offline, and --count from 0")}
				}
				return f.explainLive(cmd, fullName(args))
			case f.view != "" || f.live || f.message != "" || len(args) != 1:
				return usageError{errors.New("explain takes a table's name, such as public.orders, or --view and the name of a view; with --message one content behind the prefix, with --live a table or nothing")}
			}
			return f.run(cmd, fullName(args))
		},
	}
	cmd.Flags().StringVar(&f.view, "view", "", "a view, instead of a table")
	cmd.Flags().StringVar(&f.op, "op", "", "insert, update, delete, truncate or read (default by which rows are given)")
	cmd.Flags().StringVar(&f.old, "old", "", "the row before, as JSON")
	cmd.Flags().StringVar(&f.new, "new", "", "the row after, as JSON")
	cmd.Flags().BoolVar(&f.offline, "offline", false, "ask no database: take the columns and their types from the rows that are given")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON; with --live an object a line")
	cmd.Flags().BoolVar(&f.live, "live", false, "explain the changes that are committed from now on; Ctrl-C ends it")
	cmd.Flags().IntVar(&f.count, "count", 0, "with --live, stop after so many changes; 0 does not")
	cmd.Flags().StringVar(&f.message, "message", "", "a logical message with this prefix; its content is the argument")
	return cmd
}

// fullName is the table of the arguments with its schema, empty without one.
func fullName(args []string) string {
	if len(args) == 0 || strings.Contains(args[0], ".") {
		return strings.Join(args, "")
	}
	return "public." + args[0]
}

func loadMapping(cmd *cobra.Command) (*config.Config, error) {
	return config.LoadMapping(cmd.Flag("config").Value.String(), os.LookupEnv)
}

func (f *explainFlags) run(cmd *cobra.Command, table string) error {
	if err := f.chooseOp(); err != nil {
		return usageError{err}
	}
	before, after, err := f.rows()
	if err != nil {
		return usageError{err}
	}
	cfg, err := loadMapping(cmd)
	if err != nil {
		return err
	}
	rel, err := f.relation(cmd, table, before, after)
	if err != nil {
		return err
	}
	c, err := f.change(rel, before, after)
	if err != nil {
		return usageError{fmt.Errorf("explain: %w", err)}
	}
	m, err := transform.New(mapfile.Mapping(cfg), 0)
	if err != nil {
		return err
	}
	streams, err := m.Check(rel)
	if err != nil {
		return err
	}
	if len(streams) == 0 {
		return noStreamTakes(cmd.Context(), cfg, table)
	}
	m.Begin(rehearse.Tx)
	var events []event.Event
	var asked []transform.Asked
	failed := rehearse.WithKeys(func() (err error) { events, asked, err = m.Explain(c); return err })
	if err := f.print(cmd.OutOrStdout(), events, asked); err != nil {
		return err
	}
	return failed
}

// chooseOp finds out what happens by the rows that are given.
func (f *explainFlags) chooseOp() error {
	if f.op == "" {
		switch {
		case f.old != "" && f.new != "":
			f.op = "update"
		case f.new != "":
			f.op = "insert"
		case f.old != "":
			f.op = "delete"
		default:
			return errors.New("explain: what happens? Give the row with --new for an insert, --old for a delete, both for an update")
		}
	}
	needs := map[string][2]bool{"insert": {false, true}, "read": {false, true}, "update": {true, true}, "delete": {true, false}, "truncate": {}}
	need, ok := needs[f.op]
	if !ok {
		return fmt.Errorf("--op %s: want insert, update, delete, truncate or read", f.op)
	}
	for i, flag := range []string{"old", "new"} {
		switch given := []string{f.old, f.new}[i] != ""; {
		case need[i] && !given:
			return fmt.Errorf("explain: of %s the row is missing: --%s '{\"id\": 1}'", f.op, flag)
		case !need[i] && given:
			return fmt.Errorf("explain: %s has no --%s", f.op, flag)
		}
	}
	return nil
}

func (f *explainFlags) rows() (before, after rehearse.Row, err error) {
	for flag, text := range map[string]string{"--old": f.old, "--new": f.new} {
		if text == "" {
			continue
		}
		row, err := rehearse.ParseRow([]byte(text))
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", flag, err)
		}
		if flag == "--old" {
			before = row
		} else {
			after = row
		}
	}
	return before, after, nil
}

// relation is the table, as the database has it, or as the rows let it seem.
func (f *explainFlags) relation(cmd *cobra.Command, table string, rows ...rehearse.Row) (*change.Relation, error) {
	if f.offline {
		return rehearse.Infer(table, rows...)
	}
	tables, err := liveTables(cmd.Context(), cmd)
	if err != nil {
		return nil, fmt.Errorf("explain: read the table's columns: %w; with --offline they are taken from the rows", err)
	}
	if rel := tables[table]; rel != nil {
		return rel, nil
	}
	return nil, noTable(table, slices.Sorted(maps.Keys(tables)))
}

func (f *explainFlags) change(rel *change.Relation, before, after rehearse.Row) (*change.Change, error) {
	switch f.op {
	case "insert":
		return rehearse.Insert(rel, change.Insert, after)
	case "read":
		return rehearse.Insert(rel, change.Read, after)
	case "update":
		return rehearse.Update(rel, before, after)
	case "delete":
		return rehearse.Delete(rel, before)
	}
	return &change.Change{Op: change.Truncate, Relation: rel}, nil
}

func (f *explainFlags) print(out io.Writer, events []event.Event, asked []transform.Asked) error {
	if f.json {
		return printExplainedJSON(out, events, asked)
	}
	printExplained(out, events, asked)
	return nil
}

func printExplained(out io.Writer, events []event.Event, asked []transform.Asked) {
	for i, a := range asked {
		if i == 0 || a.Stream != asked[i-1].Stream || a.Op != asked[i-1].Op {
			fmt.Fprintf(out, "rules of stream %s for the %s\n", a.Stream, opName(a.Op))
		}
		fmt.Fprintf(out, "  %-24s %-10s  %s\n", a.Type, a.Outcome, a.Where)
		for _, p := range a.Parts {
			fmt.Fprintf(out, "      %s  %s\n", p.Text, partText(p))
		}
	}
	if len(asked) > 0 {
		fmt.Fprintln(out)
	}
	if len(events) == 0 {
		fmt.Fprintln(out, "no event")
	}
	for i := range events {
		e := &events[i]
		fmt.Fprintf(out, "%s  key %s  in %s\n", e.Type, e.Key, e.Stream.Keys[e.Partition])
		for _, field := range [][2]string{{"data", string(shownData(e))}, {"old", string(e.Old)}, {"unchanged", string(e.Unchanged)}, {"headers", string(e.Headers)}} {
			if field[1] != "" {
				fmt.Fprintf(out, "  %-4s %s\n", field[0], field[1])
			}
		}
	}
}

// shownData is an event's data. Of a change that would be parked it is the reason: the row is there with all that the rules read.
func shownData(e *event.Event) []byte {
	if !e.Stream.Control {
		return slices.Clone(e.Data)
	}
	var p struct {
		Stream string `json:"stream"`
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(e.Data, &p) // it was written just now
	text, _ := json.Marshal(p)     // of texts, so it cannot fail
	return text
}

func opName(op change.Op) string {
	return map[change.Op]string{change.Insert: "insert", change.Update: "update", change.Delete: "delete", change.Truncate: "truncate", change.Read: "read"}[op]
}

// partText says what a part of a condition came to, and by which values.
func partText(p transform.Part) string {
	text := fmt.Sprint(p.True)
	if p.Reason != "" {
		text = "cannot be told: " + p.Reason
	}
	var values []string
	for _, v := range p.Values {
		switch {
		case v.LeftOut:
			values = append(values, v.Column+" is left out")
		case v.JSON == "":
			values = append(values, v.Column+" was not sent")
		default:
			values = append(values, v.Column+" is "+v.JSON)
		}
	}
	if len(values) > 0 {
		text += ": " + strings.Join(values, ", ")
	}
	return text
}

// explainedEvent and explainedRule are events and rules as --json prints them.
type explainedEvent struct {
	Stream    string          `json:"stream"`
	Partition int             `json:"partition"`
	Type      string          `json:"type"`
	Key       string          `json:"key"`
	Op        string          `json:"op"`
	Data      json.RawMessage `json:"data,omitempty"`
	Old       json.RawMessage `json:"old,omitempty"`
	Unchanged json.RawMessage `json:"unchanged,omitempty"`
	Headers   json.RawMessage `json:"headers,omitempty"`
}

type explainedRule struct {
	Stream  string          `json:"stream"`
	Type    string          `json:"type"`
	Where   string          `json:"where,omitempty"`
	Op      string          `json:"op"`
	Outcome string          `json:"outcome"`
	Parts   []explainedPart `json:"when,omitempty"`
}

type explainedPart struct {
	Text   string                     `json:"text"`
	True   bool                       `json:"true"`
	Reason string                     `json:"reason,omitempty"`
	Values map[string]json.RawMessage `json:"values,omitempty"`
}

// explainedChange is a change as --json prints it. What it is of is said with --live only.
type explainedChange struct {
	Change string           `json:"change,omitempty"`
	LSN    string           `json:"lsn,omitempty"`
	Tx     uint32           `json:"tx,omitempty"`
	Rules  []explainedRule  `json:"rules"`
	Events []explainedEvent `json:"events"`
	Error  string           `json:"error,omitempty"`
}

func printExplainedJSON(out io.Writer, events []event.Event, asked []transform.Asked) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(explained(events, asked))
}

func explained(events []event.Event, asked []transform.Asked) explainedChange {
	report := explainedChange{Rules: []explainedRule{}, Events: []explainedEvent{}}
	for _, a := range asked {
		rule := explainedRule{Stream: a.Stream, Type: a.Type, Where: a.Where, Op: opName(a.Op), Outcome: string(a.Outcome)}
		for _, p := range a.Parts {
			part := explainedPart{Text: p.Text, True: p.True, Reason: p.Reason, Values: map[string]json.RawMessage{}}
			for _, v := range p.Values {
				if v.JSON != "" {
					part.Values[v.Column] = json.RawMessage(v.JSON)
				}
			}
			rule.Parts = append(rule.Parts, part)
		}
		report.Rules = append(report.Rules, rule)
	}
	for i := range events {
		e := &events[i]
		report.Events = append(report.Events, explainedEvent{Stream: e.Stream.Name, Partition: e.Partition, Type: e.Type, Key: string(e.Key), Op: string(rune(e.Op)),
			Data: shownData(e), Old: slices.Clone(e.Old), Unchanged: slices.Clone(e.Unchanged), Headers: slices.Clone(e.Headers)})
	}
	return report
}
