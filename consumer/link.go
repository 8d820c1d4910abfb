package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Waits between attempts double from the first to the last.
const (
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
)

// answerIn bounds one question to a server that accepts it and never answers.
const answerIn = 3 * time.Second

// question is the context of one question to Redis. Its deadline is its own:
// go-redis closes a connection on which a deadline passes, and the end of the
// caller's time is no reason for that. The caller's end still ends a dial.
type question struct {
	context.Context
	deadline time.Time
}

func (q question) Deadline() (time.Time, bool) { return q.deadline, true }

// ask makes the context of a question that Redis may take block to answer.
func ask(ctx context.Context, block time.Duration) context.Context {
	return question{ctx, time.Now().Add(block + answerIn)}
}

// link carries reads through Redis's absences. It tells of each once.
type link struct {
	notify func(Notice)
	since  time.Time // of the first failure; zero when Redis answers
}

// try does something that may be repeated until Redis answers, whether by
// what was asked for or by something that no waiting heals, or ctx ends.
func (l *link) try(ctx context.Context, do func(context.Context) error) error {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		err := do(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err == nil:
			l.up()
			return nil
		case !transient(err):
			return err
		}
		l.down(err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func (l *link) down(err error) {
	if l.since.IsZero() {
		l.since = time.Now()
		l.notify(Disconnected{err})
	}
}

func (l *link) up() {
	if !l.since.IsZero() {
		l.notify(Reconnected{time.Since(l.since)})
		l.since = time.Time{}
	}
}

// pause waits between half of d and d, so that many readers do not return at
// the same moment.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// transient reports whether an error is Redis's absence: no answer at all, or
// an answer that says to come back later. Any other refusal (a wrong
// password, a missing right, a key of another type) stays as it is until
// somebody does something about it.
func transient(err error) bool {
	if errors.Is(err, redis.ErrClosed) {
		return false // the caller closed the client
	}
	if _, ok := errors.AsType[unreadable](err); ok {
		return false
	}
	refusal, refused := errors.AsType[redis.Error](err)
	if !refused {
		return true
	}
	switch word, _, _ := strings.Cut(refusal.Error(), " "); word {
	case "LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK":
		return true
	case "UNBLOCKED": // a failover has made the server a replica while we waited
		return true
	}
	return refusal.Error() == "ERR max number of clients reached"
}

// unreadable is what Redis gave in good order and is not what walrill writes.
type unreadable struct{ error }

func (e unreadable) Unwrap() error { return e.error }
