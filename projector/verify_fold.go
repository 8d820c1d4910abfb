package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// A fold is compared with what its streams give. Its events are folded again, from the first, into a temporary table, as far as the view
// is, while that goes on. Then one snapshot of the store is taken, which has the view's rows and the position that they are of; the
// rest of the events is folded up to exactly there, and the rows are compared. Nothing has to be looked at twice.
//
// The view may be kept without some events: those that were refused and wait with their keys, and those that somebody has dropped. They are left out here,
// too, as the same snapshot has them. When a key has come back behind the place where this one is, it begins anew.

// foldAgain folds the events of a view again, in a session of its own.
type foldAgain struct {
	filler
	v *verifier
	t *target
}

// compareFold compares a fold, or says why that cannot be done.
func (v *verifier) compareFold(ctx context.Context, t *target, c *Comparison) error {
	if c.NotJudged = v.foldObstacle(t); c.NotJudged != "" {
		c.ByDesign = t.def.Fold.Now
		return nil
	}
	if err := v.fromTheFirst(ctx, t); err != nil {
		return notJudged(c, err)
	}
	a, err := v.newFoldAgain(ctx, t)
	if err != nil {
		return err
	}
	defer a.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it made is temporary
	for deadline := time.Now().Add(v.Patience); ; {
		done, err := a.compare(ctx, c)
		if err != nil {
			return notJudged(c, err)
		}
		if done {
			return nil
		}
		if time.Now().After(deadline) {
			c.NotJudged = "keys of it were tried again meanwhile, or it was built anew; verify it again"
			return nil
		}
	}
}

// foldObstacle says why a fold cannot be folded again by this program.
func (v *verifier) foldObstacle(t *target) string {
	if t.def.Fold.Now {
		return "it began with what came then (`start: now`), and what it held is in no stream; without `start: now` it is filled from the first entries, and can be compared"
	}
	if t.kind != "code" {
		return ""
	}
	i := slices.IndexFunc(v.Views, func(w View) bool { return w.Name == t.name && w.Apply != nil })
	if i < 0 {
		return "the Go function that makes it is in the program that keeps it: call projector.Verify there"
	}
	if v.Views[i].Version != t.def.Fold.Version {
		return fmt.Sprintf("it was made by version %q of its function, and this program has version %q", t.def.Fold.Version, v.Views[i].Version)
	}
	return ""
}

// fromTheFirst is a *MissingError when the streams do not have all events from the first.
func (v *verifier) fromTheFirst(ctx context.Context, t *target) error {
	if v.Whole != nil {
		if err := v.Whole(ctx, t.def.Fold.Streams); err != nil {
			return err
		}
	}
	if v.Options.Repair == nil {
		return nil
	}
	repair, err := v.Options.Repair(ctx)
	if err == nil && repair != "" {
		err = &MissingError{errors.New("the slot was lost and repaired, and what changed meanwhile is in no stream")}
	}
	return err
}

// notJudged notes that events are missing; other errors stay what they are.
func notJudged(c *Comparison, err error) error {
	missing, ok := errors.AsType[*MissingError](err)
	if !ok {
		return err
	}
	c.NotJudged = missing.Error() + ". A fold can be compared as long as its streams have their first entries; `start: now` in the view, and a rebuild, has it begin with what comes then"
	return nil
}

func (v *verifier) newFoldAgain(ctx context.Context, t *target) (*foldAgain, error) {
	a := &foldAgain{v: v, t: t, filler: filler{opts: &v.Options, view: t.name, def: t.def, kept: &filled{}, reading: ctx}}
	var err error
	if a.conn, err = v.session(ctx, v.StoreURL); err != nil {
		return nil, err
	}
	if err = a.begin(ctx); err != nil {
		a.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // err says what is wrong
		return nil, fmt.Errorf("set up a session of the view store: %w", err)
	}
	t.onSource.conn, t.onStore.conn = a.conn, a.conn
	return a, nil
}

// begin makes the table, under the view's name.
func (a *foldAgain) begin(ctx context.Context) error {
	if _, err := a.conn.Exec(ctx, createTable(qualified("pg_temp", a.view), a.def)); err != nil {
		return err
	}
	var err error
	if a.f, err = newFolding(ctx, a.conn, a.opts, a.view, a.def, "pg_temp", "public"); err != nil {
		return err
	}
	return a.anew(ctx)
}

