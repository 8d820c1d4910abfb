package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/walrill/walrill/event"
)

const (
	trimPage  = 16 // partitions that are looked at together
	trimCalls = 20 // XTRIMs of a partition in one pass; each looks at 10,000 entries as Redis is set by default
)

// Trimmer removes from streams what Options.Retention allows, over connections of its own. Each pass stands alone: it does
// not matter who trims, or who else does.
type Trimmer struct {
	o      Options
	target *target
	link   *link // nil when there is none
	now    time.Time
	out    TrimReport
}

// TrimScope is a pipeline whose streams are trimmed.
type TrimScope struct {
	Pipeline string
	// Confirmed is the LSN that the source was told to be durable; event.MaxLSN when the watermark alone says what is.
	Confirmed uint64
}

// TrimReport is what a pass has found and done.
type TrimReport struct {
	Streams []TrimmedStream
	Held    []Hold
	// Refused says why partitions were left alone that have a reason of their own, such as a missing right.
	Refused []error
	More    bool // the pass was ended before all was trimmed
}

// TrimmedStream is a stream as a pass has left it.
type TrimmedStream struct {
	Name    string
	Trimmed uint64    // entries, by this pass
	Gone    uint64    // entries that are not there any more, whoever has trimmed them
	Oldest  time.Time // commit time of the oldest entry that is there; zero without any
}

// Hold is a partition that has more than it should, because a consumer group has not read it.
type Hold struct {
	Stream, Key string
	Group       string // that has not read it, the slowest of the partition
	Unread      uint64 // entries from the first that is needed on
	Oldest      time.Time
	Overdue     bool // by half of the limit
}

// NewTrimmer makes a trimmer from the options of a publisher. It talks to no server.
func NewTrimmer(o Options) (*Trimmer, error) {
	t, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	return &Trimmer{o: o, target: t}, nil
}

// Close closes the connections. A pass may follow.
func (t *Trimmer) Close() {
	if t.link != nil {
		t.link.close()
		t.link = nil
	}
}

// Trim makes one pass over the streams of the pipelines. now is what the age of entries is taken against. After an error, which
// never has a secret in it, the report is of what was done before, and the next pass connects anew. One goroutine at a time may call it.
func (t *Trimmer) Trim(ctx context.Context, now time.Time, scopes ...TrimScope) (TrimReport, error) {
	t.now, t.out = now, TrimReport{}
	err := t.trim(ctx, scopes)
	if err != nil {
		t.Close()
	}
	return t.out, err
}

func (t *Trimmer) trim(ctx context.Context, scopes []TrimScope) (err error) {
	if t.link == nil {
		if t.link, err = t.target.open(ctx, nil); err != nil {
			return err
		}
	}
	for _, scope := range scopes {
		meta, safe, err := t.standing(ctx, scope)
		if err != nil {
			return err
		}
		if safe == 0 || meta.Dropped != "" {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(meta.Streams)) {
			if err := t.stream(ctx, event.NewStream(name, meta.Streams[name]), safe); err != nil {
				return err
			}
		}
	}
	return nil
}

// standing reads which streams a pipeline has, and the clock below which nothing is sent again.
func (t *Trimmer) standing(ctx context.Context, scope TrimScope) (meta event.Meta, safe uint64, err error) {
	key, commits := event.MetaKey(scope.Pipeline), event.CommitsKey(scope.Pipeline)
	c, err := t.link.to(ctx, slotOf(commits))
	if err != nil {
		return meta, 0, err
	}
	replies, err := c.pipeline([][]string{{"HGETALL", key}, topCommand(commits)})
	if err != nil {
		return meta, 0, err
	}
	if meta, err = parseMeta(key, replies[0]); err != nil {
		return meta, 0, err
	}
	watermark, err := parseWatermark(commits, replies[1])
	return meta, min(watermark, event.Clock(meta.Epoch, min(scope.Confirmed, event.MaxLSN))), err
}

// trimming is one partition in a pass.
type trimming struct {
	stream, key string
	safe        uint64
	c           *conn
	first, last stored
	limit       event.Position // what is below may go
	by          string         // the group that sets the limit
	search      *search
}

