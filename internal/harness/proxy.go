package harness

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
)

// Direction is a way that bytes go through a Proxy.
type Direction int

const (
	ToServer Direction = iota // from the client that dialled the proxy
	ToClient                  // from the target
)

func (d Direction) String() string { return [...]string{"to server", "to client"}[d] }

// Proxy is a TCP proxy between a program and a real server that fails on
// command: it cuts connections (at an exact byte, if wished), lets them stall,
// slows them down and refuses new ones. Every method takes effect before it
// returns and may be called from any goroutine. Byte counts and rates are over
// all connections of a direction together.
type Proxy struct {
	ln    net.Listener
	tasks sync.WaitGroup

	mu       sync.Mutex
	changed  *sync.Cond // what follows has changed
	target   string
	closed   bool
	refuse   bool
	pairs    map[*pair]struct{}
	lanes    [2]lane // by Direction
	random   *randomCuts
	cuts     int
	accepted int
}

// NewProxy starts a proxy on a free port of 127.0.0.1 to target: host:port, or
// the path of a unix socket. The target is dialled once per connection.
func NewProxy(target string) (*Proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	ln, err := net.Listen("tcp", localAddr(port))
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := &Proxy{ln: ln, target: target, pairs: map[*pair]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	p.tasks.Go(p.accept)
	return p, nil
}

// Addr is the proxy's host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Through is a server's URL with the proxy's address in the place of the server's.
func (p *Proxy) Through(serverURL string) string {
	u, err := url.Parse(serverURL)
	if err != nil {
		return serverURL // whoever dials it says what is wrong
	}
	u.Host = p.Addr()
	return u.String()
}

// SetTarget sends new connections to another server. Those that are open stay
// where they are; Cut moves them, when their clients dial again.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Refuse says whether new connections are reset as soon as they are made, which
// a client sees at its dial or at its first read.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Cut resets every connection: both ends see ECONNRESET, and bytes that were on
// their way are lost. It returns how many there were.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.pairs)
	for c := range p.pairs {
		p.end(c, reset)
	}
	p.cuts += n
	return n
}

// Connections is the number of open connections.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

// Accepted is the number of connections that were made so far, to see that a
// client has come again.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Cuts is the number of connections that were cut so far.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Bytes is the number of bytes that have passed in a direction so far.
func (p *Proxy) Bytes(dir Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lanes[dir].passed
}

// Close resets every connection and stops the proxy. It may be called more than once.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for c := range p.pairs {
		p.end(c, reset)
	}
	p.mu.Unlock()
	err := p.ln.Close()
	p.tasks.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return // closed
		}
		p.tasks.Go(func() { p.serve(conn) })
	}
}

// serve joins a new connection with one to the target.
func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	refuse, target := p.refuse || p.closed, p.target
	p.mu.Unlock()
	if refuse {
		reset(client)
		return
	}
	network := "tcp"
	if strings.HasPrefix(target, "/") {
		network = "unix"
	}
	server, err := net.Dial(network, target)
	if err != nil {
		reset(client)
		return
	}
	c := &pair{client: client, server: server}
	if !p.add(c) {
		reset(client)
		reset(server)
		return
	}
	p.tasks.Go(func() { p.pump(c, ToClient) })
	p.pump(c, ToServer)
}

// add registers the pair, unless the proxy was told to refuse it meanwhile.
func (p *Proxy) add(c *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuse {
		return false
	}
	p.pairs[c] = struct{}{}
	p.accepted++
	return true
}