// anew begins with the first events.
func (a *foldAgain) anew(ctx context.Context) error {
	if _, err := a.conn.Exec(ctx, "TRUNCATE "+qualified("pg_temp", a.view)); err != nil {
		return err
	}
	var err error
	if a.f.apart, err = loadApart(ctx, a.conn, a.opts.Pipeline, a.view); err != nil {
		return err
	}
	a.kept, a.f.aside = &filled{seqs: map[string]uint64{}}, map[string]bool{}
	return a.load(ctx)
}

// compare folds what there is and compares the rows; done is false when it has begun anew instead.
func (a *foldAgain) compare(ctx context.Context, c *Comparison) (done bool, err error) {
	for last := false; !last; {
		var at uint64
		err := pgx.BeginTxFunc(ctx, a.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(pgx.Tx) error {
			at, done, err = a.position(ctx)
			return err
		})
		if err != nil || !done {
			return false, err
		}
		if err := a.await(ctx, at); err != nil {
			return false, err
		}
		before := a.count()
		for a.pos < at {
			if err := a.step(ctx, at); err != nil {
				return false, err
			}
			a.tell(ctx)
		}
		last = a.count()-before < maxBatch // what comes meanwhile can be folded with the snapshot open
	}
	err = pgx.BeginTxFunc(ctx, a.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		at, ok, err := a.position(ctx)
		if done = ok; err != nil || !ok {
			return err
		}
		if err := a.await(ctx, at); err != nil {
			return err
		}
		if err := a.rest(ctx, at); err != nil {
			return err
		}
		if err := tryExec(ctx, tx, "ANALYZE "+qualified("pg_temp", a.view)); err != nil {
			return err
		}
		return a.rows(ctx, c)
	})
	if err == nil && !done {
		err = a.anew(ctx)
	}
	return done, err
}

// position is how far the view is in the transaction's snapshot, and what it is kept without from now on. ok is false when what is folded
// already is not what the view was made of.
func (a *foldAgain) position(ctx context.Context) (at uint64, ok bool, err error) {
	p, err := viewAt(ctx, a.conn, a.view)
	if err != nil {
		return 0, false, err
	}
	now, err := loadApart(ctx, a.conn, a.opts.Pipeline, a.view)
	if err != nil {
		return 0, false, err
	}
	if p.state != stateLive || p.gap != "" || p.at < a.pos || !p.def.same(a.def) || !a.f.apart.same(now, a.pos) {
		return 0, false, nil
	}
	now.refused = a.f.apart.refused
	a.f.apart = now
	return p.at, true, nil
}

// await waits until the streams are complete up to a position: they are, unless Redis has lost something.
func (a *foldAgain) await(ctx context.Context, at uint64) error {
	for deadline := time.Now().Add(a.v.Patience); ; {
		watermark, err := a.opts.Watermark(ctx)
		if err != nil || watermark >= at {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the view is at %s, and the streams are complete up to %s only; it can be compared when a daemon has published the rest", clock(at), clock(watermark))
		}
		if err := pause(ctx, betweenRounds); err != nil {
			return err
		}
	}
}

// rest folds up to a position within the caller's transaction.
func (a *foldAgain) rest(ctx context.Context, at uint64) error {
	a.open, a.again = true, true
	for a.pos < at {
		pos, err := a.gather(ctx, at)
		if err == nil {
			err = a.f.flush(ctx, a.conn, a.again)
		}
		if err != nil {
			return err
		}
		a.pos = max(a.pos, pos)
	}
	a.open, a.again = false, false
	return nil
}

// rows compares the rows of both tables, and says what was set aside.
func (a *foldAgain) rows(ctx context.Context, c *Comparison) (err error) {
	c.Events = a.count()
	if err := a.v.ranges(ctx, a.t, c); err != nil {
		return err
	}
	if c.Parked, err = ListParked(ctx, a.conn, a.opts.Pipeline, a.view); err != nil {
		return err
	}
	for _, key := range sortedKeys(a.f.apart.refused) {
		c.Unjudged = append(c.Unjudged, Unjudged{json.RawMessage(orderingKey([]byte(key))), "folded again, an event of it is refused: " + a.f.apart.refused[key]})
	}
	return nil
}

// count is how many events were read.
func (a *foldAgain) count() (n int64) {
	for _, seq := range a.seqs {
		n += int64(seq)
	}
	return n
}

