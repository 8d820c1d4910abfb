package capture

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"

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
