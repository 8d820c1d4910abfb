package sink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/walrill/walrill/event"
)

// Rows of a backfill are not in the WAL: only who read them can publish them, and whoever takes over counts on from
// what it finds. A batch with such rows that comes after that would make the seqs of both wrong. So each
// publisher writes its name, a claim, into a key before it reads the tops of the streams, and a batch with such rows is executed
// only when that key was not touched since it was seen to hold our name: WATCH, then a look, then the transaction.
// In a Cluster each partition has such a key in its own slot; else one is for all.

// ErrFenced says that another publisher has taken over.
type ErrFenced struct{ Key, Held string }

func (e ErrFenced) Error() string {
	if e.Held == "" {
		return fmt.Sprintf("%s, which says who writes, is gone from Redis", e.Key)
	}
	return fmt.Sprintf("another instance of the pipeline has taken over: %s says %q", e.Key, e.Held)
}

// Claim says that this publisher is the one that writes now. It comes before AddStream, when no other
// instance can be at work any more but those that do not know yet. It tries until ctx ends.
func (p *Publisher) Claim(ctx context.Context) error {
	return p.insist(ctx, "claim the streams", func(l *link) error {
		c, err := l.to(ctx, p.session.commits.slot)
		if err != nil {
			return err
		}
		return p.claim(c, event.WriterKey(p.o.Pipeline))
	})
}

// Claimed is the key that tells who writes, and what it says as long as that is this publisher. Any goroutine may call it.
func (p *Publisher) Claimed() (key, claim string) {
	if name := p.name.Load(); name != nil {
		return event.WriterKey(p.o.Pipeline), *name
	}
	return "", ""
}

// claim writes our name, unless a later one is there.
func (p *Publisher) claim(c *conn, key string) error {
	held, err := c.watch(key)
	if err != nil {
		return err
	}
	name := p.name.Load()
	if name == nil {
		fresh := fmt.Sprintf("%d:%s", term(held)+1, rand.Text())
		name = &fresh
	}
	if held != *name && term(held) >= term(*name) {
		return ErrFenced{key, held}
	}
	replies, err := c.pipeline([][]string{{"MULTI"}, {"HSET", key, event.ClaimField, *name}, {"EXEC"}})
	if err != nil {
		return err
	}
	if err := executed(key, replies); err != nil {
		return err
	}
	p.name.Store(name)
	return nil
}

// term is the number of a claim: each is above those before it.
func term(claim string) uint64 {
	text, _, _ := strings.Cut(claim, ":")
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0 // none yet
	}
	return n
}

// claimParts claims partitions in a Cluster, where each has a key of its own.
func (p *Publisher) claimParts(ctx context.Context, l *link, parts []*partition) error {
	if l.ranges == nil || p.name.Load() == nil {
		return nil
	}
	for _, part := range parts {
		c, err := l.to(ctx, part.slot)
		if err != nil {
			return err
		}
		key := p.fenceOf(l, part)
		if slotOf(key) != part.slot {
			return permanent{fmt.Errorf("stream %s cannot be in a Cluster: no other key can be made sure to be in its slot; choose a name without braces", part.key)}
		}
		if err := p.claim(c, key); err != nil {
			return err
		}
	}
	return nil
}

// fenceOf is the key that tells who writes to a partition.
func (p *Publisher) fenceOf(l *link, part *partition) string {
	if l.ranges == nil {
		return event.WriterKey(p.o.Pipeline)
	}
	return event.PartitionWriterKey(p.o.Pipeline, part.key)
}

// checkFences makes sure on a new link that nobody has taken over, also when a failover has lost our claim: another
// instance may have believed in its own again.
func (p *Publisher) checkFences(ctx context.Context, parts []*partition) error {
	if p.name.Load() == nil {
		return nil
	}
	l := p.session.link
	if l.ranges == nil && len(parts) > 1 {
		parts = parts[:1]
	}
	for _, part := range parts {
		c, err := l.to(ctx, part.slot)
		if err != nil {
			return err
		}
		if err := p.guard(c, p.fenceOf(l, part)); err != nil {
			return err
		}
	}
	return nil
}

// guard has the connection watch a fence that is still ours.
func (p *Publisher) guard(c *conn, key string) error {
	if c.watched == key {
		return nil
	}
	held, err := c.watch(key)
	if err != nil {
		return err
	}
	return p.hold(c, key, held)
}

func (p *Publisher) hold(c *conn, key, held string) error {
	if held != *p.name.Load() {
		return ErrFenced{key, held}
	}
	c.watched = key
	return nil
}

// watch begins to watch a key and returns the claim in it.
func (c *conn) watch(key string) (claim string, err error) {
	replies, err := c.pipeline(watchCommands(key))
	if err != nil {
		return "", err
	}
	return watched(key, replies[0], replies[1])
}

func watchCommands(key string) [][]string { return [][]string{{"WATCH", key}, {"HGETALL", key}} }

func watched(key string, replies ...any) (claim string, err error) {
	for _, reply := range replies {
		if e, bad := reply.(replyError); bad {
			return "", fmt.Errorf("watch %s: %w", key, e)
		}
	}
	claim, _ = asMap(replies[1])[event.ClaimField].(string)
	return claim, nil
}

// errTouched is an EXEC that did nothing since what was watched has changed. The next look says how.
var errTouched = errors.New("somebody has written to the key that tells who writes")

// exchangeGuarded is exchange for a batch with rows of a backfill: a transaction a slot, one after the other.
func (p *Publisher) exchangeGuarded(ctx context.Context, b *batch) error {
	s := &p.session
	v := verdict{attempt: s.attempt}
	for _, group := range s.groups(b) {
		c, err := s.link.to(ctx, group[0].part.slot)
		if err != nil {
			return err
		}
		key := p.fenceOf(s.link, group[0].part)
		if err := p.guard(c, key); err != nil {
			return err
		}
		c.watched = ""
		payload := b.buf
		if s.link.ranges != nil {
			payload = appendQueued(append(c.w[:0], multiCommand...), b.buf, group)
		}
		payload = append(payload, execCommand...)
		payload = appendCommands(payload, watchCommands(key)) // for the next batch
		if err := c.send(payload, 0); err != nil {
			return err
		}
		v.c = c
		if err := v.transaction(group); err != nil {
			return err
		}
		if err := p.readWatch(c, key); err != nil {
			return err
		}
	}
	if v.err == nil && len(v.refused) > 0 {
		return s.confirm(ctx, v.refused)
	}
	return v.err
}

// readWatch reads the replies to what follows a transaction. Who has taken over meanwhile stops the next batch, not this one.
func (p *Publisher) readWatch(c *conn, key string) error {
	var replies [2]any
	for i := range replies {
		var err error
		if replies[i], err = c.reply(); err != nil {
			return err
		}
	}
	held, err := watched(key, replies[:]...)
	if err == nil && held == *p.name.Load() {
		c.watched = key
	}
	return err
}
