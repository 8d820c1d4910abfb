package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// session is one connection to the store, from when it leads to when something fails.
type session struct {
	projector *Projector
	opts      *Options
	careful   bool   // a row was refused: find out which
	until     uint64 // in what was committed up to here; and for
	calm      int    // so many more events, where one refusal is seldom alone
	ran       bool   // it came to following
	conn      *pgx.Conn
	fence     int64
	lock      uint64 // the position that walrill.wait can see

	tables   []Table
	wanted   map[string]*definition // by view: what the configuration asks for
	views    map[string]*viewRow
	emitted  map[string][]event.Schema // by view: of its events
	mirrors  []*mirror                 // in use, unless there is a gap, and those that are being filled
	queries  []*query                  // that are kept
	folds    []*folding
	fillers  map[string]*filler  // of folds, by view
	builders map[string]*builder // of queries, and of views that are mirrors, by view
	waits    map[string]bool     // views for whose builder everything waits
	repair   string              // the last one of the streams
	repairAt time.Time           // when that was read
	bySrc    map[string][]*mirror
	parked   map[string]int       // by view or mirror
	failed   map[string]time.Time // views that could not be built, and when that was tried

	opening             // of a group that workers keep in turns with this session
	worker    *worker   // whose session this is; nil for one that leads
	elsewhere []string  // views that are still kept otherwise
	claimed   time.Time // when that was looked at

	reshaped bool // there were events of another version of a table: its columns may not be those that the views are planned with

	pos   position
	saved time.Time // when pos was written last
	seqs  map[string]uint64
	dirty map[string]bool // of seqs: not written yet
	feed  *ahead
	stop  context.CancelFunc // ends the reading of feed
	reads sync.WaitGroup     // of feed and of those before it
	batch batch
	steps steps
	queue queue
	tend  time.Time // when to look after fillings and requests again
	told  time.Time // when the progress was told
}

// viewRow is a view as the store has it.
type viewRow struct {
	name, state string
	def         *definition // being kept, or kept last
	previous    *definition
	pinned      bool
	request     string
	answer      string
	problem     string // why it is not live
	again       bool   // it is to be built anew, for changes of which nobody could say what they affect
}

// run leads, prepares and follows until something fails.
func (s *session) run(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	defer s.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	defer s.reads.Wait()
	defer func() { s.stop() }()
	defer s.closeFillers()
	defer s.closeBuilders()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	s.opts.Log.Info("keeping the views", "position", clock(s.pos.shown), "views", len(s.wanted), "mirrors", len(s.mirrors))
	s.projector.note(func(st *Status) { st.State, st.Error = StateRunning, "" })
	s.ran = true
	err := s.follow(ctx)
	for isDataError(err) && !s.careful && ctx.Err() == nil {
		if err = s.startOver(ctx); err == nil {
			err = s.follow(ctx)
		}
	}
	var missing *MissingError
	var schema *SchemaError
	if errors.As(err, &missing) || errors.As(err, &schema) {
		return s.breakOff(ctx, err)
	}
	if ctx.Err() != nil {
		return s.leave()
	}
	return err
}

// leave writes the position on the way out, but not in the middle of a batch: s.seqs are then ahead of it.
func (s *session) leave() error {
	if s.pos.gap != "" || s.opened || s.batch.open || s.batch.events > 0 || s.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.in(ctx, s.pos, func(tx pgx.Tx) error { return s.saveSeqs(ctx, tx) })
}

func (s *session) open(ctx context.Context) (err error) {
	if s.conn, err = connect(ctx, s.opts.StoreURL, s.opts.Pipeline); err != nil {
		return err
	}
	if err = install(ctx, s.conn, mirrorSchema(s.opts.Pipeline)); err == nil {
		err = s.alone(ctx)
	}
	if err == nil {
		err = s.lead(ctx)
	}
	if err == nil && s.opts.Workers > 0 {
		err = s.closeGroup(ctx)
	}
	if err == nil {
		err = s.claim(ctx)
	}
	if err != nil {
		s.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was done
	}
	if e := pgError(err); e != nil && e.Code == "42501" {
		return &SetupError{Problem: "the role in views.store may not make what walrill needs", Err: err,
			Fix: "GRANT CREATE, TEMPORARY ON DATABASE … TO it"}
	}
	return err
}

