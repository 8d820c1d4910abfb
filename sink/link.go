package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
)

// link is the connections to the servers that hold our keys, as the topology
// was when it was opened: one server, or one a node of a Cluster. When anything
// changes there, an exchange fails and a new link is opened.
type link struct {
	target *target
	master string      // the one server; empty in a Cluster
	ranges []slotRange // in a Cluster
	conns  map[string]*conn
}

// slotRange is the slots from lo to hi and the node that holds them.
type slotRange struct {
	lo, hi int64
	addr   string
}

// open finds out where to write. hints are nodes of a Cluster known from
// before, asked before those of the URL. It returns a link without connections.
func (t *target) open(ctx context.Context, hints []string) (*link, error) {
	l := &link{target: t, conns: map[string]*conn{}}
	var err error
	switch t.topology {
	case sentinel:
		l.master, err = t.askSentinels(ctx)
	case cluster:
		l.ranges, err = t.askCluster(ctx, hints)
	default:
		l.master = t.addrs[0]
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// to is the connection to the server that holds a slot; it is made when there
// is none yet.
func (l *link) to(ctx context.Context, slot uint16) (*conn, error) {
	addr, err := l.addrOf(slot)
	if err != nil {
		return nil, err
	}
	if c := l.conns[addr]; c != nil {
		return c, nil
	}
	c, err := l.target.dial(ctx, addr, l.target.greeting())
	if err != nil {
		return nil, err
	}
	l.conns[addr] = c
	return c, nil
}

func (l *link) addrOf(slot uint16) (string, error) {
	if l.ranges == nil {
		return l.master, nil
	}
	for _, r := range l.ranges {
		if r.lo <= int64(slot) && int64(slot) <= r.hi {
			return r.addr, nil
		}
	}
	return "", fmt.Errorf("find the node of slot %d: %w", slot, replyError("CLUSTERDOWN no node serves it"))
}

// nodes are the addresses of the Cluster's nodes, nil without a Cluster.
func (l *link) nodes() []string {
	var a []string
	for _, r := range l.ranges {
		a = append(a, r.addr)
	}
	slices.Sort(a)
	return slices.Compact(a)
}

// ping asks whether the servers still answer. What they answer does not matter.
func (l *link) ping() error {
	if l == nil {
		return nil
	}
	for addr, c := range l.conns {
		if _, err := c.pipeline([][]string{{"PING"}}); err != nil {
			return fmt.Errorf("ask Redis at %s whether it is there: %w", addr, err)
		}
	}
	return nil
}

func (l *link) close() {
	for _, c := range l.conns {
		c.close()
	}
}

// askSentinels returns the master's address, from the first Sentinel that knows it.
func (t *target) askSentinels(ctx context.Context) (string, error) {
	var errs []error
	for _, addr := range t.addrs {
		master, err := t.askSentinel(ctx, addr)
		if err == nil {
			return master, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("ask the Sentinels for master %s: %w", t.master, errors.Join(errs...))
}

func (t *target) askSentinel(ctx context.Context, addr string) (string, error) {
	c, err := t.dial(ctx, addr, t.sentinelLogin.greeting())
	if err != nil {
		return "", err
	}
	defer c.close()
	v, err := c.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", t.master)
	if err != nil {
		return "", fmt.Errorf("%s: %w", addr, err)
	}
	a, _ := v.([]any)
	if len(a) != 2 {
		return "", fmt.Errorf("%s: it does not know that master", addr)
	}
	host, _ := a[0].(string)
	port, _ := a[1].(string)
	return net.JoinHostPort(host, port), nil
}

// askCluster returns which node holds which slots, from the first node that answers.
func (t *target) askCluster(ctx context.Context, hints []string) ([]slotRange, error) {
	var errs []error
	for _, addr := range append(slices.Clone(hints), t.addrs...) {
		ranges, err := t.askNode(ctx, addr)
		if err == nil {
			return ranges, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("ask the Cluster for its slots: %w", errors.Join(errs...))
}

func (t *target) askNode(ctx context.Context, addr string) ([]slotRange, error) {
	c, err := t.dial(ctx, addr, t.login.greeting())
	if err != nil {
		return nil, err
	}
	defer c.close()
	v, err := c.do("CLUSTER", "SLOTS")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return parseSlots(v, addr)
}

// parseSlots reads the reply to CLUSTER SLOTS: first slot, last slot, master,
// replicas; a node is host, port and more. An empty host means the one that was asked.
func parseSlots(v any, asked string) ([]slotRange, error) {
	self, _, err := net.SplitHostPort(asked)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", asked, err)
	}
	var ranges []slotRange
	all, _ := v.([]any)
	for _, item := range all {
		r, _ := item.([]any)
		if len(r) < 3 {
			return nil, errors.New("CLUSTER SLOTS: a range without a node")
		}
		lo, ok1 := r[0].(int64)
		hi, ok2 := r[1].(int64)
		node, _ := r[2].([]any)
		if len(node) < 2 || !ok1 || !ok2 {
			return nil, errors.New("CLUSTER SLOTS: a malformed range")
		}
		host, _ := node[0].(string)
		port, _ := node[1].(int64)
		if host == "" || host == "?" {
			host = self
		}
		ranges = append(ranges, slotRange{lo, hi, net.JoinHostPort(host, strconv.FormatInt(port, 10))})
	}
	if len(ranges) == 0 {
		return nil, replyError("CLUSTERDOWN no slots are served")
	}
	return ranges, nil
}
