package sink

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/walrill/walrill/event"
)

// session is what the publisher goroutine knows of the servers it talks to.
type session struct {
	commits    *partition // the key :commits; it has no seq
	link       *link      // nil when there is none
	generation uint64     // of the partitions that the link was verified for
	marked     bool       // :commits is there
	unchecked  bool       // nothing was exchanged yet since it was verified
	used       time.Time  // when something was exchanged last
	nodes      []string   // of the Cluster, as last seen
	attempt    uint64     // number of the present attempt
	requests   []request  // reused
}

func (s *session) close() {
	if s.link != nil {
		s.link.close()
		s.link = nil
	}
}

// ErrTailLost says that Redis has lost entries that it had acknowledged: a
// failover to a replica that lagged, or a restart from an older state. What
// was lost can be published again only from where Postgres's slot still is.
type ErrTailLost struct {
	Key          string         // the stream's partition
	Acknowledged event.Position // what Redis had acknowledged
	Found        event.Position // what is there now; zero when the stream is empty or gone
	Others       int            // further partitions with losses

	// replay is the clock behind which entries may be missing, if :commits does not tell.
	replay uint64
}

// ReplayFrom is the clock that the source has to go back to, so that what is
// lost can be published again. It is 0 when :commits went back together with
// the streams: its top tells then.
func (e ErrTailLost) ReplayFrom() uint64 { return e.replay }

func (e ErrTailLost) Error() string {
	found := "it is gone"
	if !e.Found.IsZero() {
		found = fmt.Sprintf("its last is %s", e.Found.ID())
	}
	others := ""
	if e.Others > 0 {
		others = fmt.Sprintf(" (and %d more partitions)", e.Others)
	}
	return fmt.Sprintf("Redis has lost acknowledged entries of stream %s: it had acknowledged %s and now %s%s", e.Key, e.Acknowledged.ID(), found, others)
}

// ErrDiverged says that a stream is not what this process would have written:
// another instance with another mapping or another backfill has written to it,
// or it was tampered with. A new process starts from what is there.
type ErrDiverged struct {
	Key    string
	Entry  event.Position // ours
	Reason string
}

func (e ErrDiverged) Error() string {
	return fmt.Sprintf("stream %s at entry %s is not what this process publishes: %s", e.Key, e.Entry.ID(), e.Reason)
}

// attempt sends a batch, a mark or both once, over connections that are
// verified and to servers whose state is settled.
func (p *Publisher) attempt(ctx context.Context, b *batch, m mark) error {
	s := &p.session
	s.attempt++
	before := s.link
	if err := p.ensure(ctx); err != nil {
		return err
	}
	if b == nil && m.isZero() {
		return before.ping() // a new link has just been answered
	}
	if !m.isZero() { // what it covers may have been there before this connection was
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
	if b != nil && s.unchecked {
		if err := continues(b.entries, s.attempt); err != nil {
			return err
		}
	}
	if err := p.exchange(ctx, b, m); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	s.unchecked, s.used = false, time.Now()
	s.marked = s.marked || !m.isZero()
	if b != nil {
		for i := range b.entries {
			e := &b.entries[i]
			e.part.sent.acked = e.pos
		}
	}
	return nil
}

// ensure sees to it that there is a verified link for all known partitions.
func (p *Publisher) ensure(ctx context.Context) error {
	s := &p.session
	parts, generation := p.known()
	if s.link != nil && s.generation == generation {
		return nil
	}
	if s.link == nil {
		l, err := p.target.open(ctx, s.nodes)
		if err != nil {
			return err
		}
		s.link = l
		if nodes := l.nodes(); nodes != nil {
			s.nodes = nodes
		}
	}
	if err := p.checkFences(ctx, parts); err != nil {
		return err
	}
	if err := p.verify(ctx, parts); err != nil {
		return err
	}
	s.generation, s.unchecked = generation, true
	p.publishing.connected(s.link)
	return nil
}

// verify reads the tops of all partitions, from the very servers that will be
// written to, and compares them with what was acknowledged.
func (p *Publisher) verify(ctx context.Context, parts []*partition) error {
	l := p.session.link
	var lost []ErrTailLost
	watermarkLost := false
	err := l.readTops(ctx, append([]*partition{p.session.commits}, parts...), func(c *conn, part *partition, reply any) error {
		c.debt = debtOfOthers
		if part == p.session.commits {
			w, err := parseWatermark(part.key, reply)
			p.session.marked = w > 0
			watermarkLost = err == nil && w < p.marks.lastWritten().watermark
			return err
		}
		return p.compare(c, part, reply, &lost)
	})
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		return tailLost(lost, watermarkLost && l.ranges == nil)
	}
	if watermarkLost {
		p.marks.restore()
	}
	return p.restore(ctx)
}

// tailLost sums losses up. One server replicates in order, so there :commits
// goes back with the streams and its top tells how far (told). The nodes of a
// Cluster lose their tails each for itself, and a key can be deleted by hand: then all that is
// known is the last entry that is left.
func tailLost(lost []ErrTailLost, told bool) error {
	e := lost[0]
	e.Others = len(lost) - 1
	if told {
		return e
	}
	e.replay = math.MaxUint64
	for _, l := range lost {
		e.replay = min(e.replay, max(1, l.Found.Commit))
	}
	return e
}

// compare takes over one partition's top and notes a loss.
func (p *Publisher) compare(c *conn, part *partition, reply any, lost *[]ErrTailLost) error {
	t, err := parseTop(part.key, reply)
	if err != nil {
		return err
	}
	part.sent.found = t
	if !t.ID.IsZero() {
		c.witness = part.key
	}
	if t.ID.Compare(part.sent.acked) < 0 {
		*lost = append(*lost, ErrTailLost{Key: part.key, Acknowledged: part.sent.acked, Found: t.ID})
	}
	return nil
}

// continues compares a batch with the tops that were just found: the first
// entry above a partition's top must have the seq after it.
func continues(entries []entry, attempt uint64) error {
	for i := range entries {
		e := &entries[i]
		s := &e.part.sent
		s.stamp(attempt)
		if s.checked || e.pos.Compare(s.found.ID) <= 0 || !s.found.seqKnown {
			continue
		}
		s.checked = true
		if e.seq != s.found.Seq+1 {
			return ErrDiverged{Key: e.part.key, Entry: e.pos,
				Reason: fmt.Sprintf("its seq would be %d, but the entry below, %s, has %d", e.seq, s.found.ID.ID(), s.found.Seq)}
		}
	}
	return nil
}
