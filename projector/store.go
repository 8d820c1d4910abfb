package projector

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/event"
)

//go:embed install.sql
var installSQL string

// lockClass is the first half of the advisory lock that says which pipeline a session keeps; walrill.wait knows it.
const lockClass = 2002875506

// sessionName is how a session is called in pg_stat_activity.
func sessionName(name string) string { return short("walrill views " + name) }

// connectTimeout is how long a server may take to answer, unless its URL says otherwise.
const connectTimeout = 10 * time.Second

// connect opens a session of the store.
func connect(ctx context.Context, url, name string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, &SetupError{Problem: "the URL of the view store cannot be read", Err: err}
	}
	for key, value := range map[string]string{
		"application_name":                    sessionName(name),
		"timezone":                            "UTC",
		"datestyle":                           "ISO, MDY",
		"intervalstyle":                       "postgres",
		"extra_float_digits":                  "1",
		"default_transaction_isolation":       "read committed",
		"statement_timeout":                   "0",
		"idle_in_transaction_session_timeout": "0",
		"idle_session_timeout":                "0", // the session that keeps the views has nothing to do at times
		"lock_timeout":                        "0", // a reader of a view that is rebuilt may take its time
		"tcp_keepalives_idle":                 "5", // a host that is gone must not keep the lock
		"tcp_keepalives_interval":             "5",
		"tcp_keepalives_count":                "2",
		"jit":                                 "off", // the same small statements again and again
	} {
		config.RuntimeParams[key] = value
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the view store: %w", err)
	}
	return conn, nil
}

// install makes what walrill keeps in a store. Rights that are lacking are the caller's to report.
func install(ctx context.Context, conn *pgx.Conn, schemas ...string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Two that come at the same time would meet in the catalogue.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1, 0)", lockClass); err != nil {
			return err
		}
		sql := installSQL
		for _, schema := range schemas {
			sql += "CREATE SCHEMA IF NOT EXISTS " + quoteIdent(schema) + ";\n"
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, "SET LOCAL client_min_messages = warning;"+sql).ReadAll(); err != nil {
			return fmt.Errorf("prepare the view store: %w", err)
		}
		return nil
	})
}

// mirrorSchema holds a pipeline's mirrors, which queries name without a schema.
func mirrorSchema(pipeline string) string { return "walrill_" + identifier(pipeline) }

// tryLock takes the pipeline's lock for this session, if nobody has it.
func (s *session) tryLock(ctx context.Context) (bool, error) {
	var ok bool
	err := s.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, hashtext($2))", lockClass, s.opts.Pipeline).Scan(&ok)
	if err != nil {
		return false, fmt.Errorf("take the lock of the views: %w", err)
	}
	return ok, nil
}

const (
	standbyPoll = 500 * time.Millisecond
	// frozenFor is how long a projector may do nothing although there is something to do before another ends its session.
	frozenFor = 15 * time.Second
)

// alone makes sure that no other pipeline has the schema of this one: their names may differ in a sign only.
func (s *session) alone(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT pipeline FROM walrill.pipelines WHERE pipeline <> $1", s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("read the pipelines of the view store: %w", err)
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read the pipelines of the view store: %w", err)
	}
	for _, other := range others {
		if short(mirrorSchema(other)) == short(mirrorSchema(s.opts.Pipeline)) {
			return &SetupError{Problem: fmt.Sprintf("pipeline %s has the schema %s of the view store already, which pipeline %s would have, too", other, mirrorSchema(other), s.opts.Pipeline),
				Fix: "give one of them another name, or a store of its own"}
		}
	}
	return nil
}

