// Package capture turns what Postgres's logical replication says into
// changes. It owns the connections to Postgres, the slot and the publication,
// and the position that is confirmed. It knows nothing of events, streams or
// Redis.
package capture

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walrill/walrill/change"
)

// Options are what a Source needs to know.
type Options struct {
	URL          string // of an ordinary connection; postgres://… or keyword/value
	Pipeline     string
	Slot         string
	Publication  string
	ReplayWindow time.Duration // hold the confirmed position back by this long
	Selection
	// Adopt: make a slot anew although it was streamed from before.
	Adopt bool
	// Repairs: a lost slot will be repaired, so tables that could not be are warned of.
	Repairs  bool
	Backfill BackfillOptions
	Log      *slog.Logger
}

// Selection is which tables are captured.
type Selection struct {
	// Wanted says whether a table is to be captured; an error says why it
	// cannot be, and how that is mended. It is never called twice at the same time.
	Wanted func(*change.Relation) (bool, error)
	// Named are the tables that the configuration names one by one, and where: file:line.
	Named map[string]string
	// Prefixes are those of the logical messages that are wanted, too. With some, no table need be.
	Prefixes []string
	// Consumed says whether rows of a table are deleted once they are consumed; nil for none. Any goroutine may call it.
	Consumed func(*change.Relation) bool
}

// Source is a Postgres database that changes are captured from.
type Source struct {
	opts   Options
	config *pgx.ConnConfig

	selecting sync.Mutex // around every use of opts.Selection
	selected  int        // selections put in force by Select; guarded by selecting
	applied   int        // the last of them whose tables are the publication's; Refresh's

	attached map[[2]uint32]bool // partitions that were warned of, by OID behind their table's; Refresh's

	endangered atomic.Bool // the slot is lost at the next checkpoint, as WatchSlot last saw

	mu         sync.Mutex
	system     string             // of the last Prepare; guarded by mu
	timeline   int32              // likewise
	repair     string             // the repair whose messages are heeded; guarded by mu
	tables     []*change.Relation // of the last Prepare; guarded by mu
	backfills  *backfills         // of the last stream; guarded by mu
	lostBehind change.LSN         // rows of backfills behind it may be gone; 0: none are; guarded by mu
}

// Info is what Prepare found.
type Info struct {
	SystemID    string
	Timeline    int32
	History     map[int32]change.LSN // where each earlier timeline was left
	Confirmed   change.LSN           // the slot's confirmed_flush_lsn
	SlotCreated bool                 // the slot was missing and was made now
	SlotUsed    bool                 // the publication says that a daemon has streamed from the slot (see MarkUsed)
	Tables      []*change.Relation
}

// Known is what the streams say of where they come from. The zero Known says nothing:
// then any Postgres will do.
type Known struct {
	System   string     // Postgres's system identifier
	Timeline int32      // on which the streams were left
	Complete change.LSN // what committed before is in the streams; 0 when they have not begun
	Repair   string     // of the last repair of a lost slot; its messages are heeded, others are not
}

// NewSource reads the connection string. It does not connect.
func NewSource(opts Options) (*Source, error) {
	config, err := pgx.ParseConfig(opts.URL)
	if err != nil {
		return nil, fmt.Errorf("source.url: %w", err)
	}
	// Values must come as the JSON encoding expects them, and our own small commits must not wait for a synchronous
	// standby that may not answer, nor be refused by a default that is meant for applications.
	for name, value := range map[string]string{
		"client_encoding": "UTF8", "timezone": "UTC", "datestyle": "ISO", "intervalstyle": "postgres",
		"extra_float_digits": "1", "bytea_output": "hex", "synchronous_commit": "local",
		"default_transaction_read_only": "off", "default_transaction_isolation": "read committed", "quote_all_identifiers": "off",
		"statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0",
	} {
		config.RuntimeParams[name] = value
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "walrill " + opts.Pipeline
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	opts.Backfill.ChunkRows = cmp.Or(max(opts.Backfill.ChunkRows, 0), defaultChunkRows)
	opts.Backfill.Readers = cmp.Or(max(opts.Backfill.Readers, 0), defaultReaders)
	config.ValidateConnect = primaryOnly(config.ValidateConnect)
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements: safe behind a pooler and across restarts
	return &Source{opts: opts, config: config, attached: map[[2]uint32]bool{}}, nil
}

// Database is the database's name.
func (s *Source) Database() string { return cmp.Or(s.config.Database, s.config.User) }

// connect opens an ordinary connection. The caller closes it.
func (s *Source) connect(ctx context.Context) (*pgx.Conn, error) {
	return s.connectWith(ctx, s.config.Copy())
}

// connectCancelling is connect for statements that may wait long, for a lock
// or for transactions: when ctx ends they are cancelled in the server too.
func (s *Source) connectCancelling(ctx context.Context) (*pgx.Conn, error) {
	config := s.config.Copy()
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 2 * time.Second}
	}
	return s.connectWith(ctx, config)
}

func (s *Source) connectWith(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, setupError(fmt.Errorf("connect to Postgres: %w", reached(err)), &s.opts)
	}
	return conn, nil
}