// stream trims the partitions of a stream, some at a time.
func (t *Trimmer) stream(ctx context.Context, s *event.Stream, safe uint64) error {
	t.out.Streams = append(t.out.Streams, TrimmedStream{Name: s.Name})
	byConn := map[*conn][]*trimming{}
	for _, key := range s.Keys {
		c, err := t.link.to(ctx, slotOf(key))
		if err != nil {
			return err
		}
		byConn[c] = append(byConn[c], &trimming{stream: s.Name, key: key, safe: safe, c: c})
	}
	for c, parts := range byConn {
		for len(parts) > 0 {
			n := min(trimPage, len(parts))
			if err := t.page(c, parts[:n]); err != nil {
				return err
			}
			parts = parts[n:]
		}
	}
	return nil
}

// page trims partitions of one server. How far they may go is read again right before, so that a group that was made or set
// back meanwhile is seen.
func (t *Trimmer) page(c *conn, parts []*trimming) error {
	parts, err := t.look(c, parts)
	if err != nil {
		return err
	}
	if parts, err = t.bound(c, parts); err != nil {
		return err
	}
	if parts, err = t.find(c, parts); err != nil {
		return err
	}
	if parts, err = t.bound(c, parts); err != nil {
		return err
	}
	return t.cut(c, parts)
}

// ask sends one command for each partition and hands each reply to take. The partitions for which it was refused, or take
// fails, for a reason of their own are noted and left out of those returned.
func (t *Trimmer) ask(c *conn, parts []*trimming, command func(*trimming) []string, take func(*trimming, any) error) ([]*trimming, error) {
	commands := make([][]string, len(parts))
	for i, p := range parts {
		commands[i] = command(p)
	}
	replies, err := c.pipeline(commands)
	if err != nil {
		return nil, err
	}
	var left []*trimming
	for i, p := range parts {
		err := error(nil)
		if e, bad := replies[i].(replyError); !bad {
			err = take(p, replies[i])
		} else if e == "ERR no such key" || strings.HasPrefix(string(e), "NOGROUP") {
			continue // it is gone since
		} else {
			err = fmt.Errorf("%s %s: %w", commands[i][0], p.key, e)
		}
		switch k := kindOf(err); {
		case err == nil:
			left = append(left, p)
		case k == kindNoPerm || k == kindWrongType || k == kindForeign:
			t.out.Refused = append(t.out.Refused, err)
		default:
			return nil, err
		}
	}
	return left, nil
}

// look finds the partitions whose first entry is surplus.
func (t *Trimmer) look(c *conn, parts []*trimming) ([]*trimming, error) {
	report := &t.out.Streams[len(t.out.Streams)-1]
	var beyond []*trimming
	_, err := t.ask(c, parts, func(p *trimming) []string { return topCommand(p.key) }, func(p *trimming, reply any) (err error) {
		info := asMap(reply)
		if n, _ := info["length"].(int64); n == 0 {
			return nil
		}
		if p.first, err = storedOf(p.key, info["first-entry"]); err != nil {
			return err
		}
		if p.last, err = storedOf(p.key, info["last-entry"]); err != nil {
			return err
		}
		report.Gone += p.first.seq - 1
		if report.Oldest.IsZero() || p.first.time.Before(report.Oldest) {
			report.Oldest = p.first.time
		}
		if t.o.Retention.surplus(p.first, p.last.seq, t.now, marginTrim) && p.first.pos.Compare(p.last.pos) < 0 {
			beyond = append(beyond, p)
		}
		return nil
	})
	return beyond, err
}

// storedOf reads an entry: ID and fields.
func storedOf(key string, v any) (stored, error) {
	entry, _ := v.([]any)
	if len(entry) != 2 {
		return stored{}, fmt.Errorf("read stream %s: %w", key, errProtocol)
	}
	id, _ := entry[0].(string)
	e, err := event.ParseEntry(id, asMap(entry[1]))
	if err != nil || e.Seq == 0 {
		return stored{}, fmt.Errorf("read stream %s: %w: %w; remove it with XDEL", key, errForeign, errors.Join(err, fmt.Errorf("entry %s", id)))
	}
	return stored{e.Position, e.Seq, e.Time}, nil
}

// bound says how far each partition may be trimmed; a limit only ever falls.
func (t *Trimmer) bound(c *conn, parts []*trimming) ([]*trimming, error) {
	groups := map[*trimming][]groupState{}
	if t.o.Retention.KeepUnread {
		var err error
		if parts, err = t.groups(c, parts, groups); err != nil {
			return nil, err
		}
	}
	for _, p := range parts {
		at, by := bound(p.last.pos, p.safe, groups[p])
		if p.limit.IsZero() || at.Compare(p.limit) < 0 {
			p.limit, p.by = at, by
		}
	}
	return parts, nil
}

