package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// loadFolds makes the folds that are live ready for events.
func (s *session) loadFolds(ctx context.Context) error {
	s.folds = nil
	for _, name := range sortedKeys(s.views) {
		v := s.views[name]
		if v.state != stateLive || !v.def.folds() || s.pos.gap != "" {
			continue
		}
		if v.def.Kind == "code" && !v.def.same(s.wanted[name]) {
			// The code that it was made by is not there any more.
			if _, err := s.conn.Exec(ctx, "UPDATE walrill.views SET state = 'filling' WHERE name = $1", name); err != nil {
				return err
			}
			v.state = stateFilling
			continue
		}
		f, err := newFolding(ctx, s.conn, s.opts, name, v.def, s.opts.Schema, s.path())
		if err != nil {
			return err
		}
		if err := f.loadAside(ctx, s.conn); err != nil {
			return err
		}
		s.folds = append(s.folds, f)
	}
	return nil
}

// path is the search path of the session.
func (s *session) path() string { return quoteIdent(mirrorSchema(s.opts.Pipeline)) + ", public" }

// foldStreams are those that folds read, kept or being filled.
func (s *session) foldStreams() []string {
	var names []string
	for _, f := range s.folds {
		names = append(names, f.def.Fold.Streams...)
	}
	for _, d := range s.wanted {
		if d.folds() {
			names = append(names, d.Fold.Streams...)
		}
	}
	return names
}

