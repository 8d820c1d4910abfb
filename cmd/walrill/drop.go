package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/projector"
)

// removal is a line of `walrill drop`.
type removal struct {
	Outcome string `json:"outcome"` // removed, would remove, not there, left or failed
	What    string `json:"what"`    // slot, publication, key or stream
	Name    string `json:"name"`
	Reason  string `json:"reason,omitempty"`
	Fix     string `json:"fix,omitempty"` // removes what is left
}

type dropFlags struct {
	sourceFlags
	streams, views, dry, json bool
}

func newDropCommand() *cobra.Command {
	var f dropFlags
	cmd := &cobra.Command{
		Use:   "drop",
		Short: "Remove a pipeline: its slot, its publication, its control keys, and what its views need",
		Long: `Removes the replication slot, the publication if walrill made it, and the control keys in Redis; with
--streams the streams too, those that are recorded as the pipeline's; from streams that stay, the consumer groups of its views. It asks nothing. The daemon must be stopped.
In the view store it removes the mirrors and walrill's own tables, those that no other pipeline needs; with --views the tables of the
views too.

It can be repeated, and does what it can when one of the servers is away; then it ends with 1.

Streams that stay keep the keys that describe them, :meta and :catalogue, and the pipeline does not start again by
mistake: it wants 'walrill adopt', to continue them, or 'walrill drop --streams'.`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.streams, "streams", false, "remove the streams as well")
	cmd.Flags().BoolVar(&f.views, "views", false, "remove the tables and documents of the views as well")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "only say what would be removed")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *dropFlags) run(cmd *cobra.Command) error {
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	list, err := f.drop(cmd.Context(), cfg)
	for i := range list {
		list[i].Reason = redact(cfg, list[i].Reason)
	}
	if len(list) > 0 {
		if e := f.print(cmd.OutOrStdout(), list); e != nil {
			return e
		}
	}
	if err != nil {
		return redacted(cfg, err)
	}
	if slices.ContainsFunc(list, func(r removal) bool { return r.Outcome == capture.NotRemoved }) {
		return errors.New("drop: not everything could be removed; run it again when that is mended")
	}
	return nil
}

