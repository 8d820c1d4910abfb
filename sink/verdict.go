package sink

import (
	"bytes"
	"fmt"
)

// verdict is what the replies of one exchange come to.
type verdict struct {
	attempt uint64
	c       *conn        // whose replies are read
	err     error        // the first reason why a batch is not through
	refused []*partition // with entries refused as duplicates, to be confirmed
}

// fail keeps the first error, unless a later one is worse.
func (v *verdict) fail(err error) {
	if v.err == nil || fatal(err) && !fatal(v.err) {
		v.err = err
	}
}

// transaction reads the replies to MULTI, the entries and EXEC. The reason why
// a transaction is refused comes with its entries, before EXEC's.
func (v *verdict) transaction(entries []entry) error {
	line, err := v.c.line()
	if err != nil {
		return err
	}
	// When MULTI was refused, the rest was executed one by one.
	bare := line[0] == '-'
	if bare {
		v.fail(fmt.Errorf("begin transaction: %w", replyError(line[1:])))
	} else if line[0] != '+' {
		return v.c.malformed(line[0], string(line[1:]))
	}
	for i := range entries {
		if bare {
			err = v.result(&entries[i])
		} else {
			err = v.queued(&entries[i])
		}
		if err != nil {
			return err
		}
	}
	if line, err = v.c.line(); err != nil {
		return err
	}
	if line[0] == '-' {
		v.fail(fmt.Errorf("end transaction: %w", replyError(line[1:])))
		return nil
	}
	if string(line) == "*-1" {
		v.fail(errTouched)
		return nil
	}
	if n, ok := number(line); line[0] != '*' || !ok || n != len(entries) {
		return v.c.malformed(line[0], string(line[1:]))
	}
	for i := range entries {
		if err := v.result(&entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// queued reads the reply to an entry inside of a transaction.
func (v *verdict) queued(e *entry) error {
	line, err := v.c.line()
	if err != nil {
		return err
	}
	switch line[0] {
	case '+':
		return nil
	case '-':
		v.fail(fmt.Errorf("stream %s: %w", e.part.key, replyError(line[1:])))
		return nil
	}
	return v.c.malformed(line[0], string(line[1:]))
}

// result reads what became of an entry.
func (v *verdict) result(e *entry) error {
	line, err := v.c.line()
	if err != nil {
		return err
	}
	s := &e.part.sent
	s.stamp(v.attempt)
	switch {
	case isNil(line):
		s.broken = true
		v.fail(errGone{e.part.key})
	case line[0] == '$':
		v.accepted(e)
		_, err = v.c.line() // the ID
	case isDuplicate(line):
		if s.refused == nil {
			v.refused = append(v.refused, e.part)
		}
		s.refused = e
	case line[0] == '-':
		s.broken = true
		v.fail(fmt.Errorf("stream %s: %w", e.part.key, replyError(line[1:])))
	default:
		err = v.c.malformed(line[0], string(line[1:]))
	}
	return err
}

// accepted notes an entry that was added. One behind an entry that met an error
// leaves a hole that can never be filled: transactions make that impossible, and
// if it happens all the same it must not pass in silence.
func (v *verdict) accepted(e *entry) {
	v.c.debt = debtOfOurs // also for what was there before: replication is in order
	s := &e.part.sent
	if s.broken {
		v.fail(ErrDiverged{Key: e.part.key, Entry: e.pos, Reason: "it was added though the one before it was refused"})
	}
	if s.refused != nil && s.accepted == nil {
		s.accepted = e
	}
}

// stamp starts the notes of another attempt.
func (s *sent) stamp(attempt uint64) {
	if s.attempt != attempt {
		s.attempt = attempt
		s.broken, s.checked, s.refused, s.accepted = false, false, nil, nil
	}
}

// errGone says that a key that was there is gone: it was deleted, or the whole server was emptied. It is no
// kind of trouble that passes; the tops, which are read with the next connection, tell what is lost.
type errGone struct{ key string }

func (e errGone) Error() string { return e.key + " is gone from Redis" }

func isNil(line []byte) bool { return string(line) == "$-1" }

var duplicate = []byte("equal or smaller than")

func isDuplicate(line []byte) bool {
	return line[0] == '-' && bytes.HasPrefix(line, []byte("-ERR")) && bytes.Contains(line, duplicate)
}

// number reads the decimal behind a line's type.
func number(line []byte) (int, bool) {
	n := 0
	for _, d := range line[1:] {
		if d < '0' || d > '9' || n > 1<<30 {
			return 0, false
		}
		n = n*10 + int(d-'0')
	}
	return n, len(line) > 1
}
