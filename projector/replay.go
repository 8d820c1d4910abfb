package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// ReplayOptions say what is built as of which moment.
type ReplayOptions struct {
	Options         // Schema is not used
	View     string // "" for all
	Into     string // schema of the tables; it must not be there yet
	Until    uint64 // everything that committed below it; 0 when Time says it
	Time     time.Time
	Progress func(events int64, at, until uint64)
}

// Replayed is what has become of a replay.
type Replayed struct {
	Position uint64            // every commit below, and none from there on, is in the tables
	Events   int64             // that were read
	Rows     map[string]int64  // of each view
	Refused  map[string]int    // of folds: keys of which an event was refused, which stand where they stood before it
	LeftOut  map[string]string // views that cannot be built, and why, when all were asked for
}

// Replay builds views as of a moment, from the streams' beginning, into a schema of their own. It takes no lock and touches no view that is
// kept. The tables come in one transaction at the end; when it fails nothing is left. Its errors say what cannot be
// known any more.
//
// The streams have every row of a table from where its first backfill of all rows ended: a row that nobody has changed is in them as
// the backfill read it, and one that was deleted before it was read is not in them at all. So an earlier moment is refused. A fold needs the
// events of its streams, from the first, and nothing else.
func Replay(ctx context.Context, o ReplayOptions) (Replayed, error) {
	r := &replay{ReplayOptions: o, kept: o.Pipeline, refusals: map[string]string{}}
	r.Pipeline, r.Schema = "replay_"+o.Into, o.Into // for the names of what it makes
	var err error
	if r.conn, err = connect(ctx, o.StoreURL, "replay"); err != nil {
		return Replayed{}, err
	}
	defer r.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed, or dropped
	if err := r.prepare(ctx); err != nil {
		return Replayed{}, err
	}
	result, err := r.run(ctx)
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		r.conn.Exec(cleanup, "ROLLBACK")                                       //nolint:errcheck // there may be none
		r.conn.Exec(cleanup, r.dropWorking(), pgx.QueryExecModeSimpleProtocol) //nolint:errcheck // err says what is wrong
	}
	return result, err
}

// replayMark begins the comment of a schema that a replay made.
const replayMark = "walrill replay up to "

type replay struct {
	ReplayOptions
	conn      *pgx.Conn
	kept      string // the pipeline
	defs      map[string]*definition
	refusals  map[string]string // views that are not built, and why
	mirrors   []*mirror
	folds     []*folding
	backfills map[string]Backfill // by table
	seqs      map[string]uint64
	events    int64
	pending   int // events that are not written yet
}

// prepare plans the views, and refuses what is known beforehand.
func (r *replay) prepare(ctx context.Context) error {
	var taken, replayed bool
	if err := r.conn.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL, coalesce(obj_description(to_regnamespace($1), 'pg_namespace') LIKE $2, false)", quoteIdent(r.Into), replayMark+"%").Scan(&taken, &replayed); err != nil {
		return fmt.Errorf("look up schema %s: %w", r.Into, err)
	}
	if taken && replayed {
		return fmt.Errorf("the view store has a schema %s already, of an earlier replay: choose another, or DROP SCHEMA %s CASCADE", r.Into, quoteIdent(r.Into))
	}
	if taken { // of somebody's own tables: nothing to propose dropping
		return fmt.Errorf("the view store has a schema %s already, which no replay made: choose another name", r.Into)
	}
	if r.View != "" {
		i := slices.IndexFunc(r.Views, func(v View) bool { return v.Name == r.View })
		if i < 0 {
			return r.noSuchView(r.View)
		}
		r.Views = r.Views[i : i+1]
	}
	var err error
	if r.defs, err = r.plan(ctx); err != nil {
		return err
	}
	r.backfills = map[string]Backfill{}
	if err := r.sort(func(def *definition) error { return r.possible(ctx, def) }); err != nil {
		return err
	}
	s := &session{opts: &r.Options, wanted: r.defs}
	wanted := s.wantedMirrors()
	for _, id := range sortedKeys(wanted) {
		r.mirrors = append(r.mirrors, newMirror(&r.Options, *wanted[id], true))
	}
	return nil
}

// A pastError says that what a view was cannot be known.
type pastError struct{ error }

// sort keeps the views that can be built. It fails with the reason when one is asked for, or none is left.
func (r *replay) sort(can func(*definition) error) error {
	var first error
	for _, name := range sortedKeys(r.defs) {
		err := can(r.defs[name])
		if _, ok := errors.AsType[pastError](err); err != nil && !ok {
			return err
		}
		if err != nil {
			delete(r.defs, name)
			r.refusals[name] = err.Error()
			if first == nil {
				first = err
			}
		}
	}
	if len(r.defs) == 0 {
		return first
	}
	return nil
}

