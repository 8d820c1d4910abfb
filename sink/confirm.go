package sink

import (
	"context"
	"fmt"

	"github.com/walrill/walrill/event"
)

// confirm makes sure that entries which were refused as duplicates are there:
// the last one of each partition, with our seq, and nothing between it and what
// was accepted behind it. What is below it is there then too, since seq has no gaps.
func (s *session) confirm(ctx context.Context, parts []*partition) error {
	for _, part := range parts {
		c, err := s.link.to(ctx, part.slot)
		if err != nil {
			return err
		}
		if c.debt != debtOfOurs { // nothing was written over this connection, as far as we know
			c.debt, c.witness = debtOfOthers, part.key
		}
		upper := part.sent.refused.pos.ID()
		if a := part.sent.accepted; a != nil {
			upper = "(" + a.pos.ID()
		}
		replies, err := c.pipeline([][]string{{"XREVRANGE", part.key, upper, "-", "COUNT", "1"}, topCommand(part.key)})
		if err != nil {
			return err
		}
		if err := confirmed(part, replies[0], replies[1]); err != nil {
			return err
		}
	}
	return nil
}

// confirmed judges one partition: below is the entry where the refused one
// should be, info the stream's top.
func confirmed(part *partition, below, info any) error {
	e := part.sent.refused
	if r, bad := below.(replyError); bad {
		return fmt.Errorf("look up entry %s of stream %s: %w", e.pos.ID(), part.key, r)
	}
	t, err := parseTop(part.key, info)
	if err != nil {
		return err
	}
	if found, _ := below.([]any); len(found) == 1 {
		if entry, _ := found[0].([]any); len(entry) == 2 {
			pos, seq, err := identify(entry)
			if err != nil {
				return fmt.Errorf("look up entry %s of stream %s: %w", e.pos.ID(), part.key, err)
			}
			switch {
			case pos == e.pos && seq == e.seq:
				return nil
			case pos.Compare(e.pos) >= 0:
				return ErrDiverged{part.key, e.pos, fmt.Sprintf("we count it as %d, and entry %s is there with seq %d", e.seq, pos.ID(), seq)}
			}
		}
	}
	return absent(part.key, e, t)
}

func identify(entry []any) (event.Position, uint64, error) {
	id, _ := entry[0].(string)
	pos, err := event.ParseID(id)
	if err != nil {
		return pos, 0, err
	}
	seq, err := seqOf(entry)
	return pos, seq, err
}

// absent judges an entry that was refused and is not there. It may have been
// trimmed or deleted by a consumer since; then the top is at or above it in ID
// and in seq alike.
func absent(key string, e *entry, t top) error {
	switch {
	case t.ID.Compare(e.pos) < 0:
		return fmt.Errorf("stream %s refuses entry %s as a duplicate, but its last ID is %s: %w", key, e.pos.ID(), t.ID.ID(), errForeign)
	case t.seqKnown && (t.Seq < e.seq || t.Seq == e.seq && t.ID != e.pos):
		return fmt.Errorf("stream %s refuses entry %s, which would be its %d., as a duplicate, but its last ID %s was its %d.: %w; delete what is not walrill's and set the last ID back with XSETID",
			key, e.pos.ID(), e.seq, t.ID.ID(), t.Seq, errForeign)
	}
	return nil
}