// connectReplication opens a replication connection that is read message by message.
func (s *Source) connectReplication(ctx context.Context) (*pgconn.PgConn, *frameReader, error) {
	config := s.config.Config.Copy()
	config.RuntimeParams["replication"] = "database"
	dial := config.DialFunc
	var pace pace
	var ahead *readAhead
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		pace, ahead = paceOf(c.RemoteAddr()), nil
		if b, ok := c.(interface{ SetReadBuffer(int) error }); ok && pace.buffer > 0 {
			err = b.SetReadBuffer(pace.buffer)
		}
		if config.TLSConfig != nil || slices.ContainsFunc(config.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig != nil }) {
			ahead = newReadAhead(c)
			c = ahead
		}
		return c, err
	}
	var frames *frameReader
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		frames = newFrameReader(r, pace)
		frames.ahead = ahead
		return pgproto3.NewFrontend(frames, w)
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, nil, setupError(fmt.Errorf("connect to Postgres for replication: %w", reached(err)), &s.opts)
	}
	return conn, frames, nil
}

// Open starts streaming from the slot's confirmed position. It returns a
// *SlotBusyError while another process has the slot, and a *SetupError when
// the slot cannot be used any more.
func (s *Source) Open(ctx context.Context) (*Stream, error) {
	catalog, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	stream := &Stream{slot: s.opts.Slot, endangered: &s.endangered, catalog: catalog, heard: time.Now()}
	if err := s.start(ctx, stream); err != nil {
		_ = catalog.Close(context.WithoutCancel(ctx)) // the error that counts is at hand
		return nil, err
	}
	if s.opts.Backfill.Store != nil {
		stream.backfills = newBackfills(s, stream)
		s.mu.Lock()
		s.backfills = stream.backfills
		s.mu.Unlock()
	}
	return stream, nil
}

func (s *Source) start(ctx context.Context, stream *Stream) error {
	if err := s.dial(ctx, stream); err != nil {
		return err
	}
	err := s.replicate(ctx, stream, s.opts.Slot)
	if err == nil {
		err = s.confirmed(ctx, stream)
	}
	if err != nil {
		_ = stream.conn.Close(context.WithoutCancel(ctx)) // the error that counts is at hand
		return s.startError(err)
	}
	return nil
}

// dial makes what a stream is read with, and opens its replication connection.
func (s *Source) dial(ctx context.Context, stream *Stream) error {
	interval, err := reportInterval(ctx, stream.catalog)
	if err != nil {
		return err
	}
	stream.ledger = ledger{interval: interval, window: s.opts.ReplayWindow, at: time.Now()}
	types := newTypeCatalogue()
	stream.decoder = newDecoder(func(rel *change.Relation, columns []columnType) error {
		return describe(ctx, stream.catalog, types, rel, columns)
	})
	stream.decoder.repairs = s.repairPrefix()
	stream.decoder.emptied = func(content []byte) (*change.Relation, error) { return s.emptied(ctx, stream, types, content) }
	stream.decoder.outside = s.warnOutside()
	if stream.conn, stream.frames, err = s.connectReplication(ctx); err != nil {
		return err
	}
	if err := s.sameServer(ctx, stream); err != nil {
		_ = stream.conn.Close(context.WithoutCancel(ctx)) // the error that counts is at hand
		return err
	}
	return nil
}

func (s *Source) replicate(ctx context.Context, stream *Stream, slot string) error {
	return pglogrepl.StartReplication(ctx, stream.conn, quote(slot), 0, pglogrepl.StartReplicationOptions{
		Mode:       pglogrepl.LogicalReplication,
		PluginArgs: []string{"proto_version '1'", "publication_names " + literal(quote(s.opts.Publication)), "messages 'true'"},
	})
}

// warnOutside says once a prefix that messages which are wanted come without a transaction.
func (s *Source) warnOutside() func(string) {
	said := map[string]bool{}
	return func(prefix string) {
		if !said[prefix] && slices.Contains(s.selection().Prefixes, prefix) {
			said[prefix] = true
			s.opts.Log.Warn("a message that is not transactional is not published: it has no position of its own; write pg_logical_emit_message(true, …)", "prefix", prefix)
		}
	}
}

// confirmed reads where the slot starts, now that nobody else can move it.
func (s *Source) confirmed(ctx context.Context, stream *Stream) error {
	state, err := readSlot(ctx, stream.catalog, s.opts.Slot)
	if err != nil {
		return err
	}
	stream.start = state.Confirmed
	stream.ledger.durable = state.Confirmed
	return nil
}

func (s *Source) startError(err error) error {
	return setupError(fmt.Errorf("start replication from slot %s: %w", s.opts.Slot, err), &s.opts)
}

// reportInterval is how often the server wants to hear from us at least: a
// third of wal_sender_timeout, and no more than ten seconds.
func reportInterval(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	var ms int64
	err := conn.QueryRow(ctx, `SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'`).Scan(&ms)
	if err != nil {
		return 0, fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	interval := 10 * time.Second
	if ms > 0 {
		interval = min(interval, time.Duration(ms)*time.Millisecond/3)
	}
	return interval, nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