// possible says why a view cannot be built, as far as that is known beforehand.
func (r *replay) possible(ctx context.Context, def *definition) error {
	var streams []string
	if def.folds() {
		if def.Fold.Now {
			return pastError{errors.New("it began with what came then (`start: now`), and the streams do not say what it held")}
		}
		streams = def.Fold.Streams
	}
	for _, m := range def.Mirrors {
		streams = append(streams, m.Stream)
		if err := r.since(ctx, m.Source); err != nil {
			return err
		}
	}
	err := r.Whole(ctx, streams)
	if _, ok := errors.AsType[*MissingError](err); ok {
		return pastError{fmt.Errorf("the past cannot be built any more: %w", err)}
	}
	if err != nil || r.Until == 0 {
		return err
	}
	return r.early(def, r.Until)
}

// since learns from where on the streams have every row of a table.
func (r *replay) since(ctx context.Context, table string) error {
	b, err := r.Backfills.Look(ctx, table)
	if err != nil {
		return err
	}
	if b.Complete == 0 {
		return pastError{fmt.Errorf("the streams may not have all rows of table %s: no backfill of the whole table has ended. `walrill backfill start %s --wait` reads it, and moments after that can be built", table, table)}
	}
	r.backfills[table] = b
	return nil
}

// early refuses a moment at which the streams did not have every row of a view's tables yet.
func (r *replay) early(def *definition, until uint64) error {
	epoch, _ := event.SplitClock(until)
	for _, m := range def.Mirrors {
		table := m.Source
		since := r.backfills[table].Complete
		if of, _ := event.SplitClock(since); of != epoch {
			since = r.backfills[table].End
		}
		if of, _ := event.SplitClock(since); of != epoch {
			return pastError{fmt.Errorf("the streams may not have all rows of table %s at %s: walrill adopted another history meanwhile, and what was changed in between is missing", table, clock(until))}
		}
		if until < since {
			return pastError{fmt.Errorf("%s is too early: the rows that table %s had before walrill streamed from it were read until %s; moments from there on can be built", clock(until), table, clock(since))}
		}
	}
	return nil
}

// run reads the streams up to the moment and makes the tables.
func (r *replay) run(ctx context.Context) (Replayed, error) {
	schema := quoteIdent(mirrorSchema(r.Pipeline))
	// A replay into the same schema that was killed may have left something.
	if _, err := r.conn.Exec(ctx, fmt.Sprintf("%s CREATE SCHEMA %s; CREATE SCHEMA %s; SET search_path = %[2]s, public", r.dropWorking(), schema, quoteIdent(fillSchema(r.Pipeline))), pgx.QueryExecModeSimpleProtocol); err != nil {
		return Replayed{}, fmt.Errorf("prepare the view store: %w", err)
	}
	if err := r.makeFolds(ctx); err != nil {
		return Replayed{}, err
	}
	for _, m := range r.mirrors {
		if _, err := r.conn.Exec(ctx, m.createSQL(m.table)); err != nil {
			return Replayed{}, fmt.Errorf("make mirror %s: %w", m.Name, err)
		}
	}
	position, err := r.read(ctx)
	if err != nil {
		return Replayed{}, err
	}
	if err := r.sort(func(def *definition) error { return r.early(def, position) }); err != nil {
		return Replayed{}, err
	}
	rows, err := r.finish(ctx, position)
	return Replayed{position, r.events, rows, r.refusedKeys(), r.refusals}, err
}

// dropWorking drops the schemas of what is being built.
func (r *replay) dropWorking() string {
	return fmt.Sprintf("DROP SCHEMA IF EXISTS %s CASCADE; DROP SCHEMA IF EXISTS %s CASCADE;", quoteIdent(mirrorSchema(r.Pipeline)), quoteIdent(fillSchema(r.Pipeline)))
}

// read applies every event before the moment, and returns where that is.
func (r *replay) read(ctx context.Context) (uint64, error) {
	watermark, err := r.Watermark(ctx)
	if err != nil {
		return 0, err
	}
	end := watermark
	if r.Until != 0 {
		end = r.Until
	}
	if end > watermark {
		return 0, fmt.Errorf("%s is not in the streams yet: they are complete up to %s", clock(end), clock(watermark))
	}
	s := &session{opts: &r.Options, mirrors: r.mirrors, folds: r.folds}
	feed, err := r.open(ctx, s.streams(), event.Position{})
	if err != nil {
		return 0, err
	}
	r.seqs = map[string]uint64{}
	for {
		e, ok, err := feed.Step(ctx)
		switch {
		case err != nil:
			return 0, err
		case ok && e.Position.Commit >= end:
			return end, r.write(ctx)
		case ok && r.Until == 0 && e.Time.After(r.Time):
			return e.Position.Commit, r.write(ctx)
		case ok:
			if err := r.take(ctx, &e, end); err != nil {
				return 0, err
			}
		case feed.Watermark() >= end:
			return end, r.write(ctx)
		}
	}
}