// groups reads the consumer groups of partitions.
func (t *Trimmer) groups(c *conn, parts []*trimming, groups map[*trimming][]groupState) ([]*trimming, error) {
	type pending struct {
		p *trimming
		i int
	}
	var pendings []pending
	parts, err := t.ask(c, parts, func(p *trimming) []string { return []string{"XINFO", "GROUPS", p.key} }, func(p *trimming, reply any) error {
		list, _ := reply.([]any)
		for _, item := range list {
			info := asMap(item)
			name, _ := info["name"].(string)
			id, _ := info["last-delivered-id"].(string)
			delivered, err := event.ParseID(id)
			if err != nil {
				return fmt.Errorf("read the groups of %s: %w: %w", p.key, errProtocol, err)
			}
			groups[p] = append(groups[p], groupState{name: name, delivered: delivered})
			if n, _ := info["pending"].(int64); n > 0 {
				pendings = append(pendings, pending{p, len(groups[p]) - 1})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, x := range pendings {
		g := &groups[x.p][x.i]
		left, err := t.ask(c, []*trimming{x.p}, func(p *trimming) []string { return []string{"XPENDING", p.key, g.name} }, func(p *trimming, reply any) error {
			summary, _ := reply.([]any)
			if len(summary) < 2 {
				return fmt.Errorf("read what group %s of %s has pending: %w", g.name, p.key, errProtocol)
			}
			oldest, any := summary[1].(string)
			if !any { // acknowledged meanwhile
				return nil
			}
			var err error
			if g.pending, err = event.ParseID(oldest); err != nil {
				err = fmt.Errorf("read what group %s of %s has pending: %w: %w", g.name, p.key, errProtocol, err)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(left) == 0 { // not known: it stays whole
			parts = slices.DeleteFunc(parts, func(p *trimming) bool { return p == x.p })
		}
	}
	return parts, nil
}

// find looks for the place up to which each partition is surplus, and notes who keeps it from being trimmed.
func (t *Trimmer) find(c *conn, parts []*trimming) ([]*trimming, error) {
	for _, p := range parts {
		p.search = newSearch(p.first, p.limit)
	}
	var done []*trimming
	for len(parts) > 0 {
		left, err := t.ask(c, parts, func(p *trimming) []string {
			return []string{"XRANGE", p.key, p.search.next.ID(), "+", "COUNT", "1"}
		}, func(p *trimming, reply any) error {
			var e stored
			surplus := false
			if entries, _ := reply.([]any); len(entries) > 0 {
				var err error
				if e, err = storedOf(p.key, entries[0]); err != nil {
					return err
				}
				surplus = t.o.Retention.surplus(e, p.last.seq, t.now, marginNone)
			}
			if p.search.next == p.limit && surplus && p.by != "" {
				t.held(p, e)
			}
			if p.first.pos.Compare(p.limit) >= 0 { // nothing may go
				p.search.done = true
				return nil
			}
			p.search.found(e, surplus)
			return nil
		})
		if err != nil {
			return nil, err
		}
		parts = nil
		for _, p := range left {
			if !p.search.done {
				parts = append(parts, p)
			} else if p.first.pos.Compare(p.limit) < 0 {
				p.limit = p.search.hi
				done = append(done, p)
			}
		}
	}
	return done, nil
}

// held notes that an entry is surplus and needed.
func (t *Trimmer) held(p *trimming, e stored) {
	t.out.Held = append(t.out.Held, Hold{Stream: p.stream, Key: p.key, Group: p.by, Unread: p.last.seq - e.seq + 1, Oldest: e.time,
		Overdue: t.o.Retention.surplus(e, p.last.seq, t.now, marginWarn)})
}

// cut trims, in calls that each keep Redis for a moment only. It removes whole nodes of a stream, of some hundred entries at most: that
// is cheap, and what is left of the last one goes with the next.
func (t *Trimmer) cut(c *conn, parts []*trimming) error {
	report := &t.out.Streams[len(t.out.Streams)-1]
	for range trimCalls {
		var again []*trimming
		_, err := t.ask(c, parts, func(p *trimming) []string {
			return []string{"XTRIM", p.key, "MINID", "~", p.limit.ID()}
		}, func(p *trimming, reply any) error {
			n, _ := reply.(int64)
			if n > 0 {
				report.Trimmed += uint64(n)
				report.Gone += uint64(n)
				again = append(again, p)
			}
			return nil
		})
		if parts = again; err != nil || len(parts) == 0 {
			return err
		}
	}
	t.out.More = true
	return nil
}