// lead waits until this session has the lock, and raises the fence.
func (s *session) lead(ctx context.Context) error {
	var behind time.Time // since when the holder does not follow the watermark
	var reached uint64
	for {
		ok, err := s.tryLock(ctx)
		if err != nil {
			return err
		}
		if ok {
			break
		}
		if s.projector.Status().State != StateStandby {
			s.projector.note(func(st *Status) { // who keeps them knows how far they are
				st.State, st.Error, st.Clock, st.Gap = StateStandby, "another projector keeps the views", 0, ""
			})
			s.opts.Log.Info("another projector keeps the views: waiting to take over")
		}
		if reached, behind, err = s.watchHolder(ctx, reached, behind); err != nil {
			return err
		}
		if err := pause(ctx, standbyPoll); err != nil {
			return err
		}
	}
	// Fillers of one who is frozen would have ours wait for their transactions.
	_, err := s.conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user AND application_name = $1",
		sessionName(fillName(s.opts.Pipeline)))
	if err == nil {
		_, err = s.conn.Exec(ctx, "INSERT INTO walrill.pipelines (pipeline) VALUES ($1) ON CONFLICT DO NOTHING", s.opts.Pipeline)
	}
	if err == nil {
		err = s.conn.QueryRow(ctx, "UPDATE walrill.pipelines SET fence = fence + 1 WHERE pipeline = $1 RETURNING fence", s.opts.Pipeline).Scan(&s.fence)
	}
	if err != nil {
		return fmt.Errorf("raise the fence of the views: %w", err)
	}
	return nil
}

// watchHolder ends the session of a holder that is frozen: that idles for long although the watermark is above its position, also in
// the middle of what it sends.
func (s *session) watchHolder(ctx context.Context, reached uint64, behind time.Time) (uint64, time.Time, error) {
	var pid int32
	var idle float64
	var shown int64
	err := s.conn.QueryRow(ctx, `
		SELECT a.pid, CASE WHEN (a.state LIKE 'idle%' OR a.wait_event_type = 'Client') AND NOT EXISTS (SELECT FROM pg_stat_activity f WHERE f.datname = a.datname
			AND f.application_name = $3 AND f.state = 'active' AND f.wait_event_type IS DISTINCT FROM 'Client') THEN extract(epoch FROM clock_timestamp() - a.state_change) ELSE 0 END::float8,
		       coalesce((SELECT max((p.classid::bigint << 32) | p.objid::bigint) FROM pg_locks p WHERE p.pid = o.pid AND p.locktype = 'advisory' AND p.objsubid = 1), 0)
		FROM pg_locks o JOIN pg_stat_activity a ON a.pid = o.pid
		WHERE o.locktype = 'advisory' AND o.objsubid = 2 AND o.classid = $1 AND o.objid::bigint = (hashtext($2)::bigint & 4294967295) AND o.granted
		  AND o.database = (SELECT oid FROM pg_database WHERE datname = current_database())`, lockClass, s.opts.Pipeline, sessionName(fillName(s.opts.Pipeline))).Scan(&pid, &idle, &shown)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("look at the projector that keeps the views: %w", err)
	}
	watermark, err := s.opts.Watermark(ctx)
	if err != nil || watermark <= uint64(shown) || uint64(shown) != reached || behind.IsZero() {
		return uint64(shown), time.Now(), nil //nolint:nilerr // without Redis nobody gets on
	}
	if time.Since(behind) < frozenFor || idle < frozenFor.Seconds() {
		return reached, behind, nil
	}
	s.opts.Log.Warn("the projector that keeps the views does nothing although there is something to do: ending its session", "pid", pid)
	_, err = s.conn.Exec(ctx, "SELECT pg_terminate_backend($1)", pid)
	return 0, time.Time{}, err
}

// position is where the pipeline's views are, as the store has it.
type position struct {
	shown uint64 // every commit below is in the live views; 0 before there is any
	read  uint64 // every event below was read
	gap   string
}

func (s *session) loadPosition(ctx context.Context) (position, error) {
	var p position
	var epoch, readEpoch uint8
	var lsn, readLSN int64
	err := s.conn.QueryRow(ctx, `
		SELECT epoch, coalesce(lsn - '0/0', 0)::bigint, read_epoch, coalesce(read_lsn - '0/0', 0)::bigint, coalesce(gap, '')
		FROM walrill.pipelines WHERE pipeline = $1`, s.opts.Pipeline).Scan(&epoch, &lsn, &readEpoch, &readLSN, &p.gap)
	if err != nil {
		return p, fmt.Errorf("read the position of the views: %w", err)
	}
	p.shown, p.read = event.Clock(epoch, uint64(lsn)), event.Clock(readEpoch, uint64(readLSN))
	return p, nil
}

