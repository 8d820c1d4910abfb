package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walrill/walrill/change"
)

// Stream is an open replication connection. One goroutine owns it and calls
// everything but Wake.
type Stream struct {
	slot     string
	unread   time.Time // since when nothing was read, because the sink is slow; zero when it is not
	conn     *pgconn.PgConn
	frames   *frameReader
	catalog  *pgx.Conn // for the definitions of tables and types
	decoder  *decoder
	ledger   ledger
	item     change.Item
	idleSaid bool
	heard    time.Time // when something last came from the server
	woken    atomic.Bool
	start    change.LSN
	patience time.Duration // silence that is no sign of a dead connection: a walsender may be busy
	checked  time.Time     // when the catalogue's connection was last looked at

	endangered *atomic.Bool // the Source's

	backfills *backfills // nil without a store for them
	rows      *emission  // of a chunk that is being handed out; else nil
	begun     bool       // Next was called
}

const (
	// closeTimeout bounds the wait for the server's farewell.
	closeTimeout = 2 * time.Second
	// silenceLimit is how many report intervals a server that was asked for
	// an answer may take for it.
	silenceLimit = 4
	// letGoAfter is how long a slot that is about to be lost is held without reading.
	letGoAfter = 2 * time.Second
	// checkInterval is how often it is looked whether Postgres is shutting down.
	checkInterval = time.Second
)

// Start is the slot's confirmed position when the stream was opened: where it starts.
func (s *Stream) Start() change.LSN { return s.start }

// Next returns what the server said next. With nothing buffered it first
// returns an idle item and waits for the network in the call after that, at
// most until a report is due or Wake is called, and then is idle again. The item
// is valid until the next call.
func (s *Stream) Next() (*change.Item, error) {
	if s.rows != nil {
		if s.rows.next(&s.item) {
			return &s.item, nil
		}
		s.rows = nil
	}
	if !s.begun {
		if err := s.beginBackfills(); err != nil {
			return nil, err
		}
	}
	for {
		kind, body, ok, err := s.frames.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			if !s.idleSaid {
				s.idleSaid = true
				s.item = change.Item{Kind: change.ItemIdle, Busy: s.frames.busy()}
				return &s.item, nil
			}
			s.idleSaid = false
			if err := s.wait(); err != nil {
				return nil, err
			}
			continue
		}
		if ok, err = s.message(kind, body); err != nil {
			return nil, err
		} else if ok {
			if s.backfills != nil && s.backfills.core.on.Load() {
				s.rows = s.backfills.core.see(&s.item, s.decoder.relations)
			}
			return &s.item, nil
		}
	}
}

// beginBackfills comes with the first Next: the streams of the sink are known by then to be this pipeline's.
func (s *Stream) beginBackfills() error {
	s.begun = true
	if s.backfills == nil {
		return nil
	}
	return s.backfills.begin()
}

// wait sends a report when one is due and reads once.
func (s *Stream) wait() error {
	if err := s.beat(); err != nil {
		return err
	}
	s.frames.gather()
	if err := s.conn.Conn().SetReadDeadline(s.deadline()); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	// Wake sets the flag first and the deadline second, so either the flag is seen here or
	// its deadline comes after ours.
	if s.woken.Swap(false) {
		return nil
	}
	s.unread = time.Time{}
	err := s.frames.fill()
	switch {
	case err == nil:
		s.heard = time.Now()
		return nil
	case !isTimeout(err):
		return fmt.Errorf("read from Postgres: %w", err)
	case time.Since(s.heard) > max(silenceLimit*s.ledger.interval, s.patience):
		return fmt.Errorf("read from Postgres: no answer for %s", time.Since(s.heard).Round(time.Second))
	}
	return nil
}

// deadline is when a read has to give up: a report is due then, or a backlog
// turns out to be over and whoever gathers a batch wants to know.
func (s *Stream) deadline() time.Time {
	due := s.ledger.due()
	if s.frames.busy() {
		return earlier(due, time.Now().Add(busyPatience))
	}
	return due
}

// message handles one protocol message and reports whether it made an item.
func (s *Stream) message(kind byte, body []byte) (bool, error) {
	switch kind {
	case 'd':
		return s.copyData(body)
	case 'E':
		var msg pgproto3.ErrorResponse
		if err := msg.Decode(body); err != nil {
			return false, fmt.Errorf("read error of Postgres: %w", err)
		}
		return false, undecodable(pgconn.ErrorResponseToPgError(&msg), s.slot)
	case 'c', 'C', 'Z':
		return false, errServerEnded
	case 'N', 'S', 'A':
		return false, nil
	}
	return false, fmt.Errorf("read from Postgres: unexpected message %q while replicating", kind)
}

var errServerEnded = errors.New("Postgres ended the replication stream: it is shutting down, or the walsender was told to stop")