// prepare plans the views and brings what the store has in step with that.
func (s *session) prepare(ctx context.Context) error {
	planner, err := newPlanner(ctx, s.conn, s.opts)
	if err != nil {
		return err
	}
	s.tables = planner.tables
	s.wanted = map[string]*definition{}
	for i := range s.opts.Views {
		v := &s.opts.Views[i]
		if slices.Contains(s.elsewhere, v.Name) {
			continue
		}
		if s.wanted[v.Name], err = planner.plan(ctx, v); err != nil {
			return err
		}
	}
	s.emitted = planner.emitted
	if err := s.checkSchemas(ctx); err != nil {
		return err
	}
	if err := s.settings(ctx); err != nil {
		return err
	}
	if s.pos, err = s.loadPosition(ctx); err != nil {
		return err
	}
	epoch, err := inForce(ctx, s.opts.Epoch)
	if err == nil {
		err = tellEpoch(ctx, s.conn, s.opts.Pipeline, epoch)
	}
	if err == nil {
		err = s.forgetDropped(ctx)
	}
	if err == nil {
		err = s.begun(ctx)
	}
	if err != nil {
		return err
	}
	return s.reconcile(ctx)
}

// settings are those of a session that follows streams.
func (s *session) settings(ctx context.Context) error {
	// Postgres cannot know that there are few changed rows, and would read whole tables to join them: what follows the
	// stream goes by indexes alone. Building a whole view is another matter.
	if _, err := s.conn.Exec(ctx, fmt.Sprintf("SET search_path = %s; SET enable_hashjoin = off; SET enable_mergejoin = off", s.path()), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	return nil
}

// begun waits for the pipeline's first watermark: before it nobody knows which backfills there are.
func (s *session) begun(ctx context.Context) error {
	for {
		w, err := s.opts.Watermark(ctx)
		if err != nil || w > 0 {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// plan plans the views without keeping them.
func (o *Options) plan(ctx context.Context) (map[string]*definition, error) {
	conn, err := connect(ctx, o.StoreURL, o.Pipeline)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it changed nothing
	planner, err := newPlanner(ctx, conn, o)
	if err != nil {
		return nil, err
	}
	defs := map[string]*definition{}
	for i := range o.Views {
		if defs[o.Views[i].Name], err = planner.plan(ctx, &o.Views[i]); err != nil {
			return nil, err
		}
	}
	return defs, nil
}

// load makes what follows need: mirrors and views as the store has them, the temporary tables of the session, the feed.
func (s *session) load(ctx context.Context) error {
	if err := s.conn.DeallocateAll(ctx); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	if err := s.loadViews(ctx); err != nil {
		return err
	}
	mirrors, err := s.loadMirrors(ctx)
	if err != nil {
		return err
	}
	s.mirrors = nil
	for _, m := range mirrors {
		if !m.filling && s.pos.gap != "" {
			continue
		}
		if s.opts.Workers > 0 {
			m.fold.lacking = m.exhume(ctx, s.conn, s.opts.Pipeline)
		}
		s.mirrors = append(s.mirrors, m)
	}
	s.loadQueries()
	if err := s.temporary(ctx); err != nil {
		return err
	}
	if err := s.loadFolds(ctx); err != nil {
		return err
	}
	if err := s.loadEmits(ctx); err != nil {
		return err
	}
	if err := s.loadSeqs(ctx); err != nil {
		return err
	}
	if err := s.countParked(ctx); err != nil {
		return err
	}
	return s.openFeed(ctx)
}

// streams are those that the mirrors and folds read.
func (s *session) streams() []string {
	var names []string
	for _, m := range s.mirrors {
		if !slices.Contains(names, m.Stream) {
			names = append(names, m.Stream)
		}
	}
	names = append(names, s.foldStreams()...)
	slices.Sort(names)
	return slices.Compact(names)
}

func (s *session) openFeed(ctx context.Context) error {
	after := event.Position{}
	if s.pos.read > 0 {
		after = event.Position{Commit: s.pos.read - 1, Ordinal: ^uint64(0)}
	}
	streams := s.streams()
	if len(streams) == 0 {
		return &SetupError{Problem: "there is no view to keep", Fix: "add one under `views`"}
	}
	s.stop()
	var feed Feed
	var err error
	if s.worker != nil {
		feed, err = s.worker.open(ctx, streams, after)
	} else {
		feed, err = s.opts.open(ctx, streams, after)
	}
	if m, ok := errors.AsType[*MissingError](err); ok && s.worker == nil {
		return s.breakOff(ctx, m)
	}
	if err != nil {
		return err
	}
	if err := s.beginStreams(ctx, feed, streams); err != nil {
		return err
	}
	ctx, s.stop = context.WithCancel(ctx)
	a := newAhead()
	s.reads.Go(func() { a.read(ctx, feed) })
	s.feed = a
	return nil
}

func (s *session) loadViews(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT name, state, definition::text, previous::text, pinned, request, answer, error FROM walrill.views WHERE pipeline = $1", s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	s.views = map[string]*viewRow{}
	v := viewRow{}
	var def, previous *string
	_, err = pgx.ForEachRow(rows, []any{&v.name, &v.state, &def, &previous, &v.pinned, &v.request, &v.answer, &v.problem}, func() error {
		view := v
		var err error
		if view.def, err = decodeDefinition(def); err == nil {
			view.previous, err = decodeDefinition(previous)
		}
		s.views[view.name] = &view
		return err
	})
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	return nil
}

func decodeDefinition(text *string) (*definition, error) {
	if text == nil {
		return nil, nil
	}
	d := &definition{}
	return d, json.Unmarshal([]byte(*text), d)
}

func (s *session) loadMirrors(ctx context.Context) ([]*mirror, error) {
	rows, err := s.conn.Query(ctx, "SELECT filling, definition::text, request, shape FROM walrill.mirrors WHERE pipeline = $1 ORDER BY name, filling", s.opts.Pipeline)
	if err != nil {
		return nil, fmt.Errorf("read the mirrors of the store: %w", err)
	}
	var list []*mirror
	var filling bool
	var text, request string
	var shape int
	_, err = pgx.ForEachRow(rows, []any{&filling, &text, &request, &shape}, func() error {
		var def mirrorDef
		if err := json.Unmarshal([]byte(text), &def); err != nil {
			return err
		}
		m := newMirror(s.opts, def, filling)
		m.request, m.shape = request, shape
		list = append(list, m)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the mirrors of the store: %w", err)
	}
	return list, nil
}

// loadSeqs reads how far each partition was read. Those of streams that are not read any more are forgotten.
func (s *session) loadSeqs(ctx context.Context) error {
	streams := s.streams()
	_, err := s.conn.Exec(ctx, `DELETE FROM walrill.partitions p WHERE pipeline = $1
		AND NOT EXISTS (SELECT FROM unnest($2::text[]) s WHERE p.key = s OR starts_with(p.key, s || ':'))`, s.opts.Pipeline, streams)
	if err != nil {
		return fmt.Errorf("forget partitions: %w", err)
	}
	known, err := s.readSeqs(ctx)
	if err != nil {
		return err
	}
	for key := range s.dirty {
		known[key] = s.seqs[key] // read, and not written yet
	}
	s.seqs = known
	if s.dirty == nil {
		s.dirty = map[string]bool{}
	}
	return nil
}

func (s *session) readSeqs(ctx context.Context) (map[string]uint64, error) {
	rows, err := s.conn.Query(ctx, "SELECT key, seq FROM walrill.partitions WHERE pipeline = $1", s.opts.Pipeline)
	if err != nil {
		return nil, fmt.Errorf("read the partitions of the store: %w", err)
	}
	known := map[string]uint64{}
	var key string
	var seq int64
	if _, err := pgx.ForEachRow(rows, []any{&key, &seq}, func() error { known[key] = uint64(seq); return nil }); err != nil {
		return nil, fmt.Errorf("read the partitions of the store: %w", err)
	}
	return known, nil
}

func (s *session) saveSeqs(ctx context.Context, tx pgx.Tx) error {
	st, ok := s.seqStatement()
	if !ok {
		return nil
	}
	_, err := tx.Exec(ctx, st.sql, st.args...)
	return err
}

func (s *session) seqStatement() (statement, bool) {
	if len(s.dirty) == 0 {
		return statement{}, false
	}
	keys := sortedKeys(s.dirty)
	seqs := make([]int64, len(keys))
	for i, k := range keys {
		seqs[i] = int64(s.seqs[k])
	}
	return statement{rows: -1, args: []any{s.opts.Pipeline, keys, seqs}, sql: `
		INSERT INTO walrill.partitions (pipeline, key, seq) SELECT $1, k, n FROM unnest($2::text[], $3::bigint[]) u(k, n)
		ON CONFLICT (pipeline, key) DO UPDATE SET seq = excluded.seq`}, true
}
