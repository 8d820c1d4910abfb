package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/internal/catalogue"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/transform"
)

// The forms of `walrill catalogue --format`.
const (
	catalogueMarkdown   = "markdown"
	catalogueJSON       = "json"
	catalogueJSONSchema = "jsonschema"
	catalogueAsyncAPI   = "asyncapi"
)

func newCatalogueCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "catalogue",
		Short: "Say what is published: streams, events, versions and fields of their data",
		Long: `Says what the pipeline publishes, from the configuration, the tables of Postgres with their comments, and the versions
and the newest entries in Redis. Changes nothing.

  walrill catalogue                       a page in Markdown
  walrill catalogue --format json         all of it for a program
  walrill catalogue --format jsonschema   JSON Schema (draft 2020-12) of each event's data
  walrill catalogue --format asyncapi     an AsyncAPI 3.0 document`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := catalogueWriter(format)
			if err != nil {
				return err
			}
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), checkTimeout)
			defer cancel()
			c, err := gatherCatalogue(ctx, cfg)
			if err != nil {
				return redacted(cfg, fmt.Errorf("catalogue: %w", err))
			}
			return write(cmd.OutOrStdout(), c)
		},
	}
	cmd.Flags().StringVar(&format, "format", catalogueMarkdown, "markdown, json, jsonschema or asyncapi")
	return cmd
}

func catalogueWriter(format string) (func(io.Writer, *catalogue.Catalogue) error, error) {
	var of func(*catalogue.Catalogue) any
	switch format {
	case catalogueMarkdown:
		return func(w io.Writer, c *catalogue.Catalogue) error {
			_, err := io.WriteString(w, c.Markdown())
			return err
		}, nil
	case catalogueJSON:
		of = func(c *catalogue.Catalogue) any { return c }
	case catalogueJSONSchema:
		of = (*catalogue.Catalogue).JSONSchema
	case catalogueAsyncAPI:
		of = (*catalogue.Catalogue).AsyncAPI
	default:
		return nil, usageError{fmt.Errorf("--format %s: want markdown, json, jsonschema or asyncapi", format)}
	}
	return func(w io.Writer, c *catalogue.Catalogue) error {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(of(c))
	}, nil
}

// gatherCatalogue asks Postgres for the tables and Redis for what was published of them.
func gatherCatalogue(ctx context.Context, cfg *config.Config) (*catalogue.Catalogue, error) {
	mapping := mapfile.Mapping(cfg)
	source, err := newSource(cfg, mapping, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, err
	}
	mapper, err := transform.New(mapping, 0)
	if err != nil {
		return nil, err
	}
	client, err := consumer.NewClient(cfg.Sink.URL.Reveal())
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // it only read
	versions, err := readVersions(ctx, client, cfg.Pipeline)
	if err != nil {
		return nil, err
	}
	tables, err := source.Describe(ctx)
	if err != nil {
		return nil, err
	}
	g := cataloguer{config: cfg, versions: versions, next: map[string]int{}}
	if err := g.gather(mapper, tables); err != nil {
		return nil, err
	}
	c := &catalogue.Catalogue{Pipeline: cfg.Pipeline, Format: string(cfg.Sink.Format), Streams: []catalogue.Stream{}}
	c.Host, c.TLS = redisHost(cfg.Sink.URL)
	for _, s := range mapper.Streams() {
		stream := catalogue.Stream{Name: s.Name, Keys: s.Keys, Events: append([]catalogue.Event{}, g.events[s.Name]...)}
		for _, configured := range cfg.Streams {
			if configured.Name == s.Name {
				stream.Description, stream.Owner = configured.About.Description, configured.About.Owner
				g.messages(mapper, &configured, &stream)
			}
		}
		if err := addSamples(ctx, client, &stream); err != nil {
			return nil, err
		}
		c.Streams = append(c.Streams, stream)
	}
	emitted, err := emittedCatalogue(ctx, cfg, client)
	c.Streams = append(c.Streams, emitted...)
	return c, err
}

// redisHost is empty for a socket, and for several hosts.
func redisHost(of config.URL) (host string, tls bool) {
	u, err := url.Parse(of.Reveal())
	if err != nil || strings.Contains(u.Host, ",") || u.Scheme == "unix" {
		return "", false
	}
	return u.Host, strings.HasPrefix(u.Scheme, "rediss")
}