// savePosition is the statement that moves the position and checks the fence: it changes one row or none.
const savePosition = `
	UPDATE walrill.pipelines SET epoch = $3, lsn = '0/0'::pg_lsn + $4::bigint::numeric, read_epoch = $5, read_lsn = '0/0'::pg_lsn + $6::bigint::numeric, gap = nullif($7, '')
	WHERE pipeline = $1 AND fence = $2`

func (s *session) positionArgs(p position) []any {
	epoch, lsn := event.SplitClock(p.shown)
	readEpoch, readLSN := event.SplitClock(p.read)
	return []any{s.opts.Pipeline, s.fence, int32(epoch), int64(lsn), int32(readEpoch), int64(readLSN), p.gap}
}

// saveStatement moves the position, and checks the fence.
func (s *session) saveStatement(p position) statement {
	if s.worker != nil {
		return s.worker.save(p.shown)
	}
	return statement{sql: savePosition, args: s.positionArgs(p), rows: 1}
}

var errFenced = errors.New("another projector has taken over")

// in runs f in a transaction of the store that checks the fence and ends at the position.
func (s *session) in(ctx context.Context, p position, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		st := s.saveStatement(p)
		tag, err := tx.Exec(ctx, st.sql, st.args...)
		if err == nil {
			err = st.check(tag.RowsAffected())
		}
		return err
	})
}

// show tells walrill.wait how far the views are without a write: the session's other lock has the number.
func (s *session) show(ctx context.Context, clock uint64) error {
	if clock == s.lock {
		return nil
	}
	// Shared: another pipeline of the same source may be at the same position.
	sql, args := "SELECT pg_advisory_lock_shared($1)", []any{int64(clock)}
	if s.lock != 0 {
		sql, args = "SELECT pg_advisory_lock_shared($1), pg_advisory_unlock_shared($2)", []any{int64(clock), int64(s.lock)}
	}
	if _, err := s.conn.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("show the position of the views: %w", err)
	}
	s.lock = clock
	return nil
}

// hide takes the number back: the views do not follow any more.
func (s *session) hide(ctx context.Context) error {
	if s.lock == 0 {
		return nil
	}
	_, err := s.conn.Exec(ctx, "SELECT pg_advisory_unlock_shared($1)", int64(s.lock))
	s.lock = 0
	return err
}

func pgError(err error) *pgconn.PgError {
	e, _ := errors.AsType[*pgconn.PgError](err)
	return e
}

// noViewsYet reports whether a query failed because no daemon has kept views in this store yet, which has walrill's tables made.
func noViewsYet(err error) bool {
	e := pgError(err)
	return e != nil && (e.Code == "42P01" || e.Code == "3F000")
}

// isDataError reports whether a statement was refused for what the rows hold, so that it fails again
// with the same rows and works with others.
func isDataError(err error) bool {
	if _, ok := errors.AsType[*Refusal](err); ok {
		return true
	}
	e := pgError(err)
	return e != nil && (slices.Contains([]string{"21", "22", "23"}, e.Code[:min(2, len(e.Code))]) || e.Code == "P0001" || e.Code == "2200G")
}

// isDefinitionError reports whether SQL that somebody wrote is at fault.
func isDefinitionError(err error) bool {
	e := pgError(err)
	return e != nil && (strings.HasPrefix(e.Code, "42") || strings.HasPrefix(e.Code, "0A") || e.Code == dependentObjects || isDataError(err))
}

// dependentObjects is the SQLSTATE that something else is built on what is to be dropped.
const dependentObjects = "2BP01"

// reason is what Postgres has to say, without where it was said.
func reason(err error) string {
	e := pgError(err)
	if e == nil {
		return err.Error()
	}
	if e.Code == dependentObjects {
		// The detail names them. Of other errors it may have values of rows.
		return fmt.Sprintf("%s: %s; drop them, and make them again when the view is complete (SQLSTATE %s)", e.Message, strings.ReplaceAll(e.Detail, "\n", ", "), e.Code)
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code)
}
