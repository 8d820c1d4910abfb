package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/walrill/walrill/event"
)

// How bad a finding is.
const (
	LevelOK      = "ok"
	LevelWarning = "warning" // it works, and here is what to know or what can go wrong
	LevelError   = "error"   // walrill would wait for ever, stop, or lose something
)

// Finding is what Check found out about one subject. Fix is what mends it, ready to be pasted.
type Finding struct{ Level, Subject, Finding, Fix string }

// Diagnosis is what Check found.
type Diagnosis struct {
	Findings  []Finding
	Read      bool       // Meta and Watermark are what is in Redis
	Meta      event.Meta // as Connect returns them
	Watermark uint64
	Catalogue []event.Schema                   // what :catalogue says
	Tops      map[*event.Stream]event.Position // as AddStream returns it, of those that can be continued
}

// Check looks at everything that a Publisher with these options needs for the
// streams, and changes nothing. It never fails: what cannot be found out is a finding.
func Check(ctx context.Context, o Options, streams []*event.Stream) *Diagnosis {
	c := &checker{out: Diagnosis{Tops: map[*event.Stream]event.Position{}}}
	p, err := New(o)
	if err != nil {
		c.found("Redis", err)
		return &c.out
	}
	c.o, c.target, c.addr = p.o, p.target, p.target.addrs[0]
	if c.link, err = c.target.open(ctx, nil); err != nil {
		c.found("Redis", err)
		return &c.out
	}
	defer c.link.close()
	if c.servers(ctx) && c.rights(ctx, streams) {
		c.streams(ctx, streams)
		c.others(ctx, streams)
	}
	return &c.out
}

type checker struct {
	out    Diagnosis
	o      Options
	target *target
	link   *link
	addr   string // of the server in question
}

func (c *checker) ok(subject, format string, args ...any) {
	c.out.Findings = append(c.out.Findings, Finding{LevelOK, subject, fmt.Sprintf(format, args...), ""})
}

func (c *checker) warn(subject, fix, format string, args ...any) {
	c.out.Findings = append(c.out.Findings, Finding{LevelWarning, subject, fmt.Sprintf(format, args...), c.addressed(fix)})
}

func (c *checker) fail(subject, fix, format string, args ...any) {
	c.out.Findings = append(c.out.Findings, Finding{LevelError, subject, fmt.Sprintf(format, args...), c.addressed(fix)})
}

// addressed makes a command of redis-cli one for the server that was looked at last: pasted, it must not reach another.
func (c *checker) addressed(fix string) string {
	rest, ok := strings.CutPrefix(fix, "redis-cli ")
	if !ok {
		return fix
	}
	cli := "redis-cli"
	if host, port, err := net.SplitHostPort(c.addr); err == nil && c.addr != "localhost:6379" {
		cli += " -h " + host + " -p " + port
	} else if err != nil {
		cli += " -s " + c.addr
	}
	if c.target.tls != nil {
		cli += " --tls"
	}
	if c.target.topology == cluster {
		cli += " -c"
	}
	return cli + " " + rest
}

// found is for an error: its kind says what mends it.
func (c *checker) found(subject string, err error) {
	fix := hint(kindOf(err))
	var never permanent
	switch k := kindOf(err); {
	case errors.As(err, &never), c.target == nil:
		fix = ""
	case k == kindConnection || k == kindTimeout:
		fix = "redis-cli PING   # start it there, or correct sink.url"
	case k == kindOOM:
		fix = "redis-cli CONFIG SET maxmemory 0   # or as much as the machine has; CONFIG REWRITE keeps it"
	case k == kindMisconf:
		fix = "redis-cli CONFIG SET stop-writes-on-bgsave-error no   # or mend its disk, as its log says"
	case k == kindNoReplicas:
		fix = "redis-cli CONFIG SET min-replicas-to-write 0   # or mend the replicas: redis-cli INFO replication"
	case k == kindClusterDown:
		fix = "redis-cli CLUSTER INFO   # and CLUSTER NODES: some are down"
	}
	c.fail(subject, fix, "%v", err)
}

// servers connects to each server and looks at it. It reports whether all were reached.
func (c *checker) servers(ctx context.Context) bool {
	addrs := c.link.nodes()
	if addrs == nil {
		addrs = []string{c.link.master}
	}
	reached := true
	for _, addr := range addrs {
		subject := "Redis"
		if len(addrs) > 1 {
			subject = "Redis " + addr
		}
		c.addr = addr
		conn, err := c.target.dial(ctx, addr, c.target.hello())
		if err != nil {
			c.found(subject, err)
			reached = false
			continue
		}
		c.link.conns[addr] = conn
		c.server(subject, conn)
	}
	return reached
}

// streams looks at what is in Redis of this pipeline, and under the names of its streams.
func (c *checker) streams(ctx context.Context, streams []*event.Stream) {
	home, err := c.link.to(ctx, slotOf(event.CommitsKey(c.o.Pipeline)))
	if err == nil {
		c.out.Meta, c.out.Watermark, err = readMeta(home, c.o.Pipeline)
	}
	if err != nil {
		c.found("pipeline "+c.o.Pipeline, err)
		return
	}
	if c.out.Catalogue, err = enter(home, c.o.Pipeline, map[string]event.Schema{}, nil); err != nil {
		c.found("pipeline "+c.o.Pipeline, err)
		return
	}
	c.out.Read = true
	for _, s := range streams {
		parts := make([]*partition, len(s.Keys))
		for i, key := range s.Keys {
			parts[i] = newPartition(key)
		}
		fit := true
		err := c.link.readTops(ctx, parts, func(_ *conn, part *partition, reply any) error {
			t, err := parseTop(part.key, reply)
			if err == nil {
				err = t.check(part.key, c.out.Meta.Epoch)
			}
			part.filled.pos = t.ID
			if err != nil {
				fit = false
				c.stream(s, part.key, err)
			}
			return nil
		})
		if err != nil {
			c.found("stream "+s.Name, err)
		} else if fit {
			c.out.Tops[s] = highestOf(parts)
		}
	}
}

// stream is for a key that cannot be continued.
func (c *checker) stream(s *event.Stream, key string, err error) {
	switch {
	case kindOf(err) == kindWrongType:
		c.fail("stream "+s.Name, fmt.Sprintf("redis-cli RENAME '%s' '%[1]s.old'   # or give the stream another name", key),
			"the key %s is something else than a stream", key)
	case errors.Is(err, errForeign):
		c.fail("stream "+s.Name, fmt.Sprintf("redis-cli XREVRANGE '%s' + - COUNT 1   # and delete what is not walrill's, or give the stream another name", key), "%v", err)
	default:
		c.found("stream "+s.Name, err)
	}
}

// infoOf parses the reply to INFO.
func infoOf(reply any) map[string]string {
	text, _ := reply.(string)
	info := map[string]string{}
	for line := range strings.SplitSeq(text, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			info[name] = value
		}
	}
	return info
}
