package sink

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/walrill/walrill/event"
)

// scanTime bounds the look through all keys.
const scanTime = 10 * time.Second

// others looks for pipelines that write streams of these names, too. A start sees it only when the
// stream has entries by then.
func (c *checker) others(ctx context.Context, streams []*event.Stream) {
	const subject = "other pipelines"
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	pipelines, err := c.pipelines(ctx)
	var refused replyError
	switch {
	case errors.As(err, &refused) && replyKind(string(refused)) == kindNoPerm:
		c.ok(subject, "not looked for: that needs +scan and the key pattern walrill:*")
		return
	case err != nil && ctx.Err() != nil:
		c.ok(subject, "not looked for in all keys: there are too many for %s", scanTime)
	case err != nil:
		c.found(subject, err)
		return
	}
	found, closed := false, 0
	for _, name := range pipelines {
		home, err := c.link.to(ctx, slotOf(event.MetaKey(name)))
		if err != nil {
			continue
		}
		meta, _, err := readMeta(home, name)
		if err != nil {
			closed++
			continue
		}
		if meta.Dropped != "" { // it writes no more
			continue
		}
		for _, s := range streams {
			if n, has := meta.Streams[s.Name]; has && sharesKey(s, event.NewStream(s.Name, n)) {
				found = true
				c.fail("stream "+s.Name, "choose another name for the stream in one of the two; if pipeline "+name+" is gone, run `walrill drop` with its file",
					"pipeline %s writes it, too: each would take the other's entries for its own, and lose some", name)
			}
		}
	}
	switch {
	case found || err != nil:
	case closed > 0:
		c.ok(subject, "%d in this Redis, of which %d cannot be read; none of the others writes these streams", len(pipelines), closed)
	default:
		c.ok(subject, "%d in this Redis, and none writes these streams", len(pipelines))
	}
}

func sharesKey(a, b *event.Stream) bool {
	return slices.ContainsFunc(a.Keys, func(key string) bool { return slices.Contains(b.Keys, key) })
}

// pipelines are the others in this Redis, by their :meta, in the order of their names.
func (c *checker) pipelines(ctx context.Context) ([]string, error) {
	pattern := event.MetaKey("*")
	before, after, _ := strings.Cut(pattern, "*")
	var names []string
	for _, conn := range c.link.conns {
		for cursor := "0"; ; {
			replies, err := conn.pipeline([][]string{{"SCAN", cursor, "MATCH", pattern, "COUNT", "1000"}})
			if err != nil {
				return names, err
			}
			if e, bad := replies[0].(replyError); bad {
				return names, e
			}
			next, keys := scanned(replies[0])
			for _, key := range keys {
				name, ok := strings.CutPrefix(strings.TrimSuffix(key, after), before)
				if ok && name != c.o.Pipeline && name != event.ViewsPipeline(c.o.Pipeline) {
					names = append(names, name)
				}
			}
			if cursor = next; cursor == "0" || cursor == "" {
				break
			}
			if ctx.Err() != nil {
				return names, ctx.Err()
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// scanned is the reply to SCAN.
func scanned(reply any) (cursor string, keys []string) {
	parts, _ := reply.([]any)
	if len(parts) != 2 {
		return "", nil
	}
	cursor, _ = parts[0].(string)
	list, _ := parts[1].([]any)
	for _, k := range list {
		if key, ok := k.(string); ok {
			keys = append(keys, key)
		}
	}
	return cursor, keys
}
