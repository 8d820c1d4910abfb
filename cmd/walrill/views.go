package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/mapfile"
	"github.com/walrill/walrill/projector"
	"github.com/walrill/walrill/transform"
)

// groupOptions are those of the projectors that keep a configuration's views in Postgres together: of the views that are kept in whole
// transactions, and of those that are kept key by key. A group without views is left out.
func groupOptions(cfg *config.Config, client redis.UniversalClient, log *slog.Logger) []projector.Options {
	whole := projectorOptions(cfg, client, log)
	keyed := whole
	whole.Views, keyed.Views = nil, nil
	for _, v := range cfg.Views.List {
		switch {
		case v.Document != nil:
		case v.Consistency == config.ConsistencyKey:
			keyed.Views = append(keyed.Views, viewOf(v))
			whole.Leaving = append(whole.Leaving, v.Name)
		default:
			whole.Views = append(whole.Views, viewOf(v))
			keyed.Leaving = append(keyed.Leaving, v.Name)
		}
	}
	keyed.Pipeline, keyed.Workers = projector.KeyGroup(cfg.Pipeline), cfg.Views.Workers
	whole.Other, keyed.Other = keyed.Pipeline, whole.Pipeline
	return slices.DeleteFunc([]projector.Options{whole, keyed}, func(o projector.Options) bool { return len(o.Views) == 0 })
}

func projectorOptions(cfg *config.Config, client redis.UniversalClient, log *slog.Logger) projector.Options {
	f := &feeds{client, cfg.Pipeline, log}
	return projector.Options{
		Pipeline: cfg.Pipeline,
		StoreURL: cfg.Views.Store.Reveal(),
		Schema:   cfg.Views.Schema,
		Views:    viewsOf(cfg),
		Tables:   func(ctx context.Context) ([]projector.Table, error) { return tablesOf(ctx, cfg) },
		Events:   func(ctx context.Context) ([]projector.EventType, error) { return eventTypesOf(ctx, cfg) },
		Nearest:  config.Nearest,
		Whole:    func(ctx context.Context, streams []string) error { return untrimmed(ctx, client, cfg, streams) },
		Repair: func(ctx context.Context) (string, error) {
			meta, err := readMeta(ctx, client, cfg.Pipeline)
			return meta.Repair, err
		},
		Open: func(ctx context.Context, streams []string, after event.Position) (projector.Feed, error) {
			return f.open(ctx, streams, after, nil)
		},
		OpenSome: f.open,
		Partitions: func(ctx context.Context, streams []string) ([]string, error) {
			return consumer.Partitions(ctx, client, cfg.Pipeline, streams)
		},
		Schemas:   func(ctx context.Context, list []event.Schema) error { return judgeEmitted(ctx, client, cfg, list) },
		Epoch:     func(ctx context.Context) (uint8, error) { return consumer.Epoch(ctx, client, cfg.Pipeline) },
		Backfills: &viewBackfills{&backfillStore{client: client, pipeline: cfg.Pipeline}},
		Log:       log,
		Watermark: func(ctx context.Context) (uint64, error) {
			w, _, err := consumer.Watermark(ctx, client, cfg.Pipeline)
			return w, err
		},
	}
}

func viewsOf(cfg *config.Config) []projector.View {
	var list []projector.View
	for _, v := range cfg.Views.List {
		if v.Document != nil {
			continue
		}
		list = append(list, viewOf(v))
	}
	return list
}

func viewOf(v config.View) projector.View {
	view := projector.View{Name: v.Name, Mirror: v.Mirror, Include: plainNames(v.Columns.Include), Exclude: plainNames(v.Columns.Exclude),
		Key: v.Key, Query: v.Query, Affects: map[string]string{}, Where: v.At.String(), ByKey: v.Consistency == config.ConsistencyKey}
	if v.Columns.Rename != nil {
		view.Rename = map[string]string{}
	}
	for _, r := range v.Columns.Rename {
		view.Rename[r.From.Name] = r.To
	}
	for _, a := range v.Affects {
		view.Affects[a.Table] = a.SQL
	}
	addFold(&view, v.Fold)
	view.Emit = emitOf(v.Emit)
	return view
}

func plainNames(names []config.Name) []string {
	var list []string
	for _, n := range names {
		list = append(list, n.Name)
	}
	return list
}

