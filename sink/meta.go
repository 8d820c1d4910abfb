package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/walrill/walrill/event"
)

// Connect makes the first connection and returns what an earlier process left:
// the hash :meta and the watermark on top of :commits, both zero in a new
// pipeline. It tries until ctx ends; only a server that cannot do what the options ask is
// an error at once, with a method Permanent. A server that takes no writes counts as away.
func (p *Publisher) Connect(ctx context.Context) (m event.Meta, watermark uint64, err error) {
	err = p.insist(ctx, "connect to Redis", func(l *link) error {
		c, err := l.to(ctx, p.session.commits.slot)
		if err != nil {
			return err
		}
		if p.o.Durability.Fsync {
			if err := checkVersion(c); err != nil {
				return err
			}
		}
		m, watermark, err = readMeta(c, p.o.Pipeline)
		return err
	})
	p.epoch = m.Epoch
	return m, watermark, err
}

// checkVersion finds out whether the server has WAITAOF.
func checkVersion(c *conn) error {
	v, err := c.do("INFO", "server")
	if err != nil {
		return fmt.Errorf("ask for the server's version: %w", err)
	}
	version := infoOf(v)["redis_version"]
	major, minor, err := parseVersion(version)
	if err == nil && before(major, minor, 7, 2) {
		err = errNoWaitAOF(version)
	}
	return err
}

func errNoWaitAOF(version string) error {
	return permanent{fmt.Errorf("durability with fsync needs WAITAOF, which Redis has since 7.2; this server is %s", version)}
}

func parseVersion(version string) (major, minor int, err error) {
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("read the server's version %q: %w", version, err)
	}
	return major, minor, nil
}

// before reports whether a version comes before another.
func before(major, minor, thanMajor, thanMinor int) bool {
	return major < thanMajor || major == thanMajor && minor < thanMinor
}

func readMeta(c *conn, pipeline string) (m event.Meta, watermark uint64, err error) {
	key, commits := event.MetaKey(pipeline), event.CommitsKey(pipeline)
	replies, err := c.pipeline([][]string{probe(commits), {"HGETALL", key}, topCommand(commits)})
	if err != nil {
		return m, 0, err
	}
	if err := probed(commits, replies[0]); err != nil {
		return m, 0, err
	}
	if m, err = parseMeta(key, replies[1]); err != nil {
		return m, 0, err
	}
	watermark, err = parseWatermark(commits, replies[2])
	return m, watermark, err
}

// parseMeta reads the reply to HGETALL of :meta.
func parseMeta(key string, reply any) (m event.Meta, err error) {
	if e, bad := reply.(replyError); bad {
		return m, fmt.Errorf("read %s: %w", key, e)
	}
	fields := map[string]string{}
	for name, v := range asMap(reply) {
		fields[name], _ = v.(string)
	}
	if m, err = event.ParseMeta(fields); err != nil {
		return m, permanent{fmt.Errorf("read %s: %w", key, err)}
	}
	return m, nil
}

// parseWatermark is parseTop for :commits, whose entries have no seq.
func parseWatermark(key string, reply any) (uint64, error) {
	if e, bad := reply.(replyError); bad {
		if e == "ERR no such key" {
			return 0, nil
		}
		return 0, fmt.Errorf("read the top of stream %s: %w", key, e)
	}
	id, _ := asMap(reply)["last-generated-id"].(string)
	pos, err := event.ParseID(id)
	if err != nil {
		return 0, fmt.Errorf("read the top of stream %s: %w", key, err)
	}
	return pos.Commit, nil
}

// SaveMeta writes the hash :meta; fields of streams that m does not name stay. It tries
// until ctx ends.
func (p *Publisher) SaveMeta(ctx context.Context, m event.Meta) error {
	args := []string{"HSET", event.MetaKey(p.o.Pipeline)}
	for field, value := range m.Fields() {
		args = append(args, field, value)
	}
	p.epoch = m.Epoch
	return p.insist(ctx, "save meta", func(l *link) error {
		c, err := l.to(ctx, p.session.commits.slot)
		if err != nil {
			return err
		}
		_, err = c.do(args...)
		return err
	})
}

// insist does f over a link of its own until it succeeds, ctx ends or the error
// is permanent.
func (p *Publisher) insist(ctx context.Context, what string, f func(*link) error) error {
	var last error
	for attempt := 0; ; attempt++ {
		err := p.once(ctx, f)
		var never permanent
		switch {
		case err == nil:
			p.control.recovered()
			return nil
		case errors.As(err, &never), fatal(err):
			return fmt.Errorf("%s: %w", what, err)
		case ctx.Err() != nil && last == nil:
			last = err
		case ctx.Err() == nil:
			last = err
			p.control.failed(err)
		}
		if !p.backoff(ctx, attempt) {
			return fmt.Errorf("%s: %w; the last attempt: %w", what, context.Cause(ctx), last)
		}
	}
}

func (p *Publisher) once(ctx context.Context, f func(*link) error) error {
	l, err := p.target.open(ctx, nil)
	if err != nil {
		return err
	}
	defer l.close()
	return f(l)
}