// tell shows how many events of those that the view has read are folded.
func (a *foldAgain) tell(ctx context.Context) {
	var total int64
	err := a.v.store.QueryRow(ctx, `SELECT coalesce(sum(seq), 0)::bigint FROM walrill.partitions p WHERE EXISTS (SELECT FROM unnest($1::text[]) s WHERE p.key = s OR starts_with(p.key, s || ':'))`,
		a.def.Fold.Streams).Scan(&total)
	if err == nil { // else the bar stands still
		a.v.Progress(a.view+", events", a.count(), max(total, a.count()))
	}
}

// prepareFold makes the two sides of a fold: what is folded again, and the view.
func (v *verifier) prepareFold(t *target) {
	t.onSource.from, t.onStore.from = qualified("pg_temp", t.name)+" t", t.table()+" t"
	t.key = t.def.Key
	for i, c := range t.def.Columns {
		here, there := canonical(c, t.def.Types[i], SourceColumn{Name: c, Type: t.def.Types[i]})
		t.onSource.values, t.onStore.values = append(t.onSource.values, here), append(t.onStore.values, there)
		t.columns, t.hidden = append(t.columns, c), append(t.hidden, false)
	}
	for _, s := range []*side{&t.onSource, &t.onStore} {
		for _, k := range t.key {
			s.key, s.keyTypes = append(s.key, "t."+quoteIdent(k)), append(s.keyTypes, t.query.keyType(k))
		}
	}
}

// judge takes differences of one snapshot for what they are.
func (v *verifier) judge(ctx context.Context, t *target, c *Comparison, keys [][]string) error {
	here, err := t.onSource.rows(ctx, keys, "''")
	if err != nil {
		return err
	}
	there, err := t.onStore.rows(ctx, keys, "''")
	if err != nil {
		return err
	}
	for _, key := range keys {
		if d := t.difference(key, here, there); d != nil {
			d.Why = "it is not what its events give"
			if err := v.record(ctx, t, c, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// repairFold has a fold folded anew by whoever keeps it, which brings what differs right, and compares again.
func (v *verifier) repairFold(ctx context.Context, t *target, c *Comparison) error {
	request, err := Ask(ctx, v.store, v.Pipeline, t.name, Rebuild)
	if err != nil {
		return err
	}
	if err := v.awaitAnswer(ctx, request.Answer); err != nil {
		return err
	}
	again := newComparison(t)
	if err := v.compareFold(ctx, t, again); err != nil {
		return err
	}
	if again.NotJudged == "" {
		c.Repaired = max(0, c.Found-again.Found)
	}
	c.Parked, c.Unjudged, c.NotJudged = again.Parked, again.Unjudged, again.NotJudged
	return nil
}

// awaitAnswer waits until a rebuild that was asked for is done.
func (v *verifier) awaitAnswer(ctx context.Context, ask func(context.Context) (Answer, error)) error {
	for kept := time.Now(); ; {
		answer, err := ask(ctx)
		switch {
		case err != nil:
			return err
		case answer.Failed != "":
			return errors.New(answer.Failed)
		case answer.Done:
			return nil
		case answer.Kept:
			kept = time.Now()
		case time.Since(kept) > v.Patience:
			return fmt.Errorf("no daemon has built it anew within %v; that is asked for, and the next one that keeps the views does it", v.Patience)
		}
		if err := pause(ctx, betweenRounds); err != nil {
			return err
		}
	}
}

// standing is where a view is, as a snapshot has it.
type standing struct {
	at         uint64 // every commit below is in its rows, and none from there on has changed them
	state, gap string
	def        *definition
}

// viewAt reads where a view is. Its rows, as the same snapshot has them, are of that position.
func viewAt(ctx context.Context, q Querier, view string) (s standing, err error) {
	var epoch uint8
	var lsn int64
	var text *string
	err = q.QueryRow(ctx, `SELECT p.epoch, coalesce(p.lsn - '0/0', 0)::bigint, coalesce(p.gap, ''), v.state, v.definition::text
		FROM walrill.views v JOIN walrill.pipelines p ON p.pipeline = v.pipeline WHERE v.name = $1`, view).Scan(&epoch, &lsn, &s.gap, &s.state, &text)
	if err == nil {
		s.def, err = decodeDefinition(text)
	}
	if err != nil {
		return s, fmt.Errorf("read the position of view %s: %w", view, err)
	}
	s.at = event.Clock(epoch, uint64(lsn))
	return s, nil
}
