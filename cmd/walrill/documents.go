package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/projector"
)

// viewKeeper is what keeps a configuration's views: those in the store, and those that are documents in Redis.
type viewKeeper struct {
	store     *projector.Projector // nil when no view is kept in Postgres in whole transactions
	keyed     *projector.Keyed     // nil when none is kept there key by key
	documents *projector.Documents // nil when none is
	views     []projector.DocumentView
	client    redis.UniversalClient // of the documents
}

func newViewKeeper(cfg *config.Config, client redis.UniversalClient, log *slog.Logger) (*viewKeeper, error) {
	k := &viewKeeper{views: documentsOf(cfg)}
	o := projectorOptions(cfg, client, log)
	for _, group := range groupOptions(cfg, client, log) {
		if group.Workers > 0 {
			k.keyed = projector.NewKeyed(group)
		} else {
			k.store = projector.New(group)
		}
	}
	var err error
	if k.client, err = documentClient(cfg); err != nil {
		return nil, err
	}
	k.documents = projector.NewDocuments(projector.DocumentOptions{Pipeline: cfg.Pipeline, Client: k.client, Views: k.views, Store: k.store, StoreURL: o.StoreURL,
		Tables: o.Tables, Open: o.Open, Watermark: o.Watermark, Backfills: o.Backfills, Epoch: o.Epoch, Log: log})
	return k, nil
}

func (k *viewKeeper) start(p *parts) {
	if k.store != nil {
		p.run(k.store.Run)
	}
	if k.keyed != nil {
		p.run(k.keyed.Run)
	}
	if k.documents != nil {
		p.run(k.documents.Run)
	}
}

// inStore are the states of the projectors of views in Postgres.
func (k *viewKeeper) inStore() (list []projector.Status) {
	if k.store != nil {
		list = append(list, k.store.Status())
	}
	if k.keyed != nil {
		list = append(list, k.keyed.Status())
	}
	return list
}

func (k *viewKeeper) close() {
	if k.client != nil {
		k.client.Close() //nolint:errcheck // what it wrote was acknowledged
	}
}

// documentsOf are the views that are documents.
func documentsOf(cfg *config.Config) []projector.DocumentView {
	var list []projector.DocumentView
	for _, v := range cfg.Views.List {
		if v.Document == nil {
			continue
		}
		d := projector.DocumentView{Name: v.Name, Hash: v.As == config.DocumentHash, From: v.From, Table: viewOf(v), Where: v.At.String()}
		for _, p := range v.Document {
			d.Pattern = append(d.Pattern, projector.KeyPart{Text: p.Text, Column: p.Column})
		}
		list = append(list, d)
	}
	return list
}

// documentClient is a client of the Redis that has the documents.
func documentClient(cfg *config.Config) (redis.UniversalClient, error) {
	url := cfg.Views.Documents
	if url.IsZero() {
		url = cfg.Sink.URL
	}
	return consumer.NewClient(url.Reveal())
}

// withDocuments runs f for a view that is documents. ok is false when it is none.
func withDocuments(ctx context.Context, cfg *config.Config, view string, f func(context.Context, redis.UniversalClient, *projector.DocumentView) error) (ok bool, err error) {
	for _, v := range documentsOf(cfg) {
		if v.Name != view {
			continue
		}
		client, err := documentClient(cfg)
		if err != nil {
			return true, redacted(cfg, err)
		}
		defer client.Close() //nolint:errcheck // what it did was acknowledged
		return true, redacted(cfg, f(ctx, client, &v))
	}
	return false, nil
}

// parkedDocuments are those that documents have set aside: of one view, or of all when it is "".
func parkedDocuments(ctx context.Context, cfg *config.Config, view string) (list []projector.Parked, err error) {
	for _, v := range documentsOf(cfg) {
		if view != "" && v.Name != view {
			continue
		}
		_, err := withDocuments(ctx, cfg, v.Name, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) error {
			parked, err := projector.ListParkedDocuments(ctx, client, cfg.Pipeline, v)
			list = append(list, parked...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// checkStore looks at the views in Postgres, if there are any.
func checkStore(ctx context.Context, cfg *config.Config) []projector.Finding {
	if cfg.Views.Store.IsZero() {
		return nil
	}
	return projector.Check(ctx, projectorOptions(cfg, nil, slog.New(slog.DiscardHandler)))
}

// checkDocuments looks at the views that are documents.
func checkDocuments(ctx context.Context, cfg *config.Config) (list []projector.Finding) {
	options := projectorOptions(cfg, nil, slog.New(slog.DiscardHandler))
	for _, v := range documentsOf(cfg) {
		_, err := withDocuments(ctx, cfg, v.Name, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) error {
			list = append(list, projector.CheckDocuments(ctx, options, client, v))
			return nil
		})
		if err != nil {
			list = append(list, projector.Finding{Subject: "view " + v.Name, Finding: err.Error()})
		}
	}
	return list
}

// dropDocuments removes the documents of views, or says that they are left.
func (f *dropFlags) dropDocuments(ctx context.Context, cfg *config.Config) (list []removal) {
	for _, v := range documentsOf(cfg) {
		r := removal{What: "documents", Name: v.Name}
		_, err := withDocuments(ctx, cfg, v.Name, func(ctx context.Context, client redis.UniversalClient, v *projector.DocumentView) error {
			n, err := projector.DropDocuments(ctx, client, cfg.Pipeline, v, f.dry || !f.views)
			switch {
			case n < 0:
				r.Outcome = capture.NotThere
			case !f.views:
				r.Outcome, r.Reason, r.Fix = capture.Left, fmt.Sprintf("they stay as they are (%d keys)", n), "walrill drop --views"
			case f.dry:
				r.Outcome = capture.WouldRemove
			default:
				r.Outcome = capture.Removed
			}
			return err
		})
		if err != nil {
			r.Outcome, r.Reason, r.Fix = capture.NotRemoved, err.Error(), "walrill drop --views   # when that Redis can be reached"
		}
		list = append(list, r)
	}
	return list
}
