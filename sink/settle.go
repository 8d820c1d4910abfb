package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Durability is what Redis must have done with an entry before it counts as
// acknowledged. The zero value asks for no more than its reply.
type Durability struct {
	Replicas int           // have it: WAIT
	Fsync    bool          // the server's AOF is fsynced, and those of Replicas: WAITAOF, Redis 7.2 and later
	Timeout  time.Duration // of one wait; a new one follows. Default 5s
}

func (d Durability) none() bool { return d.Replicas == 0 && !d.Fsync }

// debt is what a server has yet to be asked for.
type debt int

const (
	noDebt       debt = iota
	debtOfOurs        // we wrote over this connection
	debtOfOthers      // something is there that counts as ours and was not written over this connection
)

// errShort says that too few replicas have what was written.
var errShort = errors.New("not as durable as asked for")

// settle waits until what is in Redis is as durable as was asked for. When it
// is not in time, that is reported and waited for again: the entries are there,
// so there is nothing to send again.
func (p *Publisher) settle(ctx context.Context) error {
	for _, c := range p.session.link.conns {
		if p.o.Durability.none() || c.debt == debtOfOthers && c.witness == "" {
			c.debt = noDebt // nothing is asked for, or nothing is there
		}
		if c.debt == debtOfOthers {
			if err := c.touch(); err != nil {
				return err
			}
			c.debt = debtOfOurs
		}
		for attempt := 0; c.debt != noDebt; attempt++ {
			err := c.await(p.o.Durability)
			if err == nil {
				c.debt = noDebt
				break
			}
			if !errors.Is(err, errShort) {
				return err
			}
			p.publishing.failed(err)
			if !p.backoff(ctx, attempt) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// touch makes a write over this connection that leaves nothing behind. WAIT
// asks for what its own connection has written, and since Redis 7.2 it is
// satisfied at once on one that has written nothing; so entries written over an
// earlier connection need a write behind them to be waited for.
func (c *conn) touch() error {
	const group = "walrill:wait"
	replies, err := c.pipeline([][]string{{"MULTI"},
		{"XGROUP", "CREATE", c.witness, group, "$"}, {"XGROUP", "DESTROY", c.witness, group}, {"EXEC"}})
	if err != nil {
		return err
	}
	for _, r := range replies {
		if e, bad := r.(replyError); bad {
			return fmt.Errorf("write to stream %s: %w", c.witness, e)
		}
	}
	results, _ := replies[3].([]any)
	for _, r := range results {
		if e, bad := r.(replyError); bad {
			return fmt.Errorf("write to stream %s: %w", c.witness, e)
		}
	}
	return nil
}

// await asks once. Its error is errShort when the time was not enough.
func (c *conn) await(d Durability) error {
	replicas, timeout := strconv.Itoa(d.Replicas), strconv.FormatInt(max(1, d.Timeout.Milliseconds()), 10)
	command := []string{"WAIT", replicas, timeout}
	if d.Fsync {
		command = []string{"WAITAOF", "1", replicas, timeout}
	}
	replies, err := c.pipelineFor([][]string{command}, d.Timeout)
	if err != nil {
		return err
	}
	switch r := replies[0].(type) {
	case int64:
		if r >= int64(d.Replicas) {
			return nil
		}
		return fmt.Errorf("%w: %d of %d replicas within %v", errShort, r, d.Replicas, d.Timeout)
	case []any:
		if len(r) != 2 {
			break
		}
		local, _ := r[0].(int64)
		remote, _ := r[1].(int64)
		if local >= 1 && remote >= int64(d.Replicas) {
			return nil
		}
		return fmt.Errorf("%w: fsynced by %d of 1 server and %d of %d replicas within %v", errShort, local, remote, d.Replicas, d.Timeout)
	case replyError:
		return fmt.Errorf("%s: %w", command[0], r)
	}
	return fmt.Errorf("%s: %w", command[0], errProtocol)
}
