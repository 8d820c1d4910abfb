package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// filler folds the history of a view's streams into a table beside the one that readers see, in a session of its own, while everything else
// goes on. It goes no further than the session that keeps the views has read. That one stops it when it is
// close, has it go the rest of the way, and takes its table over.
type filler struct {
	opts    *Options
	view    string
	def     *definition
	request string
	fence   int64

	conn  *pgx.Conn
	f     *folding
	feed  Feed
	held  *event.Event // comes next
	pos   uint64       // every event below is folded
	seqs  map[string]uint64
	open  bool    // a transaction
	again bool    // an event was refused: find out which
	kept  *filled // how far it is, of one that ends with its session; else the store has it

	from   uint64        // where it began, in this session
	limit  atomic.Uint64 // how far it may go
	caught atomic.Bool   // it has come to a limit
	// reading ends with halt, so that a batch is given up between two statements: a statement that is cancelled costs the connection.
	reading context.Context
	stop    context.CancelFunc
	done    chan struct{} // closed when it has ended
	err     error         // why; read it after done
}

// filled is how far a filler is.
type filled struct {
	pos  uint64
	seqs map[string]uint64
}

// fillSchema holds the tables of folds that are filled, under their plain names.
func fillSchema(pipeline string) string { return mirrorSchema(pipeline) + "~fill" }

// fillName is what a fold that is filled is called among what is parked, and a pipeline's filler among sessions.
func fillName(view string) string { return view + "~fill" }

// fillPoll is how often a filler that has come to its limit looks whether that has moved.
const fillPoll = 20 * time.Millisecond

// start runs the filler in a goroutine until halt.
func (fl *filler) start(ctx context.Context) {
	fl.reading, fl.stop = context.WithCancel(ctx)
	fl.done = make(chan struct{})
	go func() {
		defer close(fl.done)
		if fl.err = fl.connect(ctx); fl.err != nil {
			return
		}
		for fl.reading.Err() == nil {
			if fl.err = fl.advance(ctx, fl.limit.Load()); fl.err != nil {
				return
			}
			fl.caught.Store(fl.reading.Err() == nil)
			if pause(fl.reading, fillPoll) != nil {
				return
			}
		}
	}()
}

// finish goes the rest of the way to a limit, in the caller's goroutine, when the filler's own has been halted.
func (fl *filler) finish(ctx context.Context, limit uint64) error {
	fl.halt()
	if fl.err != nil {
		return fl.err
	}
	fl.reading = ctx
	return fl.advance(ctx, limit)
}

// halt stops the goroutine and waits for it.
func (fl *filler) halt() {
	fl.stop()
	<-fl.done
}

func (fl *filler) close() {
	fl.halt()
	if fl.conn != nil {
		fl.conn.Close(context.Background()) //nolint:errcheck // what it did is committed
	}
}

func (fl *filler) connect(ctx context.Context) (err error) {
	if fl.conn, err = connect(ctx, fl.opts.StoreURL, fillName(fl.opts.Pipeline)); err != nil {
		return err
	}
	path := foldPath(fillSchema(fl.opts.Pipeline))
	if fl.f, err = newFolding(ctx, fl.conn, fl.opts, fl.view, fl.def, fillSchema(fl.opts.Pipeline), path); err != nil {
		return err
	}
	fl.f.name = fillName(fl.view)
	return fl.load(ctx)
}

// load begins where the store has it.
func (fl *filler) load(ctx context.Context) error {
	if fl.kept != nil {
		fl.pos, fl.seqs, fl.feed, fl.held = fl.kept.pos, maps.Clone(fl.kept.seqs), nil, nil
		fl.f.events, fl.f.bytes = nil, 0
		return nil
	}
	var epoch uint8
	var lsn int64
	var seqs string
	err := fl.conn.QueryRow(ctx, "SELECT epoch, (lsn - '0/0')::bigint, seqs::text FROM walrill.folds WHERE pipeline = $1 AND view = $2",
		fl.opts.Pipeline, fl.view).Scan(&epoch, &lsn, &seqs)
	if err != nil {
		return fmt.Errorf("read how far view %s is filled: %w", fl.view, err)
	}
	fl.pos, fl.seqs, fl.feed, fl.held = event.Clock(epoch, uint64(lsn)), map[string]uint64{}, nil, nil
	if err := json.Unmarshal([]byte(seqs), &fl.seqs); err != nil {
		return fmt.Errorf("read how far view %s is filled: %w", fl.view, err)
	}
	fl.f.events, fl.f.bytes = nil, 0
	return fl.f.loadAside(ctx, fl.conn)
}

// advance folds every event below limit, unless it is halted before.
func (fl *filler) advance(ctx context.Context, limit uint64) error {
	for fl.pos < limit && fl.reading.Err() == nil {
		if err := fl.step(ctx, limit); err != nil {
			return err
		}
	}
	return nil
}

