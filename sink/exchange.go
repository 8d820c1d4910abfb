package sink

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
)

// request is what one server gets in one exchange.
type request struct {
	c       *conn
	payload []byte
	groups  [][]entry // each one transaction
	mark    string    // the key of the mark that the payload ends with, if any
}

// exchange sends a batch, a mark or both, reads every reply and returns nil
// only when every entry is in its stream. An error says what to do by its type:
// fatal ones end the publisher, after others the whole batch is sent again.
func (p *Publisher) exchange(ctx context.Context, b *batch, m mark) error {
	s := &p.session
	var err error
	if s.requests, err = s.plan(ctx, b, s.requests[:0]); err != nil {
		return err
	}
	if !m.isZero() {
		if err := p.addMark(ctx, m); err != nil {
			return err
		}
	}
	for i := range s.requests {
		if err := s.requests[i].c.send(s.requests[i].payload, 0); err != nil {
			return err
		}
	}
	v := verdict{attempt: s.attempt}
	for i := range s.requests {
		if err := s.requests[i].read(&v); err != nil {
			return err
		}
	}
	if v.err == nil && len(v.refused) > 0 {
		return s.confirm(ctx, v.refused)
	}
	return v.err
}

// plan makes the requests of a batch: one to the one server, or one a node with
// a transaction a slot.
func (s *session) plan(ctx context.Context, b *batch, requests []request) ([]request, error) {
	if b == nil {
		return requests, nil
	}
	if s.link.ranges == nil {
		c, err := s.link.to(ctx, 0)
		if err != nil {
			return nil, err
		}
		return append(requests, request{c: c, payload: b.wire(), groups: [][]entry{b.entries}}), nil
	}
	slices.SortStableFunc(b.entries, func(x, y entry) int { return cmp.Compare(x.part.slot, y.part.slot) })
	for rest := b.entries; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].part.slot == rest[0].part.slot {
			n++
		}
		c, err := s.link.to(ctx, rest[0].part.slot)
		if err != nil {
			return nil, err
		}
		var r *request
		requests, r = requestTo(requests, c)
		r.groups = append(r.groups, rest[:n])
		r.payload = appendGroup(r.payload, b.buf, rest[:n])
		rest = rest[n:]
	}
	return requests, nil
}

// requestTo finds the request to c, or adds one.
func requestTo(requests []request, c *conn) ([]request, *request) {
	for i := range requests {
		if requests[i].c == c {
			return requests, &requests[i]
		}
	}
	requests = append(requests, request{c: c})
	return requests, &requests[len(requests)-1]
}

// appendGroup appends some entries of a batch as a transaction of their own.
func appendGroup(dst, buf []byte, entries []entry) []byte {
	transaction := len(entries) > 1
	if transaction {
		dst = append(dst, multiCommand...)
	}
	for i := range entries {
		dst = append(dst, buf[entries[i].off:entries[i].end]...)
	}
	if transaction {
		dst = append(dst, execCommand...)
	}
	return dst
}

// addMark adds a mark behind whatever its server gets. It must not be in a
// transaction with entries that it does not cover.
func (p *Publisher) addMark(ctx context.Context, m mark) error {
	s := &p.session
	c, err := s.link.to(ctx, s.commits.slot)
	if err != nil {
		return err
	}
	var r *request
	s.requests, r = requestTo(s.requests, c)
	r.mark = s.commits.key
	r.payload = appendMark(r.payload, s.commits.key, m, p.marks.lastWritten())
	return nil
}

// read reads all replies to a request. Its error is the connection's; what the
// replies say goes into the verdict.
func (r *request) read(v *verdict) error {
	for _, entries := range r.groups {
		v.c = r.c
		var err error
		if len(entries) == 1 {
			err = v.result(&entries[0])
		} else {
			err = v.transaction(entries)
		}
		if err != nil {
			return err
		}
	}
	if r.mark == "" {
		return nil
	}
	line, err := r.c.line()
	switch {
	case err != nil:
		return err
	case line[0] == '$':
		_, err = r.c.line()
		return err
	case !isDuplicate(line): // one that another instance has written is as good as ours
		v.fail(fmt.Errorf("write watermark to %s: %w", r.mark, replyError(line[1:])))
	}
	return nil
}

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
