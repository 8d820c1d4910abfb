package projector

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// Views that are kept key by key are a group of their own in the store, a pipeline called KeyGroup. It is in one of two phases.
//
// Closed, one session leads, as with whole transactions: it merges all partitions and does all that is structural or hard. It fills and swaps
// tables, plans anew after DDL, empties tables, parks what the store refuses.
//
// Open, workers keep the views, over however many processes. The leader has dealt the partitions out, at its position, in walrill.workers.
// Who holds a worker's lease, an advisory lock, has raised the fence in its row, reads the worker's partitions only, and moves the worker's own
// position with each transaction. A key is in one partition for good, so its changes stay in order; the group is where the last of its workers is.
//
// What a worker cannot do alone it leaves, with the reason, in the group's row. The leader then raises the fences of all workers, which waits for
// transactions that are about to commit, and goes on from the lowest of their positions. By the last seq of each partition it passes over
// what is applied already. When the hard thing is behind it, it opens the group again.

// KeyGroup is what a pipeline's views are kept under in the store that are kept key by key. No pipeline can be called so.
func KeyGroup(pipeline string) string { return pipeline + "+key" }

// Groups are what a pipeline's views are kept under in the store.
func Groups(pipeline string) []string { return []string{pipeline, KeyGroup(pipeline)} }

// Keyed keeps views key by key, together with other processes: it may lead, and it works.
type Keyed struct {
	*Projector
	pool *pool
}

// NewKeyed makes one of options with Workers; Run runs it.
func NewKeyed(o Options) *Keyed {
	p := New(o)
	return &Keyed{p, newPool(&p.opts)}
}

// Run keeps the views until ctx ends, like Projector.Run.
func (k *Keyed) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { k.pool.run(ctx) })
	err := k.Projector.Run(ctx)
	cancel()
	group.Wait()
	return err
}

// Wait is Projector.Wait: the store knows where the workers are.
func (k *Keyed) Wait(ctx context.Context, view string, lsn uint64, timeout time.Duration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return k.waitStore(ctx, view, lsn)
}

// WorkersStatus is who keeps a group of views.
type WorkersStatus struct {
	Workers   int    // over all processes; 0 while one session keeps the views
	Processes int    // that take part
	Halt      string // what the workers stopped for
	Here      []WorkerStatus
}

// WorkerStatus is one that this process has.
type WorkerStatus struct {
	Worker       int
	Clock        uint64 // every event below, of its partitions, is in the views
	Events       uint64 // that it has read
	Transactions uint64 // of the store
	Partitions   []string
}

// Workers may be asked for by any goroutine.
func (k *Keyed) Workers() WorkersStatus { return k.pool.report() }

// deal gives each of n workers partitions, as evenly as it goes; fewer workers when there are not enough of them. Those of a stream of
// together stay in one hand, which merges them.
func deal(partitions []string, n int, together map[string]bool) [][]string {
	lots := map[string][]string{} // by stream or partition: what is dealt as one
	for _, key := range slices.Sorted(slices.Values(partitions)) {
		lot := key
		if i := strings.LastIndexByte(key, ':'); i >= 0 && together[key[:i]] {
			lot = key[:i]
		}
		lots[lot] = append(lots[lot], key)
	}
	hands := make([][]string, min(n, len(lots)))
	for i, lot := range sortedKeys(lots) {
		hands[i%len(hands)] = append(hands[i%len(hands)], lots[lot]...)
	}
	return hands
}

// share is how many of some workers one of some processes may have.
func share(workers, processes int) int {
	processes = max(processes, 1)
	return (workers + processes - 1) / processes
}

// haltError says what a worker cannot do alone.
type haltError struct {
	why string
	at  uint64 // the commit that it is of; 0 when it is of none
}

func (e *haltError) Error() string { return e.why }

// hard makes a haltError of what only who leads can deal with; nil of anything else.
func hard(err error, at uint64) *haltError {
	var halt *haltError
	var missing *MissingError
	var schema *SchemaError
	switch {
	case errors.As(err, &halt):
		return halt
	case errors.As(err, &missing), errors.As(err, &schema):
		return &haltError{err.Error(), at}
	case isDataError(err):
		return &haltError{"a row is refused: " + reason(err), at}
	}
	return nil
}