// take adds an event to the mirrors that read it.
func (r *replay) take(ctx context.Context, e *event.Event, end uint64) error {
	key := e.Stream.Keys[e.Partition]
	if e.Seq != r.seqs[key]+1 {
		return fmt.Errorf("the past cannot be built any more: %s has event %d at %v behind event %d; what was between has been trimmed or lost", key, e.Seq, e.Position, r.seqs[key])
	}
	r.seqs[key] = e.Seq
	r.events++
	if err := r.takeFolds(ctx, e); err != nil {
		return err
	}
	for _, m := range r.mirrors {
		if m.Source != e.Table || m.Stream != e.Stream.Name {
			continue
		}
		r.pending++
		if (r.pending >= maxBatch || m.fold.bytes > maxFold) && m.fold.mayFlush(e) {
			if err := r.write(ctx); err != nil {
				return err
			}
		}
		if err := m.fold.add(e, m.stored(ctx, r.conn)); err != nil {
			return err
		}
	}
	if r.events%1000 == 0 {
		r.Progress(r.events, e.Position.Commit, end)
	}
	return nil
}

// write sends what the mirrors have gathered.
func (r *replay) write(ctx context.Context) error {
	r.pending = 0
	s := &session{opts: &r.Options, conn: r.conn}
	for _, m := range r.mirrors {
		if m.fold.empty() {
			continue
		}
		if err := s.exec(ctx, m.statements(false)); err != nil {
			return fmt.Errorf("table %s: %w", m.Source, err)
		}
		m.fold.reset()
	}
	return r.flushFolds(ctx)
}

// finish makes the views' tables of the mirrors, all at once.
func (r *replay) finish(ctx context.Context, position uint64) (rows map[string]int64, err error) {
	rows = map[string]int64{}
	err = pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		if err := tryExec(ctx, tx, "CREATE SCHEMA "+quoteIdent(r.Into)); err != nil {
			return fmt.Errorf("make schema %s: %w", r.Into, err)
		}
		if err := tryExec(ctx, tx, fmt.Sprintf("COMMENT ON SCHEMA %s IS %s", quoteIdent(r.Into), literal(replayMark+clock(position)))); err != nil {
			return err
		}
		for _, m := range r.mirrors {
			if !m.View { // queries find it under its own name
				if err := tryExec(ctx, tx, fmt.Sprintf("ALTER TABLE %s RENAME TO %s", m.table, quoteIdent(m.Name))); err != nil {
					return err
				}
				if err := newMirror(&r.Options, m.mirrorDef, false).indexes(ctx, tx); err != nil {
					return err
				}
				if err := tryExec(ctx, tx, "ANALYZE "+qualified(mirrorSchema(r.Pipeline), m.Name)); err != nil {
					return err
				}
			}
		}
		for _, name := range sortedKeys(r.defs) {
			if rows[name], err = r.makeView(ctx, tx, name); err != nil {
				return fmt.Errorf("build view %s: %w", name, err)
			}
		}
		_, err := tx.Exec(ctx, r.dropWorking(), pgx.QueryExecModeSimpleProtocol)
		return err
	})
	return rows, err
}

func (r *replay) makeView(ctx context.Context, tx pgx.Tx, name string) (rows int64, err error) {
	def := r.defs[name]
	switch {
	case def.Kind == "query":
		return newQuery(&r.Options, name, def).make(ctx, tx, &r.Options)
	case def.folds():
		err = tryExec(ctx, tx, fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", qualified(fillSchema(r.Pipeline), name), quoteIdent(r.Into)))
	default:
		table := tableOf(&r.Options, &def.Mirrors[0], true)
		if err = tryExec(ctx, tx, fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", table, quoteIdent(r.Into))); err == nil {
			err = tryExec(ctx, tx, fmt.Sprintf("ALTER TABLE %s RENAME TO %s", qualified(r.Into, def.Mirrors[0].fillingName()), quoteIdent(name)))
		}
	}
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, "SELECT count(*) FROM "+qualified(r.Into, name)).Scan(&rows)
	return rows, err
}