// mappedTables are the tables of the source as they are now, and what maps them.
func mappedTables(ctx context.Context, cfg *config.Config) ([]*change.Relation, *transform.Mapper, error) {
	rels, err := capture.Tables(ctx, cfg.Source.URL.Reveal())
	if err != nil {
		return nil, nil, err
	}
	mapper, err := transform.New(mapfile.Mapping(cfg), 0)
	return rels, mapper, err
}

// tablesOf are the tables that the streams take, each with the first stream that has its rows as they are, or with what it lacks.
func tablesOf(ctx context.Context, cfg *config.Config) ([]projector.Table, error) {
	rels, mapper, err := mappedTables(ctx, cfg)
	if err != nil {
		return nil, err
	}
	streams, lacks, orders := map[string]string{}, map[string]string{}, map[string][]string{}
	for _, rel := range rels {
		stream, order, why := mapper.RowsOf(rel)
		switch {
		case stream != nil:
			streams[rel.String()], orders[rel.String()] = stream.Name, order
		case why != "":
			streams[rel.String()], lacks[rel.String()] = "", why
		}
	}
	tables, err := projector.ReadTables(ctx, cfg.Source.URL.Reveal(), streams)
	for i := range tables {
		tables[i].Lacks, tables[i].Order = lacks[tables[i].Name], orders[tables[i].Name]
	}
	return tables, err
}

// viewBackfills asks the daemon that captures for backfills.
type viewBackfills struct{ store *backfillStore }

// Look implements projector.Backfills.
func (v *viewBackfills) Look(ctx context.Context, table string) (projector.Backfill, error) {
	records, err := v.store.Load(ctx)
	if err != nil {
		return projector.Backfill{}, err
	}
	record := records[table]
	b := projector.Backfill{Known: record.State != nil || record.Request != nil}
	if r := record.Request; r != nil {
		b.Pending, b.PendingWhole = r.ID, r.Action == "start" && r.Where == ""
	}
	s := record.State
	if s == nil {
		return b, nil
	}
	b.Done, b.Whole, b.Request = s.State == capture.BackfillDone && !record.Lost, s.Where == "", s.Request
	switch s.State {
	case capture.BackfillFailed:
		b.Error = s.Error
	case capture.BackfillCancelled:
		b.Error, b.Cancelled = "it was cancelled", true
	}
	for _, place := range []struct {
		text  string
		clock *uint64
	}{{s.LSN, &b.Clock}, {s.End, &b.End}, {s.Complete, &b.Complete}} {
		if *place.clock, err = clockOf(place.text, s.Epoch); err != nil {
			return b, fmt.Errorf("read the backfill of %s: %w", table, err)
		}
	}
	return b, nil
}

// clockOf reads an LSN, with its epoch in front when it is not that of the caller, such as 1@0/16B3748. Without text it is 0.
func clockOf(text string, epoch uint8) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	if before, after, ok := strings.Cut(text, "@"); ok {
		n, err := strconv.ParseUint(before, 10, 8)
		if err != nil {
			return 0, fmt.Errorf("%s: want an epoch and an LSN, such as 1@0/16B3748", text)
		}
		epoch, text = uint8(n), after
	}
	lsn, err := change.ParseLSN(text)
	return event.Clock(epoch, uint64(lsn)), err
}

// Request implements projector.Backfills. What somebody else has asked for, and nobody has seen to, will do.
func (v *viewBackfills) Request(ctx context.Context, table string) (string, error) {
	b, err := v.Look(ctx, table)
	if err != nil {
		return "", err
	}
	if b.PendingWhole && b.Pending != b.Request && projector.RequestNumber(b.Pending) > 0 {
		return b.Pending, nil
	}
	number := max(projector.RequestNumber(b.Pending), projector.RequestNumber(b.Request)) + 1
	request := event.BackfillRequest{ID: fmt.Sprintf("%d-%s", number, rand.Text()), Action: "start", At: time.Now().UTC()}
	return request.ID, v.store.request(ctx, table, request)
}

// request leaves a request for the daemon that captures.
func (s *backfillStore) request(ctx context.Context, table string, request event.BackfillRequest) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if err := s.client.HSet(ctx, event.BackfillKey(s.pipeline), event.BackfillRequestField(table), text).Err(); err != nil {
		return fmt.Errorf("write %s: %w", event.BackfillKey(s.pipeline), err)
	}
	return nil
}
