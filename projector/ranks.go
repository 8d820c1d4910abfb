package projector

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ofStream reports whether a key is a partition of a stream, or the stream itself.
func ofStream(key, stream string) bool {
	return key == stream || strings.HasPrefix(key, stream+":")
}

// isRead reports whether something of a stream is among the seqs that are known.
func isRead(seqs map[string]uint64, stream string) bool {
	for key := range seqs {
		if ofStream(key, stream) {
			return true
		}
	}
	return false
}

// begun are the partitions of streams that are read for the first time, with the seqs that they had come to. From then on
// every event of them is accounted for, also the first one of a partition that had none: known is what was read before. A stream
// that does not exist yet is noted under its own name.
func begun(ctx context.Context, feed Feed, streams []string, known map[string]uint64) (map[string]uint64, error) {
	streams = slices.DeleteFunc(slices.Clone(streams), func(stream string) bool { return isRead(known, stream) })
	if len(streams) == 0 {
		return nil, nil
	}
	ranks, err := feed.Ranks(ctx)
	if err != nil {
		return nil, err
	}
	fresh := map[string]uint64{}
	for _, stream := range streams {
		some := false
		for key, seq := range ranks {
			if ofStream(key, stream) {
				fresh[key], some = seq, true
			}
		}
		if !some {
			fresh[stream] = 0
		}
	}
	return fresh, nil
}

// beginStreams notes from which event on each partition is read, at once: later nobody could tell.
func (s *session) beginStreams(ctx context.Context, feed Feed, streams []string) error {
	fresh, err := begun(ctx, feed, streams, s.seqs)
	if err != nil || len(fresh) == 0 {
		return err
	}
	for key, seq := range fresh {
		s.seqs[key], s.dirty[key] = seq, true
	}
	return s.in(ctx, s.pos, func(tx pgx.Tx) error {
		if err := s.saveSeqs(ctx, tx); err != nil {
			return fmt.Errorf("note where the streams are read from: %w", err)
		}
		return nil
	})
}