// step folds one batch. When an event of it is refused the next step finds out which.
func (fl *filler) step(ctx context.Context, limit uint64) error {
	pos, err := fl.gather(ctx, limit)
	if err == nil {
		err = fl.commit(ctx, pos)
	}
	if err == nil {
		return nil
	}
	if fl.open {
		fl.open = false
		fl.conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") //nolint:errcheck // err says what is wrong
	}
	halted := fl.reading.Err() != nil && ctx.Err() == nil
	if fl.again = !halted && !fl.again && isDataError(err); !fl.again && !halted {
		return err
	}
	return fl.load(ctx)
}

// gather takes whole transactions below limit, a batch of them, and says up to where. What grows large is applied.
func (fl *filler) gather(ctx context.Context, limit uint64) (uint64, error) {
	if fl.feed == nil {
		after := event.Position{}
		if fl.pos > 0 {
			after = event.Position{Commit: fl.pos - 1, Ordinal: math.MaxUint64}
		}
		var err error
		if fl.feed, err = fl.opts.open(fl.reading, fl.def.Fold.Streams, after); err != nil {
			return 0, err
		}
		if fl.def.Fold.Now {
			fresh, err := begun(fl.reading, fl.feed, fl.def.Fold.Streams, fl.seqs)
			if err != nil {
				return 0, err
			}
			maps.Copy(fl.seqs, fresh)
		}
	}
	var last uint64
	for n := 0; ; n++ {
		e, ok, err := fl.next()
		switch {
		case err != nil:
			return 0, err
		case !ok:
			return min(fl.feed.Watermark(), limit), nil
		case e.Position.Commit >= limit || n >= maxBatch && e.Position.Commit > last:
			fl.held = &e
			return min(e.Position.Commit, limit), nil
		}
		last = e.Position.Commit
		if err := fl.take(ctx, &e); err != nil {
			return 0, err
		}
	}
}

func (fl *filler) next() (event.Event, bool, error) {
	if e := fl.held; e != nil {
		fl.held = nil
		return *e, true, nil
	}
	return fl.feed.Step(fl.reading)
}

func (fl *filler) take(ctx context.Context, e *event.Event) error {
	key := e.Stream.Keys[e.Partition]
	if last := fl.seqs[key]; e.Seq != last+1 {
		return gap(key, last, e)
	}
	fl.seqs[key] = e.Seq
	fl.f.take(e)
	if !fl.f.full() {
		return nil
	}
	if err := fl.begin(ctx); err != nil {
		return err
	}
	return fl.f.flush(ctx, fl.conn, fl.again)
}

func (fl *filler) begin(ctx context.Context) error {
	if fl.open {
		return nil
	}
	fl.open = true
	_, err := fl.conn.Exec(ctx, "BEGIN")
	return err
}

// commit applies the rest of the batch and moves the position to pos.
func (fl *filler) commit(ctx context.Context, pos uint64) error {
	if pos <= fl.pos {
		return nil
	}
	if err := fl.begin(ctx); err != nil {
		return err
	}
	if err := fl.f.flush(ctx, fl.conn, fl.again); err != nil {
		return err
	}
	err := fl.save(ctx, pos)
	if err == nil {
		_, err = fl.conn.Exec(ctx, "COMMIT")
	}
	if err != nil {
		return fmt.Errorf("fill view %s: %w", fl.view, err)
	}
	fl.open, fl.again, fl.pos = false, false, pos
	return nil
}

// save notes how far it is, in the batch's transaction.
func (fl *filler) save(ctx context.Context, pos uint64) error {
	if fl.kept != nil {
		fl.kept = &filled{pos, maps.Clone(fl.seqs)}
		return nil
	}
	seqs, err := json.Marshal(fl.seqs)
	if err != nil {
		return err
	}
	epoch, lsn := event.SplitClock(pos)
	tag, err := fl.conn.Exec(ctx, "UPDATE walrill.folds SET epoch = $4, lsn = '0/0'::pg_lsn + $5::bigint::numeric, seqs = $6::jsonb WHERE pipeline = $1 AND view = $2 AND fence = $3",
		fl.opts.Pipeline, fl.view, fl.fence, int32(epoch), int64(lsn), string(seqs))
	if err == nil && tag.RowsAffected() != 1 {
		err = errFenced
	}
	return err
}

// hole says why the view cannot be filled: events are missing. Empty when that is not why the filler ended.
func (fl *filler) hole() string {
	missing, ok := errors.AsType[*MissingError](fl.err)
	if !ok {
		return ""
	}
	return "it cannot be filled: " + missing.Error() + ". A fold needs every event from the first; with `start: now` it begins with what comes now"
}
