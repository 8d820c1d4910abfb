package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
)

// parkedKey is a line of `parked list`.
type parkedKey struct {
	Stream  string `json:"stream"`
	Key     string `json:"key"`
	Changes int    `json:"changes"`
	Since   string `json:"since"` // position of the first, such as 0/16B3748:3
	Reason  string `json:"reason"`
}

func parkedKeys(list []event.Parked) []parkedKey {
	keys := []parkedKey{}
	for _, p := range list {
		i := slices.IndexFunc(keys, func(k parkedKey) bool { return k.Stream == p.Stream && k.Key == p.Key })
		if i < 0 {
			i = len(keys)
			keys = append(keys, parkedKey{Stream: p.Stream, Key: p.Key, Since: p.Position.String(), Reason: p.Reason})
		}
		keys[i].Changes++
	}
	return keys
}

func printParkedKeys(w io.Writer, keys []parkedKey) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STREAM\tKEY\tCHANGES\tSINCE\tREASON")
	for _, k := range keys {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", k.Stream, k.Key, k.Changes, k.Since, k.Reason)
	}
	return t.Flush()
}

// showParkedChanges prints the parked changes of a key.
func showParkedChanges(cmd *cobra.Command, stream, key string) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	list, err := parkedIn(cmd.Context(), cfg, stream)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(p event.Parked) bool { return p.Key != key })
	if len(list) == 0 {
		return notParked(stream, key)
	}
	for i := range list {
		printParkedChange(cmd.OutOrStdout(), &list[i])
	}
	return nil
}

func printParkedChange(w io.Writer, p *event.Parked) {
	ops := map[byte]string{'c': "insert", 'u': "update", 'd': "delete", 'r': "read"}
	fmt.Fprintf(w, "%s  %s  %s\n", p.Position, ops[p.Op], p.Table)
	if p.Reason != "" {
		fmt.Fprintf(w, "  reason  %s\n", p.Reason)
	}
	for _, row := range []struct {
		name   string
		values map[string]*string
	}{{"old", p.Old}, {"new", p.New}} {
		for _, column := range slices.Sorted(maps.Keys(row.values)) {
			text := "NULL"
			if v := row.values[column]; v != nil {
				text = fmt.Sprintf("%q", *v)
			}
			fmt.Fprintf(w, "  %-6s  %s = %s\n", row.name, column, text)
		}
	}
}

// parkedIn are the parked changes of a stream, of all streams when it is "".
func parkedIn(ctx context.Context, cfg *config.Config, stream string) ([]event.Parked, error) {
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return nil, redacted(cfg, err)
	}
	defer client.Close() //nolint:errcheck // it only read
	list, err := parkedOf(ctx, client, cfg.Pipeline, stream)
	if err == nil && stream != "" && len(list) == 0 { // one that has left the configuration may have something
		err = checkStreams(cfg, []string{stream})
	}
	return list, redacted(cfg, err)
}

func notParked(stream, key string) error {
	return fmt.Errorf("nothing of key %q in stream %s is parked; `walrill parked list` shows what is", key, stream)
}

func parkedOf(ctx context.Context, client redis.UniversalClient, pipeline, stream string) ([]event.Parked, error) {
	entries, err := readParked(ctx, client, pipeline)
	if err != nil {
		return nil, err
	}
	list, err := event.Unresolved(entries)
	return slices.DeleteFunc(list, func(p event.Parked) bool { return stream != "" && p.Stream != stream }), err
}

// settleParkedChanges has the daemon retry or drop the changes of a key, or of all keys of the stream when it is nil.
func settleParkedChanges(cmd *cobra.Command, action, stream string, key *string, timeout time.Duration) error {
	cfg, err := load(cmd)
	if err != nil {
		return err
	}
	list, err := parkedIn(cmd.Context(), cfg, stream)
	if err != nil {
		return err
	}
	keys := slices.DeleteFunc(parkedKeys(list), func(k parkedKey) bool { return key != nil && k.Key != *key })
	if len(keys) == 0 && key != nil {
		return notParked(stream, *key)
	}
	if len(keys) == 0 {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing is set aside\n", stream)
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	done := map[string]string{"retry": "published", "drop": "dropped"}[action]
	var errs []error
	for _, k := range keys {
		n, err := settleParkedKey(ctx, cfg, event.ParkedRequest{Pipeline: cfg.Pipeline, Action: action, Stream: stream, Key: k.Key})
		if n > 0 || err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "%s, key %s: changes %s: %d\n", stream, k.Key, done, n)
		}
		errs = append(errs, redacted(cfg, err))
	}
	return errors.Join(errs...)
}

// settleParkedKey asks the daemon for something and returns how many changes it was done for.
func settleParkedKey(ctx context.Context, cfg *config.Config, request event.ParkedRequest) (int, error) {
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return 0, err
	}
	defer client.Close() //nolint:errcheck // it only read
	others := func(p event.Parked) bool { return p.Key != request.Key }
	before, err := parkedOf(ctx, client, cfg.Pipeline, request.Stream)
	if before = slices.DeleteFunc(before, others); err != nil || len(before) == 0 {
		return 0, err
	}
	content, err := json.Marshal(request)
	if err != nil {
		return 0, err
	}
	lsn, err := capture.EmitMessage(ctx, cfg.Source.URL.Reveal(), event.ParkedPrefix, string(content))
	if err != nil {
		return 0, err
	}
	meta, err := readMeta(ctx, client, cfg.Pipeline)
	if err != nil {
		return 0, err
	}
	if err := awaitWatermark(ctx, client, cfg.Pipeline, event.Clock(meta.Epoch, uint64(lsn))); err != nil {
		return 0, err
	}
	after, err := parkedOf(ctx, client, cfg.Pipeline, request.Stream)
	after = slices.DeleteFunc(after, others)
	left := slices.DeleteFunc(slices.Clone(after), func(p event.Parked) bool { return p.Position.Compare(before[len(before)-1].Position) > 0 })
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s, key %s: still parked, changes: %d; %s", request.Stream, request.Key, len(after), left[0].Reason)
	}
	return len(before) - len(left), err
}

// awaitWatermark returns when everything below a clock is in Redis.
func awaitWatermark(ctx context.Context, client redis.UniversalClient, pipeline string, clock uint64) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		w, _, err := consumer.Watermark(ctx, client, pipeline)
		if err == nil && w >= clock {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.New("the daemon has not come to the request yet; it does what was asked when it streams: see `walrill status`, and later `walrill parked list`")
		}
	}
}
