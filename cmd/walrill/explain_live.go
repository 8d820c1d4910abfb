package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/rehearse"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/transform"
)

// watcher explains the changes that are committed while it runs.
type watcher struct {
	mapper   *transform.Mapper
	table    string   // the only one to be told of; empty: all, and messages
	prefixes []string // of messages that streams take
	out      io.Writer
	json     bool
	left     int // changes still to be told of; negative: no end
	tx       change.Tx
	inside   bool // of a transaction
	told     bool // of a change of it
}

// explainLive explains changes as they are committed, beside the daemon and without touching anything.
func (f *explainFlags) explainLive(cmd *cobra.Command, table string) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	mapping := mapfile.Mapping(cfg)
	w := &watcher{table: table, prefixes: mapping.Prefixes(), out: cmd.OutOrStdout(), json: f.json, left: f.count}
	if w.mapper, err = transform.New(mapping, 0); err != nil {
		return err
	}
	if w.left == 0 {
		w.left = -1
	}
	source, err := newSource(cfg, mapping, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return redacted(cfg, err)
	}
	if table != "" {
		if err := wantTable(cmd.Context(), cfg, mapping, table); err != nil {
			return redacted(cfg, err)
		}
	}
	stream, err := source.Watch(cmd.Context())
	if err != nil {
		if cmd.Context().Err() != nil { // interrupted while it waited for open transactions
			return nil
		}
		return redacted(cfg, err)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "walrill: watching; each change that is committed from now on is explained, nothing is published")
	err = w.watch(cmd.Context(), stream)
	if cmd.Context().Err() != nil {
		err = nil
	}
	return redacted(cfg, errors.Join(err, stream.Close()))
}

// wantTable refuses a table whose changes would be waited for in vain.
func wantTable(ctx context.Context, cfg *config.Config, mapping transform.Mapping, name string) error {
	tables, err := capture.Tables(ctx, cfg.Source.URL.Reveal())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tables, func(t *change.Relation) bool { return t.String() == name })
	switch {
	case i < 0:
		var names []string
		for _, t := range tables {
			names = append(names, t.String())
		}
		return noTable(name, names)
	case !mapping.Takes(tables[i]):
		return noStreamTakes(ctx, cfg, name)
	}
	return nil
}

// watch reads until ctx ends, or enough was told.
func (w *watcher) watch(ctx context.Context, stream *capture.Stream) error {
	stop := context.AfterFunc(ctx, stream.Wake)
	defer stop()
	for (w.left != 0 || w.inside) && ctx.Err() == nil {
		item, err := stream.Next()
		if err != nil {
			return err
		}
		switch item.Kind {
		case change.ItemBegin:
			w.tx, w.inside, w.told = item.Tx, true, false
			w.mapper.Begin(item.Tx)
		case change.ItemChanges:
			for i := range item.Changes {
				if err := w.change(&item.Changes[i]); err != nil {
					return err
				}
			}
		case change.ItemCommit:
			err, w.inside = w.commit(), false
			stream.Confirm(item.Watermark)
		case change.ItemWatermark:
			stream.Confirm(item.Watermark)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// change explains one change. What would stop the pipeline is told, and the next change is explained.
func (w *watcher) change(c *change.Change) error {
	switch {
	case w.left == 0:
		return nil
	case c.Op == change.Message && (w.table != "" || !slices.Contains(w.prefixes, c.Prefix)):
		return nil
	case c.Op != change.Message && w.table != "" && c.Relation.String() != w.table:
		return nil
	}
	var events []event.Event
	var asked []transform.Asked
	w.mapper.SetBlocked(event.Blocked{}) // which keys are parked, and which no more, is the daemon's to know
	failed := rehearse.WithKeys(func() (err error) { events, asked, err = w.mapper.Trace(c); return err })
	w.left--
	w.told = true
	what := "message " + c.Prefix
	if c.Relation != nil {
		what = opName(c.Op) + " of " + c.Relation.String()
	}
	return w.print(what, events, asked, failed)
}

// commit tells of the events that need the whole transaction.
func (w *watcher) commit() error {
	events := w.mapper.Commit()
	if len(events) == 0 || !w.told {
		return nil
	}
	return w.print("commit", events, nil, nil)
}

func (w *watcher) print(what string, events []event.Event, asked []transform.Asked, failed error) error {
	if w.json {
		report := explained(events, asked)
		report.Change, report.LSN, report.Tx = what, w.tx.CommitLSN.String(), w.tx.XID
		if failed != nil {
			report.Error = failed.Error()
		}
		encoder := json.NewEncoder(w.out)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(report)
	}
	fmt.Fprintf(w.out, "%s, transaction %d at %s\n", what, w.tx.XID, w.tx.CommitLSN)
	if len(asked) > 0 || len(events) > 0 || failed == nil {
		printExplained(w.out, events, asked)
	}
	if failed != nil {
		fmt.Fprintf(w.out, "the pipeline would stop or park the key here: %v\n", failed)
	}
	_, err := fmt.Fprintln(w.out)
	return err
}

// explainMessage explains a logical message that somebody might write.
func (f *explainFlags) explainMessage(cmd *cobra.Command, content string) error {
	cfg, err := loadMapping(cmd)
	if err != nil {
		return err
	}
	mapping := mapfile.Mapping(cfg)
	m, err := transform.New(mapping, 0)
	if err != nil {
		return err
	}
	if prefixes := mapping.Prefixes(); !slices.Contains(prefixes, f.message) {
		if len(prefixes) == 0 {
			return errors.New("explain: no stream takes messages; write `messages: {prefix: …}` in one")
		}
		return usageError{fmt.Errorf("explain: no stream takes messages with the prefix %s%s", f.message, meant(f.message, prefixes))}
	}
	m.Begin(rehearse.Tx)
	events, asked, err := m.Explain(&change.Change{Op: change.Message, Prefix: f.message, Content: []byte(content)})
	if err != nil {
		return err
	}
	return f.print(cmd.OutOrStdout(), events, asked)
}