const walDataHeader = 1 + 8 + 8 + 8 // kind, start, end of WAL, server's clock

func (s *Stream) copyData(body []byte) (bool, error) {
	switch {
	case len(body) >= walDataHeader && body[0] == pglogrepl.XLogDataByteID:
		return s.decoder.decode(body[walDataHeader:], &s.item)
	case len(body) == 18 && body[0] == pglogrepl.PrimaryKeepaliveMessageByteID:
		if body[17] != 0 {
			s.ledger.asked = true
		}
		s.item = change.Item{Kind: change.ItemWatermark,
			Watermark: change.LSN(binary.BigEndian.Uint64(body[1:])),
			Time:      postgresTime(int64(binary.BigEndian.Uint64(body[9:])))}
		return true, nil
	}
	return false, fmt.Errorf("read from Postgres: malformed replication message of %d bytes", len(body))
}

// Confirm says that everything that committed before lsn is durable in the
// sink. Postgres is told soon after, and may then forget it.
func (s *Stream) Confirm(lsn change.LSN) {
	if s.backfills != nil && s.backfills.core.on.Load() {
		lsn = s.backfills.core.durable(lsn)
	}
	s.ledger.confirm(lsn, time.Now())
}

// Beat sends a report when one is due. Next does so by itself; whoever does
// not call Next for a while, because the sink is slow, calls Beat instead.
func (s *Stream) Beat() error {
	s.heard = time.Now() // not listening, so silence says nothing
	if s.unread.IsZero() {
		s.unread = s.heard
	}
	// A checkpoint that removes the slot's WAL waits until the walsender has ended, which tells us so first, and that waits
	// until we read. Without checkpoints no WAL is removed, whoever's: Postgres's disk fills.
	if s.endangered.Load() && time.Since(s.unread) > letGoAfter {
		return fmt.Errorf("slot %s is lost at Postgres's next checkpoint, and nothing is read while the sink takes nothing: letting go of it, since the checkpoint would wait for this connection", s.slot)
	}
	return s.beat()
}

func (s *Stream) beat() error {
	now := time.Now()
	if now.Sub(s.checked) > checkInterval {
		s.checked = now
		// A server that shuts down ends ordinary connections at once, and then
		// waits for walsenders to have everything confirmed, which may take for
		// ever while the sink is down. So give way to it.
		//lint:ignore SA1019 it must not wait for an answer, as Ping does
		if err := s.catalog.PgConn().CheckConn(); err != nil {
			return fmt.Errorf("%w: %w", errServerEnded, err)
		}
	}
	if now.Before(s.ledger.due()) {
		return nil
	}
	return s.report(now)
}

// report sends the durable position, and asks for an answer when the server has
// been silent for an interval: a dead connection shows itself by that.
func (s *Stream) report(now time.Time) error {
	lsn := pglogrepl.LSN(s.ledger.report(now))
	if err := s.conn.Conn().SetWriteDeadline(now.Add(10 * time.Second)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: lsn, WALFlushPosition: lsn, WALApplyPosition: lsn, ClientTime: now,
		ReplyRequested: now.Sub(s.heard) >= s.ledger.interval,
	})
	if err != nil {
		return fmt.Errorf("report position to Postgres: %w", err)
	}
	return nil
}

// Wake makes a waiting Next return an idle item soon. It may be called from
// any goroutine, also after Close.
func (s *Stream) Wake() {
	s.woken.Store(true)
	// A closed connection has no deadline to set: Next fails by itself then.
	_ = s.conn.Conn().SetReadDeadline(time.Unix(1, 0))
}

// Close reports the last position, ends the stream so that the server has
// read the report, and closes the connections.
func (s *Stream) Close() error {
	if s.backfills != nil {
		s.backfills.close()
	}
	err := s.farewell()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(err, s.catalog.Close(ctx), s.conn.Close(ctx))
}

// Abort closes the connections as they are.
func (s *Stream) Abort() {
	if s.backfills != nil {
		s.backfills.close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// What these say is of no use any more: the stream has failed already.
	_ = s.conn.Conn().Close()
	_ = s.conn.Close(ctx)
	_ = s.catalog.Close(ctx)
}

func (s *Stream) farewell() error {
	if err := s.report(time.Now()); err != nil {
		return err
	}
	done, err := (&pgproto3.CopyDone{}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := s.conn.Conn().Write(done); err != nil {
		return fmt.Errorf("end replication: %w", err)
	}
	if err := s.conn.Conn().SetReadDeadline(time.Now().Add(closeTimeout)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	for {
		kind, _, ok, err := s.frames.next()
		switch {
		case err != nil:
			return err
		case ok && (kind == 'C' || kind == 'E' || kind == 'Z'):
			return nil
		case ok:
		default:
			if err := s.frames.fill(); err != nil {
				return fmt.Errorf("end replication: %w", err)
			}
		}
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}
