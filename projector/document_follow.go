package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/walrill/walrill/event"
)

// follow applies events until something fails or ctx ends.
func (k *directKeeper) follow(ctx context.Context) error {
	for {
		if k.batch.events == 0 && time.Now().After(k.tend) {
			if err := k.lookAfter(ctx); err != nil {
				return err
			}
			k.tend = time.Now().Add(tendEvery)
		}
		if k.batch.events == 0 && k.alter {
			if err := k.planAgain(ctx); err != nil {
				return err
			}
		}
		e, ok, err := k.step(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			if time.Since(k.store.called) > docRenew {
				if err := k.commit(ctx, k.pos.read); err != nil {
					return err
				}
			}
		case err != nil:
			return err
		case ok:
			if err := k.take(ctx, &e); err != nil {
				return err
			}
		default:
			if err := k.commit(ctx, k.feed.Watermark()); err != nil {
				return err
			}
		}
	}
}

// step waits for the feed, but no longer than until something is to be looked after.
func (k *directKeeper) step(ctx context.Context) (event.Event, bool, error) {
	if k.batch.events > 0 {
		return k.feed.Step(ctx)
	}
	limit := docRenew
	if k.fill != "" {
		limit = tendEvery
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return k.feed.Step(ctx)
}

// planAgain looks at a table that was altered. When the documents are to be others, a new keeper reads all rows anew.
func (k *directKeeper) planAgain(ctx context.Context) error {
	tables, err := k.opts.Tables(ctx)
	if err != nil {
		return err
	}
	def, err := planDirect(k.view, tables)
	if err != nil {
		return err
	}
	k.alter = false
	if sameJSON(def, k.def) {
		return nil
	}
	k.opts.Log.Info("a table was altered: its documents are written anew", "view", k.view.Name, "table", k.def.Mirror.Source)
	return errAgain
}

// take adds an event to the batch.
func (k *directKeeper) take(ctx context.Context, e *event.Event) error {
	if k.batch.events >= maxBatch && e.Position.Commit > k.batch.commit {
		if err := k.commit(ctx, e.Position.Commit); err != nil {
			return err
		}
	}
	if err := k.contiguous(e); err != nil {
		return err
	}
	k.batch.events++
	k.batch.commit = e.Position.Commit
	if e.Table != k.def.Mirror.Source {
		return nil
	}
	if e.Schema != k.shape && e.Schema != 0 {
		k.shape, k.alter = e.Schema, true
	}
	if k.fold.mayFlush(e) && (k.fold.bytes > maxDocumentKB<<10 || len(k.fold.order) >= maxDocuments) {
		if err := k.flush(ctx); err != nil {
			return err
		}
	}
	if k.fill == fillRebuild {
		if err := k.noteRead(e); err != nil {
			return err
		}
	}
	return k.fold.add(e, func(key []byte) (row, error) { return k.base(ctx, key) })
}

// noteRead remembers which keys a backfill alone has brought, so that it can be said how many documents were wrong.
func (k *directKeeper) noteRead(e *event.Event) error {
	if e.Op == 't' {
		clear(k.reads)
	}
	if e.Op == 't' || e.Op == 'm' {
		return nil
	}
	values, err := k.fold.parse(e, e.Data, false)
	if err != nil {
		return err
	}
	if k.reads == nil {
		k.reads = map[string]bool{}
	}
	key := string(k.fold.keyOf(values))
	if k.fold.changes[key] == nil && e.Op == 'r' {
		k.reads[key] = true
	} else if e.Op != 'r' {
		delete(k.reads, key)
	}
	return nil
}

// contiguous checks that nothing is missing in the event's partition.
func (k *directKeeper) contiguous(e *event.Event) error {
	key := e.Stream.Keys[e.Partition]
	if last := k.seqs[key]; e.Seq != last+1 {
		return gap(key, last, e)
	}
	k.seqs[key] = e.Seq
	k.dirty[key] = true
	return nil
}

// flush writes a part of a transaction that is too large for one call. Until all of it is there the view is filling, and whoever finds
// it so after a crash reads the table anew.
func (k *directKeeper) flush(ctx context.Context) error {
	ops, err := k.operations(ctx)
	if err != nil {
		return err
	}
	call := docCall{ops: ops, flags: k.flags() + docPart, fields: []string{"state", stateFilling}}
	return k.write(ctx, call)
}

func (k *directKeeper) flags() string {
	flags := ""
	if k.fill != "" {
		flags = docFresh
	}
	if k.fold.truncated {
		flags += docTruncate
	}
	return flags
}

func (k *directKeeper) write(ctx context.Context, call docCall) error {
	reply, err := k.store.writeAll(ctx, call)
	if err != nil {
		return err
	}
	k.diffs += reply.changed
	k.documents.note(k.view.Name, func(s *DocumentStatus) { s.Parked = int(reply.parked) })
	k.fold.reset()
	clear(k.reads)
	return nil
}

// live reports whether the documents are a state of the table.
func (k *directKeeper) live() bool { return k.fill == "" || k.fill == fillRebuild }

// commit writes the batch with the position that it leads to. Everything below clock has been handed out.
func (k *directKeeper) commit(ctx context.Context, clock uint64) error {
	ops, err := k.operations(ctx)
	if err != nil {
		return err
	}
	next := k.pos
	next.read = clock
	k.pos.read = clock
	call := docCall{ops: ops, flags: k.flags(), fields: k.stateFields(stateFilling)}
	if k.live() {
		next.shown = max(next.shown, clock)
		call.fields[1], call.position = stateLive, next.shown
	}
	diffs := k.diffs
	if err := k.write(ctx, call); err != nil {
		return err
	}
	if k.fill != fillRebuild {
		k.diffs = diffs
	}
	k.pos, k.batch = next, batch{}
	clear(k.dirty)
	k.tell()
	return nil
}

// operations are what brings the documents to the state that the fold has gathered.
func (k *directKeeper) operations(ctx context.Context) ([]docOp, error) {
	if err := k.complete(ctx); err != nil {
		return nil, err
	}
	ops := make([]docOp, 0, len(k.fold.order))
	for _, c := range k.fold.order {
		key, _, err := k.view.keyOf(c.key)
		if err != nil {
			return nil, err
		}
		kind := byte('s')
		switch {
		case c.row == nil:
			ops = append(ops, docOp{kind: 'd', key: key})
			continue
		case !c.row.complete():
			continue // its backfill is still to come
		case k.reads[string(c.key)]:
			kind = 'c'
		}
		op, err := k.store.set(kind, key, k.fold.object(c.row))
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// complete fills in what Postgres did not send of large values, from the documents as they are.
func (k *directKeeper) complete(ctx context.Context) error {
	for _, c := range k.fold.order {
		if c.row == nil || c.row.complete() {
			continue
		}
		before, err := k.base(ctx, c.key)
		if err != nil {
			return err
		}
		switch {
		case before != nil && !k.fold.truncated:
			c.row.fill(before)
		case k.live():
			return &MissingError{fmt.Errorf("there is no document of the row %s that was updated", c.key)}
		}
	}
	return nil
}

// base reads the document of a key; nil when there is none, or none that can be relied on.
func (k *directKeeper) base(ctx context.Context, key []byte) (row, error) {
	name, _, err := k.view.keyOf(key)
	if err != nil {
		return nil, err
	}
	known := k.store.index
	if !k.live() {
		known = k.store.fresh
	}
	return k.store.read(ctx, known, name, k.def.Mirror.Columns)
}

// lookAfter begins a rebuild that somebody asks for, and ends a filling whose rows have all come.
func (k *directKeeper) lookAfter(ctx context.Context) error {
	asked, answered, doomed, err := k.store.asked(ctx)
	if err != nil {
		return err
	}
	if doomed != "" {
		if err := k.delete(ctx, doomed); err != nil {
			return err
		}
	}
	if asked != answered && k.fill == "" {
		k.asked = asked
		if err := k.begin(ctx, fillRebuild, ""); err != nil {
			return err
		}
	}
	if k.fill == "" {
		return nil
	}
	done, err := k.filled(ctx)
	if err != nil || !done || k.pos.read < k.pos.shown {
		return err
	}
	gone, err := k.store.sweep(ctx, "")
	if err != nil {
		return err
	}
	answer := ""
	if k.fill == fillRebuild {
		answer = fmt.Sprintf("%s: %d documents differed", k.asked, k.diffs+gone)
	} else if asked != "" {
		answer = fmt.Sprintf("%s: all documents were read anew", asked)
	}
	k.fill, k.ask, k.pos.gap, k.pos.shown = "", "", "", k.pos.read
	fields := append(k.stateFields(stateLive), "fill", "", "backfill", "", "gap", "")
	if answer != "" {
		fields = append(fields, "answer", answer)
	}
	if _, err := k.store.write(ctx, docCall{fields: fields, flags: docEnd, position: k.pos.shown}); err != nil {
		return err
	}
	k.opts.Log.Info("documents are complete", "view", k.view.Name, "position", clock(k.pos.shown))
	k.tell()
	return nil
}

// delete removes documents that `walrill verify --repair` has found to be of no row. It reads those keys again behind it.
func (k *directKeeper) delete(ctx context.Context, doomed string) error {
	var keys []string
	if err := json.Unmarshal([]byte(doomed), &keys); err != nil {
		return fmt.Errorf("read %s: delete: %w", k.store.state, err)
	}
	var ops []docOp
	for _, key := range keys {
		ops = append(ops, docOp{kind: 'd', key: key})
	}
	k.opts.Log.Info("documents without a row are deleted", "view", k.view.Name, "keys", len(keys))
	_, err := k.store.write(ctx, docCall{ops: ops, fields: []string{"delete", ""}})
	return err
}

// filled reports whether the documents have every row: the backfill has ended and is read to its end.
func (k *directKeeper) filled(ctx context.Context) (bool, error) {
	b, err := k.opts.Backfills.Look(ctx, k.def.Mirror.Source)
	if err != nil {
		return false, err
	}
	id, ours, asked := b.answers(k.ask)
	if !asked {
		// Somebody asked for something else in the meantime, or Redis has forgotten ours.
		if id, err = k.opts.Backfills.Request(ctx, k.def.Mirror.Source); err != nil {
			return false, err
		}
	}
	if id != k.ask {
		if _, err = k.store.write(ctx, docCall{fields: []string{"backfill", id}}); err != nil {
			return false, err
		}
		k.ask = id
	}
	if b.Error != "" && ours {
		k.documents.note(k.view.Name, func(s *DocumentStatus) { s.Error = "the backfill of " + k.def.Mirror.Source + " failed: " + b.Error })
	}
	return ours && b.Done && b.Error == "" && k.pos.read >= max(b.Clock, b.End), nil
}