// takeFolds gathers an event for the folds. What grows large is applied within the batch's transaction.
func (s *session) takeFolds(ctx context.Context, e *event.Event) error {
	for _, f := range s.folds {
		f.take(e)
		if !f.full() {
			continue
		}
		if err := s.begin(ctx); err != nil {
			return err
		}
		if err := s.flushFold(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) flushFold(ctx context.Context, f *folding) error {
	f.floor = s.pos.read
	return f.flush(ctx, s.conn, s.careful)
}

func (s *session) foldsPending() bool {
	return slices.ContainsFunc(s.folds, func(f *folding) bool { return len(f.events) > 0 })
}

// foldsAside reports whether a fold has keys that are parked.
func (s *session) foldsAside() bool {
	return slices.ContainsFunc(s.folds, func(f *folding) bool { return len(f.aside) > 0 })
}

func (s *session) flushFolds(ctx context.Context) error {
	for _, f := range s.folds {
		if err := s.flushFold(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// foldTarget is the definition that a view is to have.
func (s *session) foldTarget(v *viewRow) *definition {
	switch kind, open := v.asked(); {
	case open && kind == Rollback && v.previous != nil:
		return v.previous
	case v.pinned && v.def != nil:
		return v.def
	}
	return s.wanted[v.name]
}

// lookAfterFolds begins to fill folds that are new, changed, asked for or have a gap, and takes over those that are filled.
func (s *session) lookAfterFolds(ctx context.Context) error {
	if err := s.checkRepair(ctx); err != nil || s.opts.Repair != nil && s.repairAt.IsZero() {
		return err
	}
	for _, name := range sortedKeys(s.wanted) {
		v := s.views[name]
		if v == nil {
			continue
		}
		target := s.foldTarget(v)
		_, open := v.asked()
		needed := target.folds() && (v.state != stateLive || open || !target.same(v.def))
		fl := s.fillers[name]
		if fl != nil && (!needed || !fl.def.same(target) || open && fl.request != v.request) {
			s.dropFiller(name)
			fl = nil
		}
		var err error
		switch {
		case !needed || fl == nil && time.Since(s.failed[name]) < buildEvery && !open:
		case fl == nil:
			err = s.startFiller(ctx, v, target, open)
		default:
			err = s.lookAfterFiller(ctx, v, fl)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) dropFiller(name string) {
	s.fillers[name].close()
	delete(s.fillers, name)
}

// startFiller goes on with a filling that an earlier session began, or begins one.
func (s *session) startFiller(ctx context.Context, v *viewRow, target *definition, open bool) error {
	if target.Kind == "code" && !target.same(s.wanted[v.name]) {
		return s.refuseRequest(ctx, v, "the code that it was made by before is not in this program")
	}
	fl := &filler{opts: s.opts, view: v.name, def: target, fence: s.fence}
	if s.repair != "" && !target.Fold.Now {
		return s.fillFailed(ctx, v, fl, &MissingError{errors.New("the slot was lost and repaired since, and what changed meanwhile is in no stream")})
	}
	if open {
		fl.request = v.request
	}
	var text, request string
	err := s.conn.QueryRow(ctx, "SELECT definition::text, request FROM walrill.folds WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, v.name).Scan(&text, &request)
	var known *definition
	if err == nil {
		known, err = decodeDefinition(&text)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read how far view %s is filled: %w", v.name, err)
	}
	if known.same(target) && request == fl.request {
		_, err = s.conn.Exec(ctx, "UPDATE walrill.folds SET fence = $3 WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, v.name, s.fence)
	} else {
		err = s.newFilling(ctx, fl)
	}
	var epoch uint8
	var lsn int64
	if err == nil {
		err = s.conn.QueryRow(ctx, "SELECT epoch, (lsn - '0/0')::bigint FROM walrill.folds WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, v.name).Scan(&epoch, &lsn)
	}
	if err != nil {
		return fmt.Errorf("begin to fill view %s: %w", v.name, err)
	}
	fl.from = event.Clock(epoch, uint64(lsn))
	if fl.from == 0 && s.opts.Whole != nil {
		err := s.opts.Whole(ctx, target.Fold.Streams)
		if _, ok := errors.AsType[*MissingError](err); ok {
			return s.fillFailed(ctx, v, fl, err)
		}
		if err != nil {
			return nil //nolint:nilerr // without Redis nobody gets on
		}
	}
	fl.limit.Store(s.pos.read)
	fl.start(ctx)
	if s.fillers == nil {
		s.fillers = map[string]*filler{}
	}
	s.fillers[v.name] = fl
	return nil
}

// repairEvery is how often folds look whether the streams were repaired.
const repairEvery = 2 * time.Second

// checkRepair has folds filled anew when the streams have been repaired: changes were lost with the slot, and no seq is missing.
func (s *session) checkRepair(ctx context.Context) error {
	if s.opts.Repair == nil || time.Since(s.repairAt) < repairEvery || !slices.ContainsFunc(slices.Collect(maps.Values(s.wanted)), (*definition).folds) {
		return nil
	}
	repair, err := s.opts.Repair(ctx)
	if err != nil {
		return nil //nolint:nilerr // without Redis nobody gets on
	}
	s.repair, s.repairAt = repair, time.Now()
	tag, err := s.conn.Exec(ctx, "UPDATE walrill.views SET state = 'filling' WHERE pipeline = $1 AND state = 'live' AND definition ? 'fold' AND repair <> $2", s.opts.Pipeline, s.repair)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	s.opts.Log.Error("the slot was lost and repaired: changes are missing in the streams, and folds need them", "repair", s.repair)
	return s.load(ctx)
}

// newFilling makes an empty table beside the view's.
func (s *session) newFilling(ctx context.Context, fl *filler) error {
	var from uint64
	if fl.def.Fold.Now {
		var err error
		if from, err = s.opts.Watermark(ctx); err != nil {
			return err
		}
	}
	text, err := json.Marshal(fl.def)
	if err != nil {
		return err
	}
	epoch, lsn := event.SplitClock(from)
	table := qualified(fillSchema(s.opts.Pipeline), fl.view)
	return s.in(ctx, s.pos, func(tx pgx.Tx) error {
		for _, sql := range []string{
			"CREATE SCHEMA IF NOT EXISTS " + quoteIdent(fillSchema(s.opts.Pipeline)),
			"DROP TABLE IF EXISTS " + table,
			createTable(table, fl.def),
		} {
			if err := tryExec(ctx, tx, sql); err != nil {
				return err
			}
		}
		if err := copyChecks(ctx, tx, qualified(s.opts.Schema, fl.view), table); err != nil {
			return err
		}
		for _, from := range []string{"walrill.parked", "walrill.parked_events"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+from+" WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, fillName(fl.view)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO walrill.folds (pipeline, view, definition, request, fence, epoch, lsn) VALUES ($1, $2, $3, $4, $5, $6, '0/0'::pg_lsn + $7::bigint::numeric)
			ON CONFLICT (pipeline, view) DO UPDATE SET definition = excluded.definition, request = excluded.request, fence = excluded.fence,
				epoch = excluded.epoch, lsn = excluded.lsn, seqs = '{}'`, s.opts.Pipeline, fl.view, string(text), fl.request, s.fence, int32(epoch), int64(lsn))
		return err
	})
}

// copyChecks gives a table the CHECK constraints that somebody has put on another, so that it refuses the same events. One that does not fit
// its columns is left out.
func copyChecks(ctx context.Context, tx pgx.Tx, from, to string) error {
	rows, err := tx.Query(ctx, "SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2::text, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'c' ORDER BY conname", from, to)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, sql := range list {
		err := pgx.BeginFunc(ctx, tx, func(sub pgx.Tx) error { return tryExec(ctx, sub, sql) })
		if err != nil && !isDefinitionError(err) {
			return err
		}
	}
	return nil
}

// lookAfterFiller tells of a filler that failed, and takes over from one that is close.
func (s *session) lookAfterFiller(ctx context.Context, v *viewRow, fl *filler) error {
	fl.limit.Store(s.pos.read)
	select {
	case <-fl.done:
		return s.fillFailed(ctx, v, fl, fl.err)
	default:
	}
	if !fl.caught.Load() || fl.from > s.pos.read {
		return nil
	}
	if err := fl.finish(ctx, s.pos.read); err != nil {
		return s.fillFailed(ctx, v, fl, err)
	}
	return s.takeOver(ctx, v, fl)
}

// fillFailed tells why a view is not filled; it is tried again later.
func (s *session) fillFailed(ctx context.Context, v *viewRow, fl *filler, cause error) error {
	fl.err = cause
	if s.fillers[v.name] != nil {
		s.dropFiller(v.name)
	}
	if errors.Is(cause, errFenced) || ctx.Err() != nil {
		return cause
	}
	problem := fl.hole()
	if problem == "" {
		problem = "it cannot be filled: " + reason(cause)
	}
	s.failed[v.name] = time.Now()
	if _, open := v.asked(); open && (fl.hole() != "" || isDefinitionError(cause)) {
		if err := s.refuseRequest(ctx, v, problem); err != nil {
			return err
		}
	}
	if v.state == stateLive && v.def.same(s.wanted[v.name]) {
		return nil // it goes on as it is
	}
	tag, err := s.conn.Exec(ctx, "UPDATE walrill.views SET error = $2 WHERE name = $1 AND error <> $2", v.name, problem)
	if tag.RowsAffected() > 0 {
		s.opts.Log.Error("a view cannot be filled; it is tried again", "view", v.name, "error", problem)
	}
	return err
}

// takeOver brings the view's table to what was filled beside it, and follows from here on.
func (s *session) takeOver(ctx context.Context, v *viewRow, fl *filler) error {
	filled := qualified(fillSchema(s.opts.Pipeline), v.name)
	q := newQuery(s.opts, v.name, fl.def)
	fl.close()
	delete(s.fillers, v.name)
	kind, open := v.asked()
	seqs, dirty := maps.Clone(s.seqs), maps.Clone(s.dirty)
	s.adoptSeqs(fl)
	err := s.in(ctx, s.pos, func(tx pgx.Tx) error {
		if err := tryExec(ctx, tx, "SET LOCAL enable_hashjoin = on"); err != nil {
			return err
		}
		if err := tryExec(ctx, tx, "ANALYZE "+filled); err != nil {
			return err
		}
		if err := reshape(ctx, tx, s.opts, v.name, q.table, fl.def, v.def); err != nil {
			return err
		}
		gone, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s v WHERE NOT EXISTS (SELECT FROM %s f WHERE %s)", q.table, filled, equal("f", "v", fl.def.Key)))
		if err != nil {
			return err
		}
		come, err := tx.Exec(ctx, q.upsertFrom(filled))
		if err != nil {
			return err
		}
		if err := s.live(ctx, tx, v, fl.def, gone.RowsAffected()+come.RowsAffected()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE walrill.views SET repair = $2 WHERE name = $1", v.name, s.repair); err != nil {
			return err
		}
		if open && kind == Rollback {
			if _, err := tx.Exec(ctx, "UPDATE walrill.views SET pinned = true WHERE name = $1", v.name); err != nil {
				return err
			}
		}
		return s.endFilling(ctx, tx, v.name, filled)
	})
	if setup, ok := errors.AsType[*SetupError](err); isDefinitionError(err) || ok {
		// What somebody has asked of the view's table refuses a row, or is built on a column that goes. Everything else goes on.
		if ok {
			err = errors.New(setup.Problem + "; " + setup.Fix)
		}
		s.seqs, s.dirty = seqs, dirty
		return s.fillFailed(ctx, v, fl, err)
	}
	if err != nil {
		return fmt.Errorf("take over view %s: %w", v.name, err)
	}
	clear(s.dirty)
	return s.load(ctx)
}

// adoptSeqs takes over how far a filler has read what nothing else has.
func (s *session) adoptSeqs(fl *filler) {
	for _, stream := range fl.def.Fold.Streams {
		if !isRead(s.seqs, stream) {
			s.seqs[stream], s.dirty[stream] = 0, true
		}
	}
	for key, seq := range fl.seqs {
		if s.seqs[key] == 0 {
			s.seqs[key], s.dirty[key] = seq, true
		}
	}
}

// endFilling forgets a filling. What is parked of it, is parked of the view.
func (s *session) endFilling(ctx context.Context, tx pgx.Tx, view, table string) error {
	if err := tryExec(ctx, tx, "DROP TABLE "+table); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM walrill.folds WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, view); err != nil {
		return err
	}
	for _, from := range []string{"walrill.parked", "walrill.parked_events", "walrill.left_out"} {
		if _, err := tx.Exec(ctx, "DELETE FROM "+from+" WHERE pipeline = $1 AND view = $2", s.opts.Pipeline, view); err != nil {
			return err
		}
	}
	for _, in := range []string{"walrill.parked", "walrill.parked_events"} {
		if _, err := tx.Exec(ctx, "UPDATE "+in+" SET view = $2 WHERE pipeline = $1 AND view = $3", s.opts.Pipeline, view, fillName(view)); err != nil {
			return err
		}
	}
	return s.saveSeqs(ctx, tx)
}

// breakFolds has all folds filled anew: what came to them cannot be relied on.
func (s *session) breakFolds(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "UPDATE walrill.views SET state = 'filling' WHERE pipeline = $1 AND state = 'live' AND definition ? 'fold'", s.opts.Pipeline)
	if err == nil {
		_, err = tx.Exec(ctx, "DELETE FROM walrill.folds WHERE pipeline = $1", s.opts.Pipeline)
	}
	return err
}

func (s *session) closeFillers() {
	for name := range s.fillers {
		s.dropFiller(name)
	}
}
