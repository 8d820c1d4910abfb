package projector

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// DocumentOptions say which documents are kept, and of what they are made.
type DocumentOptions struct {
	Pipeline string
	Client   redis.UniversalClient // where the documents are
	Views    []DocumentView
	Store    *Projector // keeps the views that documents are made of; nil when all are of tables
	StoreURL string     // of the same

	// As in Options.
	Tables    func(context.Context) ([]Table, error)
	Open      func(ctx context.Context, streams []string, after event.Position) (Feed, error)
	Watermark func(context.Context) (uint64, error)
	Backfills Backfills
	Epoch     func(context.Context) (uint8, error)
	Log       *slog.Logger
}

// Documents keeps the views of one pipeline whose rows are documents in Redis. Each view is kept on its own: by one owner at a time,
// who has a lease, and with a serial number that each write moves, so that what comes late or twice is refused.
//
// The documents of a table are a function of the stream, and their position is in Redis with them. Those of a view in the store are a
// function of its rows: triggers note the keys of rows that change in the transaction that changes them, and each write takes
// all keys that are noted, with the rows as one snapshot has them, and forgets them when Redis has acknowledged.
type Documents struct {
	opts DocumentOptions

	mu     sync.Mutex
	status []DocumentStatus
}

// DocumentStatus is the state of a view whose rows are documents.
type DocumentStatus struct {
	ViewStatus
	Running  bool      // it is kept by this process
	Clock    uint64    // everything below is in the documents
	Progress *Progress // of live documents of a table, which read a stream themselves; else nil. Not to be changed
}

// NewDocuments makes a keeper; Run runs it.
func NewDocuments(o DocumentOptions) *Documents {
	d := &Documents{opts: o}
	for _, v := range o.Views {
		d.status = append(d.status, DocumentStatus{ViewStatus: ViewStatus{Name: v.Name, Kind: "document", State: stateFilling, Error: StateConnecting}})
	}
	return d
}

// Status may be asked for by any goroutine. It is in the order of the views.
func (d *Documents) Status() []DocumentStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.status)
}

func (d *Documents) note(view string, f func(*DocumentStatus)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.status[slices.IndexFunc(d.status, func(s DocumentStatus) bool { return s.Name == view })])
}

// keeper keeps one view from when it is the owner to when something fails.
type keeper interface {
	run(ctx context.Context) error
}

// Run keeps the documents until ctx ends, through every absence of their servers. It returns nil then, or a *SetupError.
func (d *Documents) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(d.opts.Views)+1)
	var group sync.WaitGroup
	for i := range d.opts.Views {
		group.Go(func() {
			if errs[i] = d.keep(ctx, &d.opts.Views[i]); errs[i] != nil {
				cancel()
			}
		})
	}
	group.Go(func() {
		d.forgetOthers(ctx)
		<-ctx.Done() // also when there is no view: who runs it takes an end for a reason to stop
	})
	group.Wait()
	return errors.Join(errs...)
}

// keep keeps one view, with a new keeper after each failure.
func (d *Documents) keep(ctx context.Context, v *DocumentView) error {
	if _, ok := d.opts.Client.(*redis.ClusterClient); ok {
		if err := v.checkCluster(); err != nil {
			return err
		}
	}
	owner, ran := rand.Text(), false
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		var k keeper
		store := newDocStore(d.opts.Client, d.opts.Pipeline, v)
		began := time.Now()
		if v.From == "" {
			store.owner = ":0:" + owner
			k = &directKeeper{documents: d, opts: &d.opts, view: v, store: store}
		} else {
			k = &storeKeeper{documents: d, opts: &d.opts, view: v, store: store}
		}
		err := k.run(ctx)
		d.note(v.Name, func(s *DocumentStatus) {
			ran = ran || s.Running
			s.Running = false
		})
		if ctx.Err() != nil {
			store.release()
			return nil
		}
		if _, permanent := errors.AsType[*SetupError](err); permanent && !ran {
			return err
		}
		if errors.Is(err, errAgain) {
			continue
		}
		if time.Since(began) > lastBackoff {
			wait = firstBackoff
		}
		d.note(v.Name, func(s *DocumentStatus) { s.Error = err.Error() })
		d.opts.Log.Warn("documents are not kept up now; trying again", "view", v.Name, "error", err, "in", wait)
		if pause(ctx, wait) != nil {
			return nil
		}
	}
}

// lead waits until the store's owner is the owner of the documents.
func (d *Documents) lead(ctx context.Context, v *DocumentView, store *docStore, entitled bool) error {
	told := false
	for {
		wait, err := store.claim(ctx, entitled)
		if err == nil && wait == 0 {
			var epoch uint8
			if epoch, err = inForce(ctx, d.opts.Epoch); err == nil && epoch > 0 {
				err = TellDocuments(ctx, d.opts.Client, d.opts.Pipeline, v, epoch)
			}
		}
		if err != nil || wait == 0 {
			return err
		}
		if !told {
			told = true
			d.note(v.Name, func(s *DocumentStatus) { s.Error = "another daemon keeps the documents" })
			d.opts.Log.Info("another daemon keeps the documents: waiting to take over", "view", v.Name)
		}
		if err := pause(ctx, min(wait+time.Millisecond, standbyPoll)); err != nil {
			return err
		}
	}
}
