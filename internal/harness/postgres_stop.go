package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Shutdown ends the cluster with a fast shutdown and keeps its data. A fast
// shutdown waits until each walsender's client has confirmed all WAL, which one
// that stalls never does, so after two seconds an immediate one follows.
func (p *Postgres) Shutdown() error { return p.halt(syscall.SIGINT, syscall.SIGQUIT) }

// Kill ends every process of the cluster with SIGKILL, as a crash of the machine
// does (what the kernel holds of its files stays). Start then recovers it.
func (p *Postgres) Kill() error { return p.halt() }

// Restart is Shutdown and Start.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.Shutdown(); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Stop ends the cluster for good and removes its temporary directory. It may be
// called more than once. Data that nobody will read are not worth a checkpoint:
// the shutdown is an immediate one then, and a fast one when the directory stays.
func (p *Postgres) Stop() error {
	stop := p.Shutdown
	if p.isTemporary() {
		stop = func() error { return p.halt(syscall.SIGQUIT) }
	}
	err := stop()
	if p.isTemporary() {
		removeSharedMemory(filepath.Join(p.data(), "postmaster.pid"))
	}
	for _, d := range p.temps {
		err = errors.Join(err, d.remove())
	}
	return err
}

func (p *Postgres) isTemporary() bool { return len(p.temps) > 0 && p.temps[0].path == p.dir }

// halt sends the signals in turn, SIGKILL last, and returns when no process of
// the cluster is left: children of a killed postmaster outlive it for a moment,
// and a new one would refuse to start beside them.
func (p *Postgres) halt(signals ...os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return nil
	}
	if err := p.proc.stop(2*time.Second, signals...); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for killThoseIn(p.data()) > 0 {
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("stop postgres: its children in %s do not end", p.data())
		}
	}
	return nil
}
