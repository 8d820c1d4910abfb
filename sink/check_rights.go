package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/walrill/walrill/event"
)

// need is a command on a key that walrill will send.
type need struct {
	args   []string
	reader bool // only `walrill tail` and its like need it
	trim   bool // only sink.retention needs it
}

// rights finds out which commands the user may not run. They are queued in a
// transaction that is never executed: Redis looks at the rights when it queues.
func (c *checker) rights(ctx context.Context, streams []*event.Stream) bool {
	byAddr := map[string][]need{}
	add := func(key string, needs []need) {
		if addr, err := c.link.addrOf(slotOf(key)); err == nil {
			byAddr[addr] = append(byAddr[addr], needs...)
		}
	}
	for _, key := range event.ControlKeys(c.o.Pipeline) {
		add(key, controlNeeds(c.o.Pipeline, key))
	}
	for _, s := range streams {
		for _, key := range s.Keys {
			add(key, c.streamNeeds(key))
			if c.link.ranges != nil {
				add(key, claimNeeds(event.PartitionWriterKey(c.o.Pipeline, key)))
			}
		}
	}
	lacks := &lacking{}
	for _, addr := range slices.Sorted(maps.Keys(byAddr)) {
		if err := c.tryAll(ctx, addr, byAddr[addr], lacks); err != nil {
			c.found("writing to Redis", err)
			return false
		}
	}
	return c.report(lacks, streams)
}

// claimNeeds are those of a hash that is changed only as long as nobody else has changed it.
func claimNeeds(key string) []need {
	return []need{{args: []string{"WATCH", key}}, {args: []string{"HGETALL", key}}, {args: []string{"HSET", key, "f", "v"}}}
}

func controlNeeds(pipeline, key string) []need {
	switch key {
	case event.CommitsKey(pipeline):
		return []need{{args: probe(key)}, {args: topCommand(key)},
			{args: []string{"XREVRANGE", key, "+", "-", "COUNT", "1"}},
			{args: []string{"XREAD", "COUNT", "1", "STREAMS", key, "$"}, reader: true}}
	case event.CatalogueKey(pipeline), event.WriterKey(pipeline):
		return claimNeeds(key)
	case event.MetaKey(pipeline), event.BackfillKey(pipeline):
		return []need{{args: []string{"HGETALL", key}}, {args: []string{"HSET", key, "f", "v"}},
			{args: []string{"HMGET", key, "f"}, reader: true}}
	}
	return nil
}

func (c *checker) streamNeeds(key string) []need {
	needs := []need{{args: probe(key)}, {args: topCommand(key)},
		{args: []string{"XREVRANGE", key, "+", "-", "COUNT", "1"}},
		{args: []string{"XRANGE", key, "-", "+", "COUNT", "1"}, reader: true},
		{args: []string{"XREAD", "COUNT", "1", "STREAMS", key, "$"}, reader: true},
		{args: []string{"EXISTS", key}, reader: true}}
	if d := c.o.Durability; !d.none() {
		wait := []string{"WAIT", "0", "1"}
		if d.Fsync {
			wait = []string{"WAITAOF", "0", "0", "1"}
		}
		needs = append(needs, need{args: wait}, need{args: []string{"XGROUP", "CREATE", key, "walrill:wait", "$"}},
			need{args: []string{"XGROUP", "DESTROY", key, "walrill:wait"}})
	}
	if r := c.o.Retention; !r.None() {
		needs = append(needs, need{args: []string{"XTRIM", key, "MINID", "~", "0-1"}, trim: true}, need{args: []string{"XRANGE", key, "-", "+", "COUNT", "1"}, trim: true})
		if r.KeepUnread {
			needs = append(needs, need{args: []string{"XINFO", "GROUPS", key}, trim: true}, need{args: []string{"XPENDING", key, "g"}, trim: true})
		}
	}
	return needs
}

// lacking is what was refused.
type lacking struct {
	commands, readers, trims []string // as ACL rules
	keys                     []string
	err                      error // why it takes no writes at all
}

