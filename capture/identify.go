package capture

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/change"
)

// identify asks which cluster this is, and where its earlier timelines were left.
func (s *Source) identify(ctx context.Context, info *Info) error {
	conn, _, err := s.connectReplication(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only asked
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return fmt.Errorf("identify Postgres: %w", err)
	}
	info.SystemID, info.Timeline = id.SystemID, id.Timeline
	if id.Timeline == 1 {
		return nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, conn, id.Timeline)
	if err != nil {
		return fmt.Errorf("read the history of timeline %d: %w", id.Timeline, err)
	}
	if info.History, err = parseHistory(history.Content); err != nil {
		return fmt.Errorf("read the history of timeline %d: %w", id.Timeline, err)
	}
	return nil
}

// parseHistory reads a timeline history file: a line for each timeline before,
// with its number, where it was left, and why.
func parseHistory(content []byte) (map[int32]change.LSN, error) {
	history := map[int32]change.LSN{}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		timeline, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			return nil, err
		}
		if history[int32(timeline)], err = change.ParseLSN(fields[1]); err != nil {
			return nil, err
		}
	}
	return history, nil
}

// primaryOnly wraps what validates a connection: one to a standby is refused, so that of several hosts
// the primary is taken, whatever source.url says of target_session_attrs. Streaming from a standby is
// possible since Postgres 16, but the publication, the marks of backfills and the slot itself cannot
// be looked after there.
func primaryOnly(validate pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if conn.ParameterStatus("in_hot_standby") == "on" {
			return errStandby
		}
		if validate == nil {
			return nil
		}
		return validate(ctx, conn)
	}
}

func (s *Source) setIdentity(info *Info, repair string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.system, s.timeline, s.repair = info.SystemID, info.Timeline, repair
}

// sameServer makes sure that both connections of a stream lead to the server that was prepared:
// while a standby takes over, the same address may lead elsewhere from one moment to the next.
func (s *Source) sameServer(ctx context.Context, stream *Stream) error {
	id, err := pglogrepl.IdentifySystem(ctx, stream.conn)
	if err != nil {
		return fmt.Errorf("identify Postgres: %w", err)
	}
	s.mu.Lock()
	system, timeline := s.system, s.timeline
	s.mu.Unlock()
	if system != "" && (id.SystemID != system || id.Timeline != timeline) {
		return fmt.Errorf("source.url leads to system %s on timeline %d now; a moment ago it was system %s on timeline %d", id.SystemID, id.Timeline, system, timeline)
	}
	return onTimeline(ctx, stream.catalog, id.Timeline)
}

// onTimeline makes sure that an ordinary connection leads to a server on this timeline.
func onTimeline(ctx context.Context, conn *pgx.Conn, want int32) error {
	var name string // of a WAL file: its first eight digits are the timeline
	if err := conn.QueryRow(ctx, `SELECT pg_walfile_name(pg_current_wal_lsn())`).Scan(&name); err != nil {
		return fmt.Errorf("read the timeline: %w", err)
	}
	timeline, err := strconv.ParseInt(name[:min(8, len(name))], 16, 32)
	if err != nil {
		return fmt.Errorf("read the timeline from WAL file %s: %w", name, err)
	}
	if int32(timeline) != want {
		return fmt.Errorf("source.url leads to different servers: one is on timeline %d, another on timeline %d", timeline, want)
	}
	return nil
}
