package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/walrill/walrill/event"
)

// top is the highest entry that a stream ever had. Trimming and XDEL do not
// change it.
type top struct {
	ID  event.Position
	Seq uint64
	// seqKnown is false when the entry is gone and the server, older than
	// Redis 7.0, does not count what it added.
	seqKnown bool
}

// errForeign says that a stream has an entry that is not ours, or a last ID
// that no entry of ours has: whatever we add below it is refused.
var errForeign = errors.New("the stream was written or changed by something else")

// topCommand asks for a stream's top: XINFO STREAM has the last ID, which
// outlives its entry, the last entry, and since 7.0 how many there ever were.
func topCommand(key string) []string { return []string{"XINFO", "STREAM", key} }

// readTops asks for the tops of partitions, each at the server that holds it,
// and hands every reply to take. Only servers that take writes are asked: a
// replica that is still loading from its master is behind, and nothing is lost by that.
func (l *link) readTops(ctx context.Context, parts []*partition, take func(*conn, *partition, any) error) error {
	byConn := map[*conn][]*partition{}
	for _, part := range parts {
		c, err := l.to(ctx, part.slot)
		if err != nil {
			return err
		}
		byConn[c] = append(byConn[c], part)
	}
	for c, parts := range byConn {
		commands := [][]string{probe(parts[0].key)}
		for _, part := range parts {
			commands = append(commands, topCommand(part.key))
		}
		replies, err := c.pipeline(commands)
		if err != nil {
			return err
		}
		if err := probed(parts[0].key, replies[0]); err != nil {
			return err
		}
		for i, part := range parts {
			if err := take(c, part, replies[i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// probe is a command that only a server that takes writes executes, and that
// writes nothing: no entry can have the ID 0-0. A replica, a full server, one
// that loads or a user without rights answers why not.
func probe(key string) []string { return []string{"XADD", key, "NOMKSTREAM", "0-0", "f", "v"} }

func probed(key string, reply any) error {
	e, bad := reply.(replyError)
	if !bad || replyKind(string(e)) == kindOther {
		return nil
	}
	return fmt.Errorf("write to %s: %w", key, e)
}

// parseTop reads the reply to topCommand. A missing key is an empty stream.
func parseTop(key string, reply any) (top, error) {
	if e, bad := reply.(replyError); bad {
		if e == "ERR no such key" {
			return top{seqKnown: true}, nil
		}
		return top{}, fmt.Errorf("read the top of stream %s: %w", key, e)
	}
	info := asMap(reply)
	id, _ := info["last-generated-id"].(string)
	pos, err := event.ParseID(id)
	if err != nil {
		return top{}, fmt.Errorf("read the top of stream %s: %w", key, err)
	}
	if pos.IsZero() {
		return top{seqKnown: true}, nil
	}
	if last, _ := info["last-entry"].([]any); len(last) == 2 && last[0] == id {
		seq, err := seqOf(last)
		if err != nil {
			return top{}, fmt.Errorf("read the top of stream %s: %w", key, err)
		}
		return top{pos, seq, true}, nil
	}
	// The entry is gone: a consumer has deleted it, or all are trimmed. Each of
	// ours was added once, so their number is the last one's seq.
	added, known := info["entries-added"].(int64)
	return top{pos, uint64(added), known}, nil
}

// seqOf is the seq of an entry as XRANGE and XINFO show it: ID and fields.
func seqOf(entry []any) (uint64, error) {
	seq, ok := event.ParseSeq(asMap(entry[1]))
	if !ok {
		return 0, fmt.Errorf("%w: its last entry, %v, has no seq; delete that entry and set the last ID back with XDEL and XSETID", errForeign, entry[0])
	}
	return seq, nil
}
