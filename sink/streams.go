package sink

import (
	"context"
	"fmt"

	"github.com/walrill/walrill/event"
)

// partition is one Redis key and what each goroutine knows of it.
type partition struct {
	key  string
	slot uint16

	// filled is the run loop's: the last entry taken, or what was there before.
	filled struct {
		pos event.Position
		seq uint64
	}

	sent sent
}

// sent is what the publisher goroutine knows of a partition.
type sent struct {
	acked event.Position // the last entry known to be there, as durable as was asked for
	found top            // what was there when the link was verified

	// What happened in one attempt; stamp starts it anew.
	attempt  uint64
	broken   bool   // an entry met an error
	checked  bool   // its first new entry continues what was found
	refused  *entry // the last one refused as a duplicate
	accepted *entry // the first one accepted behind a refused one
}

func newPartition(key string) *partition { return &partition{key: key, slot: slotOf(key)} }

// AddStream reads the top of each of a stream's partitions, so that Append
// knows what to skip and where to count on. It comes after Connect, is
// idempotent, and tries until ctx ends, so it blocks while Redis is away. A
// stream that cannot be continued is an error with a method Permanent. It returns the
// highest position that was ever in any of the partitions.
func (p *Publisher) AddStream(ctx context.Context, s *event.Stream) (highest event.Position, err error) {
	if parts, known := p.streams[s]; known {
		return highestOf(parts), nil
	}
	parts := make([]*partition, len(s.Keys))
	var fresh []*partition
	for i, key := range s.Keys {
		if parts[i] = p.byKey[key]; parts[i] == nil {
			parts[i] = newPartition(key)
			fresh = append(fresh, parts[i])
		}
	}
	err = p.insist(ctx, "add stream "+s.Name, func(l *link) error {
		if err := p.claimParts(ctx, l, fresh); err != nil { // before their tops are read
			return err
		}
		return loadTops(ctx, l, fresh, p.epoch)
	})
	if err != nil {
		return highest, err
	}
	for _, part := range fresh {
		p.byKey[part.key] = part
	}
	p.streams[s] = parts
	p.lastOf = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts = append(p.parts, fresh...)
	p.generation++
	return highestOf(parts), nil
}

func highestOf(parts []*partition) (highest event.Position) {
	for _, part := range parts {
		if part.filled.pos.Compare(highest) > 0 {
			highest = part.filled.pos
		}
	}
	return highest
}

// loadTops sets where the partitions stand from what is in Redis.
func loadTops(ctx context.Context, l *link, parts []*partition, epoch uint8) error {
	return l.readTops(ctx, parts, func(_ *conn, part *partition, reply any) error {
		t, err := parseTop(part.key, reply)
		if err != nil {
			return err
		}
		if err := t.check(part.key, epoch); err != nil {
			return err
		}
		part.filled.pos, part.filled.seq = t.ID, t.Seq
		part.sent.acked = t.ID
		return nil
	})
}

// check refuses a stream that cannot be continued.
func (t top) check(key string, epoch uint8) error {
	if !t.seqKnown {
		return permanent{fmt.Errorf("stream %s has lost its last entry, and this Redis does not say how many there were (since 7.0 it does): the next seq is unknown; delete the stream or upgrade Redis", key)}
	}
	if e, _ := event.SplitClock(t.ID.Commit); e > epoch {
		return permanent{fmt.Errorf("stream %s has entries of epoch %d, and this pipeline is at epoch %d: another instance has adopted a new history, or the entries are not walrill's", key, e, epoch)}
	}
	return nil
}

// known are the partitions that were added, and a number that grows with them.
// Any goroutine may call it.
func (p *Publisher) known() ([]*partition, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parts, p.generation
}
