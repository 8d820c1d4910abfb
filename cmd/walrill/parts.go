package main

import (
	"context"
	"errors"
	"sync"
)

// parts are what a daemon runs side by side. When one cannot go on, the others stop in order.
type parts struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

func newParts(ctx context.Context) *parts {
	p := &parts{}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

func (p *parts) run(f func(context.Context) error) {
	p.group.Go(func() {
		err := f(p.ctx)
		p.mu.Lock()
		p.errs = append(p.errs, err)
		p.mu.Unlock()
		p.cancel()
	})
}

// wait returns when all have ended, with what made them.
func (p *parts) wait() error {
	p.group.Wait()
	p.cancel()
	return errors.Join(p.errs...)
}

func (p *parts) stop() error {
	p.cancel()
	return p.wait()
}