func (c *checker) tryAll(ctx context.Context, addr string, needs []need, lacks *lacking) error {
	conn, err := c.target.dial(ctx, addr, c.target.hello())
	if err != nil {
		return err
	}
	defer conn.close() // with it goes the transaction
	var begin, queue [][]string
	var queued []need
	for _, n := range needs {
		if n.args[0] == "WATCH" { // it cannot be queued, and does nothing by itself
			begin = append(begin, n.args)
			continue
		}
		queue, queued = append(queue, n.args), append(queued, n)
	}
	for _, args := range append(begin, []string{"MULTI"}, []string{"EXEC"}, []string{"MULTI"}) {
		_, err := conn.do(args...)
		if err != nil && args[0] == "WATCH" {
			var reply replyError
			if !errors.As(err, &reply) {
				return err
			}
			lacks.note(need{args: args}, reply)
			continue
		}
		if err != nil && kindOf(err) == kindNoPerm {
			lacks.commands = append(lacks.commands, "+multi", "+exec")
			return nil // not in a transaction: what comes next would be executed
		}
		if err != nil {
			return err
		}
	}
	replies, err := conn.pipeline(queue)
	if err != nil {
		return err
	}
	for i, reply := range replies {
		if e, bad := reply.(replyError); bad {
			lacks.note(queued[i], e)
		}
	}
	return nil
}

func (l *lacking) note(n need, e replyError) {
	switch {
	case replyKind(string(e)) != kindNoPerm:
		if l.err == nil {
			l.err = e
		}
	case strings.Contains(string(e), "key"):
		l.keys = append(l.keys, n.args[keyIndex(n.args[0])])
	case n.trim:
		l.trims = append(l.trims, rule(n.args))
	case n.reader:
		l.readers = append(l.readers, rule(n.args))
	default:
		l.commands = append(l.commands, rule(n.args))
	}
}

func keyIndex(command string) int {
	switch command {
	case "XREAD":
		return 4
	case "XINFO", "XGROUP":
		return 2
	}
	return 1
}

// rule is the ACL rule that allows a command.
func rule(args []string) string {
	name := "+" + strings.ToLower(args[0])
	if args[0] == "XINFO" || args[0] == "XGROUP" {
		name += "|" + strings.ToLower(args[1])
	}
	return name
}

// report makes findings of what the user lacks, with the one command that grants it.
func (c *checker) report(l *lacking, streams []*event.Stream) bool {
	fix := func(rules []string) string {
		slices.Sort(rules)
		return fmt.Sprintf("redis-cli ACL SETUSER %s %s   # ACL SAVE or CONFIG REWRITE keeps it", c.user(), strings.Join(slices.Compact(rules), " "))
	}
	if len(l.commands) > 0 || len(l.keys) > 0 {
		rules := slices.Clone(l.commands)
		for _, pattern := range c.patterns(l.keys, streams) {
			rules = append(rules, "'~"+pattern+"'")
		}
		slices.Sort(l.keys)
		keys := slices.Compact(l.keys)
		c.fail("rights", fix(rules), "user %s may not use all the commands and keys that walrill needs (%d commands, %d keys)", c.user(), len(slices.Compact(slices.Sorted(slices.Values(l.commands)))), len(keys))
		return false
	}
	if len(l.readers) > 0 {
		c.warn("rights", fix(l.readers), "user %s is enough for the daemon, but `walrill tail` reads with commands that it may not use", c.user())
	}
	if len(l.trims) > 0 {
		c.warn("rights", fix(l.trims), "user %s is enough to publish, but sink.retention trims with commands that it may not use: nothing is trimmed", c.user())
	}
	if l.err != nil {
		c.found("writing to Redis", l.err)
		return false
	}
	if len(l.readers)+len(l.trims) == 0 {
		c.ok("rights", "user %s may run what walrill needs", c.user())
	}
	return true
}

// patterns are the key patterns that cover keys.
func (c *checker) patterns(keys []string, streams []*event.Stream) []string {
	control := event.ControlKeys(c.o.Pipeline)
	var patterns []string
	for _, key := range keys {
		switch i := slices.IndexFunc(streams, func(s *event.Stream) bool { return len(s.Keys) > 1 && slices.Contains(s.Keys, key) }); {
		case slices.Contains(control, key):
			patterns = append(patterns, strings.TrimSuffix(event.MetaKey(c.o.Pipeline), "meta")+"*")
		case i >= 0:
			patterns = append(patterns, streams[i].Name+":*")
		default:
			patterns = append(patterns, key)
		}
	}
	slices.Sort(patterns)
	return slices.Compact(patterns)
}

func (c *checker) user() string {
	if c.target.login.user == "" {
		return "default"
	}
	return c.target.login.user
}
