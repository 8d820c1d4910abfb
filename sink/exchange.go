package sink

import (
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
	if b != nil && b.guarded && p.name.Load() != nil {
		if err := p.exchangeGuarded(ctx, b); err != nil || m.isZero() {
			return err
		}
		b = nil
	}
	defer func() { clear(s.requests) }() // they hold the batch's buffer, which may be huge
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
	for _, group := range s.groups(b) {
		c, err := s.link.to(ctx, group[0].part.slot)
		if err != nil {
			return nil, err
		}
		var r *request
		requests, r = requestTo(requests, c)
		r.groups = append(r.groups, group)
		r.payload = appendGroup(r.payload, b.buf, group)
	}
	return requests, nil
}

// groups are the entries of a batch that can be in one transaction.
func (s *session) groups(b *batch) (groups [][]entry) {
	if s.link.ranges == nil {
		return [][]entry{b.entries}
	}
	slices.SortStableFunc(b.entries, func(x, y entry) int { return cmp.Compare(x.part.slot, y.part.slot) })
	for rest := b.entries; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].part.slot == rest[0].part.slot {
			n++
		}
		groups = append(groups, rest[:n])
		rest = rest[n:]
	}
	return groups
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
	dst = appendQueued(dst, buf, entries)
	if transaction {
		dst = append(dst, execCommand...)
	}
	return dst
}

func appendQueued(dst, buf []byte, entries []entry) []byte {
	for i := range entries {
		dst = append(dst, buf[entries[i].off:entries[i].end]...)
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
	r.payload = appendMark(r.payload, s.commits.key, m, p.marks.lastWritten(), s.marked)
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
	case isNil(line):
		v.fail(errGone{r.mark})
	case line[0] == '$':
		_, err = r.c.line()
		return err
	case !isDuplicate(line): // one that another instance has written is as good as ours
		v.fail(fmt.Errorf("write watermark to %s: %w", r.mark, replyError(line[1:])))
	}
	return nil
}