// drop removes in an order that lets it be repeated after a crash at any point: first :meta says that the pipeline
// is dropped, so that it does not start half, and :meta goes last, since it lists the streams.
func (f *dropFlags) drop(ctx context.Context, cfg *config.Config) ([]removal, error) {
	source, err := newSource(cfg, mapfile.Mapping(cfg), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, err
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // what it did was acknowledged
	meta, redisErr := readMeta(ctx, client, cfg.Pipeline)
	if err := f.stopped(ctx, cfg, source, meta); err != nil {
		return nil, err
	}
	list, err := f.dropViews(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if redisErr == nil && !meta.IsZero() && !f.dry {
		meta.Dropped, meta.HTTP = time.Now().UTC().Format(time.RFC3339), ""
		if err := client.HSet(ctx, event.MetaKey(cfg.Pipeline), meta.Fields()).Err(); err != nil {
			redisErr = fmt.Errorf("write %s: %w", event.MetaKey(cfg.Pipeline), err)
		}
	}
	removals, err := source.Drop(ctx, f.dry)
	for _, r := range removals {
		list = append(list, removal(r))
	}
	if err != nil {
		list = append(list,
			removal{capture.NotRemoved, "slot", cfg.Source.Slot, err.Error(), "walrill drop   # when Postgres can be reached"},
			removal{capture.NotRemoved, "publication", cfg.Source.Publication, "the same", ""})
	}
	if redisErr != nil {
		for _, key := range event.ControlKeys(cfg.Pipeline) {
			list = append(list, removal{capture.NotRemoved, "key", key, redisErr.Error(), "walrill drop   # when Redis can be reached"})
		}
		return list, nil
	}
	d := &dropper{f, ctx, client, cfg.Pipeline, viewNames(cfg, list), meta, list}
	d.redis()
	views := event.ViewsPipeline(cfg.Pipeline)
	if d.meta, err = readMeta(ctx, client, views); emittedStreams(cfg) == nil && redis.HasErrorPrefix(err, "NOPERM") {
		return d.list, nil // who has not the rights of views that emit has made nothing of them
	} else if err != nil {
		d.list = append(d.list, removal{capture.NotRemoved, "key", event.MetaKey(views), err.Error(), "walrill drop   # when Redis can be reached"})
	} else if !d.meta.IsZero() {
		d.pipeline = views
		d.redis()
	}
	return d.list, nil
}

// dropViews removes what is in the view store. It comes first: while somebody keeps the views, nothing is removed at all.
func (f *dropFlags) dropViews(ctx context.Context, cfg *config.Config) ([]removal, error) {
	if cfg.Views.Store.IsZero() {
		return f.dropDocuments(ctx, cfg), nil
	}
	removals, err := projector.Drop(ctx, projectorOptions(cfg, nil, slog.New(slog.DiscardHandler)), f.views, f.dry)
	var kept *projector.KeptError
	if errors.As(err, &kept) {
		return nil, fmt.Errorf("drop: %w", err)
	}
	var list []removal
	for _, r := range removals {
		line := removal{Outcome: capture.Removed, What: r.What, Name: r.Name, Reason: r.Left, Fix: r.Fix}
		switch {
		case r.Err != nil:
			line.Outcome, line.Reason = capture.NotRemoved, r.Err.Error()
		case !r.There:
			line.Outcome = capture.NotThere
		case r.Left != "":
			line.Outcome = capture.Left
		case f.dry:
			line.Outcome = capture.WouldRemove
		}
		list = append(list, line)
	}
	if err != nil {
		list = append(list, removal{capture.NotRemoved, "views", "in their store", err.Error(), "walrill drop   # when it can be reached"})
	}
	return append(list, f.dropDocuments(ctx, cfg)...), nil
}

// stopped refuses while a daemon is at work. Postgres knows who streams; a daemon that waits for something answers over HTTP.
func (f *dropFlags) stopped(ctx context.Context, cfg *config.Config, source *capture.Source, meta event.Meta) error {
	err := awaitFree(ctx, source, cfg.Source.Slot)
	var busy *busyError
	if errors.As(err, &busy) {
		return fmt.Errorf("drop: %w", err)
	}
	report, err := askDaemon(ctx, meta.HTTP)
	if err == nil && report.Pipeline == cfg.Pipeline && report.Source.Slot == cfg.Source.Slot {
		return fmt.Errorf("drop: a daemon of pipeline %s answers on %s (%s): stop it first, with SIGTERM", cfg.Pipeline, meta.HTTP, report.State)
	}
	return nil
}

// dropper is the part of drop in Redis.
type dropper struct {
	*dropFlags
	ctx      context.Context
	client   redis.UniversalClient
	pipeline string
	named    map[string]bool // views
	meta     event.Meta
	list     []removal
}

func (d *dropper) redis() {
	kept := false // streams that :meta and :catalogue describe
	for _, name := range slices.Sorted(maps.Keys(d.meta.Streams)) {
		if s := event.NewStream(name, d.meta.Streams[name]); d.stream(s) {
			kept = true
			d.groups(s)
		}
	}
	meta, catalogue := event.MetaKey(d.pipeline), event.CatalogueKey(d.pipeline)
	for _, key := range slices.Concat(d.claims(), event.ControlKeys(d.pipeline)) { // :meta last
		if kept && (key == meta || key == catalogue) {
			d.list = append(d.list, removal{capture.Left, "key", key, "it describes the streams that are left", ""})
			continue
		}
		outcome, err := d.unlink(key)
		r := removal{Outcome: outcome, What: "key", Name: key}
		if err != nil {
			r.Reason, r.Fix = err.Error(), "redis-cli UNLINK '"+key+"'   # as a user who may"
		}
		d.list = append(d.list, r)
	}
	if d.meta.IsZero() {
		d.list = append(d.list, removal{capture.Left, "streams", "unknown", "without " + meta + " it is not known which are the pipeline's", "redis-cli --scan   # and UNLINK those that nobody needs"})
	}
}

// claims are the keys that a Redis Cluster has for each partition.
func (d *dropper) claims() (keys []string) {
	if _, ok := d.client.(*redis.ClusterClient); !ok {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.meta.Streams)) {
		for _, key := range event.NewStream(name, d.meta.Streams[name]).Keys {
			keys = append(keys, event.PartitionWriterKey(d.pipeline, key))
		}
	}
	return keys
}

// stream removes a stream's keys, or says that they are left, and reports whether any is still there.
func (d *dropper) stream(s *event.Stream) (left bool) {
	r := removal{Outcome: capture.NotThere, What: "stream", Name: s.Name}
	for _, key := range s.Keys {
		kind, err := d.client.Type(d.ctx, key).Result()
		if err == nil && kind == "none" {
			continue
		}
		if err == nil && kind != "stream" {
			d.list = append(d.list, removal{capture.Left, "key", key, "it is a " + kind + ", and not walrill's", ""})
			continue
		}
		if err == nil && !d.streams {
			r.Outcome, r.Reason, r.Fix = capture.Left, fmt.Sprintf("its entries may still be read (%d keys)", len(s.Keys)), "walrill drop --streams"
			left = true
			break
		}
		outcome := capture.NotRemoved
		if err == nil {
			outcome, err = d.unlink(key)
		}
		if err != nil {
			r.Outcome, r.Reason, r.Fix = outcome, err.Error(), "redis-cli ACL SETUSER <user> +type +unlink   # or let another user do it"
			left = true
			break
		}
		r.Outcome = outcome
	}
	d.list = append(d.list, r)
	return left
}

// unlink removes a key, or looks whether it would.
func (d *dropper) unlink(key string) (outcome string, err error) {
	var n int64
	if outcome = capture.Removed; d.dry {
		outcome = capture.WouldRemove
		n, err = d.client.Exists(d.ctx, key).Result()
	} else {
		n, err = d.client.Unlink(d.ctx, key).Result()
	}
	switch {
	case err != nil:
		return capture.NotRemoved, fmt.Errorf("remove %s: %w", key, err)
	case n == 0:
		return capture.NotThere, nil
	}
	return outcome, nil
}

func (f *dropFlags) print(w io.Writer, list []removal) error {
	if f.json {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(list)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range list {
		line := fmt.Sprintf("%s\t%s %s", r.Outcome, r.What, r.Name)
		if r.Reason != "" {
			line += "\t" + strings.ReplaceAll(r.Reason, "\n", "; ")
		}
		if r.Fix != "" {
			line += "; " + r.Fix
		}
		fmt.Fprintln(t, line)
	}
	return t.Flush()
}
