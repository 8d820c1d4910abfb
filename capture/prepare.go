package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const oldestVersion = 140000

// Prepare checks that Postgres is fit, and creates the publication and the
// slot or brings them up to date. It can be called again at any time.
//
// With a system identifier that is another than this Postgres's, it touches nothing: the streams
// come from elsewhere. It returns a *SlotLostError when a slot that the streams
// were fed from is gone or cannot be used any more, and a *RecoveryError while the server is a standby.
func (s *Source) Prepare(ctx context.Context, known Known) (Info, error) {
	var info Info
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return info, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	if err := checkServer(ctx, conn); err != nil {
		return info, err
	}
	if err := s.identify(ctx, &info); err != nil {
		return info, err
	}
	if err := onTimeline(ctx, conn, info.Timeline); err != nil {
		return info, err
	}
	if system := known.System; system != "" && system != info.SystemID {
		return info, &SetupError{
			Problem: fmt.Sprintf("this is another Postgres: the streams in Redis come from system %s, source.url leads to system %s", system, info.SystemID),
			Fix:     "correct source.url, or run `walrill adopt` to let this system continue the streams in a new epoch"}
	}
	tables, unfit, err := s.wantedTables(ctx, conn)
	if err = errors.Join(err, unfit); err != nil {
		return info, err
	}
	if err := s.checkSweep(ctx, conn, s.selection(), tables); err != nil {
		return info, err
	}
	info.Tables = relations(tables)
	for _, name := range s.missing(tables) {
		s.opts.Log.Warn("the configuration names a table that does not exist; it is captured from when it is made", "table", name)
	}
	// What is to be backfilled is recorded before anything is made that tells it later.
	if err := s.planBackfills(ctx, conn, tables, known); err != nil {
		return info, err
	}
	// The publication first: the slot must not start where it does not exist yet.
	pub, err := s.ensurePublication(ctx, conn, tables)
	if err != nil {
		return info, err
	}
	info.SlotUsed = pub.comment == s.usedMark()
	state, created, err := s.ensureSlot(ctx, conn, &info, known)
	if err != nil {
		return info, err
	}
	info.Confirmed, info.SlotCreated = state.Confirmed, created
	s.setPrepared(tables)
	s.setIdentity(&info, known.Repair)
	s.warnUnrepairable(ctx, conn, tables)
	return info, nil
}

// server is what Postgres says of itself and of our role.
type server struct {
	version      int // server_version_num
	walLevel     string
	mayReplicate bool
	role         string
}

func readServer(ctx context.Context, conn *pgx.Conn) (server, error) {
	var v server
	var err error
	if v.version, err = serverVersion(ctx, conn); err != nil {
		return v, err
	}
	err = conn.QueryRow(ctx, `SELECT current_setting('wal_level'), current_user::text,
		(SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)`).
		Scan(&v.walLevel, &v.role, &v.mayReplicate)
	if err != nil {
		return v, fmt.Errorf("check Postgres: %w", err)
	}
	return v, nil
}

// problems are what is in the way, the worst first.
func (v server) problems() []error {
	var problems []error
	if v.version < oldestVersion {
		problems = append(problems, &SetupError{Problem: fmt.Sprintf("Postgres %d is too old", v.version/10000), Fix: "upgrade to Postgres 14 or later"})
	}
	if v.walLevel != "logical" {
		problems = append(problems, &SetupError{Problem: "wal_level is " + v.walLevel + ", it must be logical",
			Fix: "ALTER SYSTEM SET wal_level = logical; -- then restart Postgres"})
	}
	if !v.mayReplicate {
		problems = append(problems, &SetupError{Problem: "the role in source.url may not replicate", Fix: fmt.Sprintf("ALTER ROLE %s REPLICATION;", quote(v.role))})
	}
	return problems
}

func checkServer(ctx context.Context, conn *pgx.Conn) error {
	v, err := readServer(ctx, conn)
	if err != nil {
		return err
	}
	for _, problem := range v.problems() {
		return problem
	}
	return nil
}

func serverVersion(ctx context.Context, conn *pgx.Conn) (int, error) {
	var version int
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the server's version: %w", err)
	}
	return version, nil
}
