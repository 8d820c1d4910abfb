package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
)

type tailFlags struct {
	sink, pipeline string
	last           int
	from           string
	count          int
	json           bool
	noFollow       bool
	upcast         bool
}

func newTailCommand() *cobra.Command {
	var f tailFlags
	cmd := &cobra.Command{
		Use:   "tail STREAM...",
		Short: "Show the events of streams as they arrive, in commit order",
		Long: `Shows the last events of one or more streams and follows them, all partitions merged in commit order.

  walrill tail orders               the last 10 events, then new ones
  walrill tail orders -n 0          new events only
  walrill tail orders --from 0      everything from the beginning
  walrill tail orders --no-follow   stop at the end
  walrill tail orders --upcast      every event as its newest version, by the upcast rules of the configuration`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("walrill tail takes one or more names of streams, such as `walrill tail orders`")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	cmd.Flags().StringVar(&f.sink, "sink", "", "Redis URL; instead of a configuration file")
	cmd.Flags().StringVar(&f.pipeline, "pipeline", config.DefaultPipeline, "the pipeline's name, with --sink")
	cmd.Flags().IntVarP(&f.last, "last", "n", 10, "how many events of the past to start with")
	cmd.Flags().StringVar(&f.from, "from", "", "start after this entry ID instead, such as 23803720-3; 0 is the beginning")
	cmd.Flags().IntVar(&f.count, "count", 0, "stop after so many events; 0 does not")
	cmd.Flags().BoolVar(&f.json, "json", false, "one JSON object a line")
	cmd.Flags().BoolVar(&f.noFollow, "no-follow", false, "stop at the end instead of waiting for more")
	cmd.Flags().BoolVar(&f.upcast, "upcast", false, "turn the data of earlier versions into the newest; end at an event that cannot be")
	return cmd
}

func (f *tailFlags) run(cmd *cobra.Command, streams []string) error {
	from, err := f.start()
	if err != nil {
		return err
	}
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	pipeline, err := pipelineOf(cfg, streams)
	if err != nil {
		return err
	}
	upcaster, err := f.upcaster(cfg)
	if err != nil {
		return err
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil && f.sink != "" {
		err = usageError{fmt.Errorf("--sink: %w", err)}
	}
	if err != nil {
		return redacted(cfg, err)
	}
	defer client.Close() //nolint:errcheck // it only read
	// What cannot be read here is said by what follows.
	if meta, err := readMeta(cmd.Context(), client, pipeline); err == nil {
		for _, note := range notYet(pipeline, meta, streams) {
			fmt.Fprintln(cmd.ErrOrStderr(), "walrill:", note)
		}
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	p := printer{out: out, upcaster: upcaster, json: f.json, color: !f.json && isTerminal(cmd.OutOrStdout()), several: len(streams) > 1}
	err = f.follow(cmd.Context(), consumer.Options{
		Client: client, Pipeline: pipeline, Streams: streams, From: from, NoFollow: f.noFollow,
		Notify: func(n consumer.Notice) { fmt.Fprintln(cmd.ErrOrStderr(), "walrill:", redact(cfg, fmt.Sprint(n))) },
	}, &p, cmd.ErrOrStderr())
	return redacted(cfg, errors.Join(err, out.Flush()))
}

// upcaster is nil without --upcast.
func (f *tailFlags) upcaster(cfg *config.Config) (*consumer.Upcaster, error) {
	switch {
	case !f.upcast:
		return nil, nil
	case f.sink != "":
		return nil, usageError{errors.New("--upcast goes by the rules of a configuration file, which --sink does without; name the file with -c FILE")}
	}
	return mapfile.UpcasterOf(cfg)
}

// pipelineOf is the pipeline whose watermark says how far some streams are: that of the views for what they emit.
func pipelineOf(cfg *config.Config, names []string) (string, error) {
	emitted := emittedStreams(cfg)
	n := 0
	for _, name := range names {
		if slices.Contains(emitted, name) {
			n++
		}
	}
	switch {
	case n == 0:
		return cfg.Pipeline, checkStreams(cfg, names)
	case n < len(names):
		return "", usageError{fmt.Errorf("streams of views (%s) have a watermark of their own: follow them by themselves", strings.Join(emitted, ", "))}
	}
	return event.ViewsPipeline(cfg.Pipeline), nil
}

// checkStreams refuses a name that the configuration does not have: its events
// would be waited for in vain. With a stream per table any name may come to be.
func checkStreams(cfg *config.Config, names []string) error {
	var known []string
	for _, s := range cfg.Streams {
		known = append(known, s.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) && !slices.Contains(known, "*") {
			return usageError{fmt.Errorf("the configuration has no stream %s%s", name, meant(name, append(known, emittedStreams(cfg)...)))}
		}
	}
	return nil
}

// notYet says which streams may be waited for in vain: a name or a pipeline may be mistyped, or may come to be.
func notYet(pipeline string, meta event.Meta, names []string) (notes []string) {
	if meta.IsZero() {
		return []string{fmt.Sprintf("there is no pipeline %s in this Redis yet", pipeline)}
	}
	for _, name := range names {
		if _, ok := meta.Streams[name]; !ok {
			notes = append(notes, fmt.Sprintf("pipeline %s has no stream %s yet%s", pipeline, name, meant(name, slices.Sorted(maps.Keys(meta.Streams)))))
		}
	}
	return notes
}

// load needs no more of the configuration than Redis and the pipeline's name.
func (f *tailFlags) load(cmd *cobra.Command) (*config.Config, error) {
	if f.sink == "" {
		cfg, err := load(cmd)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; or do without: `walrill tail STREAM --sink URL`", err)
		}
		return cfg, err
	}
	return &config.Config{Pipeline: f.pipeline, Sink: config.Sink{URL: config.NewURL(f.sink)}, Streams: []config.Stream{{Name: "*"}}}, nil
}

func (f *tailFlags) start() (consumer.From, error) {
	switch {
	case f.last < 0 || f.count < 0:
		return consumer.From{}, usageError{errors.New("-n and --count are numbers of events, from 0")}
	case f.from == "0":
		return consumer.Beginning(), nil
	case f.from != "":
		pos, err := event.ParseID(f.from)
		if err != nil {
			return consumer.From{}, usageError{fmt.Errorf("--from: %w", err)}
		}
		return consumer.After(pos), nil
	case f.last == 0:
		return consumer.Now(), nil
	}
	return consumer.Last(f.last), nil
}

// follow prints events until the end, count or ctx. A gap is told and passed.
func (f *tailFlags) follow(ctx context.Context, o consumer.Options, p *printer, warn io.Writer) error {
	reader, err := consumer.Open(ctx, o)
	if err != nil {
		return err
	}
	for n := 0; f.count == 0 || n < f.count; {
		if !reader.Ready() {
			if err := p.out.Flush(); err != nil {
				return err
			}
		}
		e, err := reader.Next(ctx)
		var gap *consumer.GapError
		switch {
		case errors.As(err, &gap):
			fmt.Fprintln(warn, "walrill:", gap)
			continue
		case errors.Is(err, io.EOF), errors.Is(err, context.Canceled) && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := p.print(&e); err != nil {
			return err
		}
		n++
	}
	return nil
}

// printer writes events, one a line.
type printer struct {
	out     *bufio.Writer
	json    bool
	color   bool
	several bool // name the stream
	// upcaster is nil when events are printed as they are.
	upcaster *consumer.Upcaster
}

// line is an event as `tail --json` prints it: the entry's fields, and where it stands.
type line struct {
	Stream    string          `json:"stream"`
	Partition int             `json:"partition"`
	ID        string          `json:"id"`
	Position  string          `json:"position"`
	Type      string          `json:"type"`
	Key       string          `json:"key,omitempty"`
	Op        string          `json:"op"`
	Table     string          `json:"table,omitempty"`
	Time      string          `json:"time"`
	Tx        uint32          `json:"tx,omitempty"`
	Seq       uint64          `json:"seq"`
	Schema    int             `json:"schema,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Old       json.RawMessage `json:"old,omitempty"`
	Unchanged json.RawMessage `json:"unchanged,omitempty"`
	Headers   json.RawMessage `json:"headers,omitempty"`
}

func (p *printer) print(e *event.Event) error {
	if p.upcaster != nil {
		if err := p.upcaster.Event(e); err != nil {
			return err
		}
	}
	if p.json {
		encoder := json.NewEncoder(p.out)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(line{
			Stream: e.Stream.Name, Partition: e.Partition, ID: e.Position.ID(), Position: e.Position.String(), Type: e.Type,
			Key: string(e.Key), Op: string(rune(e.Op)), Table: e.Table, Time: e.Time.Format(event.TimeFormat), Tx: e.Tx, Seq: e.Seq,
			Schema: e.Schema, Data: e.Data, Old: e.Old, Unchanged: e.Unchanged, Headers: e.Headers,
		})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-14s  ", e.Time.Format("15:04:05.000"), e.Position)
	if p.several {
		fmt.Fprintf(&b, "%s ", e.Stream.Name)
	}
	fmt.Fprintf(&b, "%s  %s", p.paint(bold, e.Type), p.paint(cyan, string(e.Key)))
	if len(e.Data) > 0 {
		fmt.Fprintf(&b, "  %s", e.Data)
	}
	if len(e.Old) > 0 {
		fmt.Fprintf(&b, "  %s %s", p.paint(dim, "old"), e.Old)
	}
	if len(e.Unchanged) > 0 {
		fmt.Fprintf(&b, "  %s %s", p.paint(dim, "unchanged"), e.Unchanged)
	}
	if len(e.Headers) > 0 {
		fmt.Fprintf(&b, "  %s %s", p.paint(dim, "headers"), e.Headers)
	}
	b.WriteByte('\n')
	_, err := p.out.WriteString(b.String())
	return err
}

// Terminal attributes.
const (
	bold = "1"
	dim  = "2"
	cyan = "36"
)

func (p *printer) paint(attribute, text string) string {
	if !p.color || text == "" {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}
