package harness

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// pair is a client's connection and the one to the target that serves it.
type pair struct {
	client, server net.Conn

	// Under the proxy's lock:
	ended    bool // no byte passes any more
	finished int  // directions that have come to their end
}

// ends are the connections that a direction reads from and writes to.
func (c *pair) ends(dir Direction) (src, dst net.Conn) {
	if dir == ToServer {
		return c.client, c.server
	}
	return c.server, c.client
}

// end closes both connections of a pair in the given way; call it with the lock held.
func (p *Proxy) end(c *pair, how func(net.Conn)) {
	c.ended = true
	delete(p.pairs, c)
	how(c.client)
	how(c.server)
	p.changed.Broadcast()
}

// reset closes a connection so that its peer sees ECONNRESET.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// hangUp closes a connection behind the bytes that were written: the peer gets
// them all, and then an end of file.
func hangUp(conn net.Conn) { conn.Close() }

// pump moves the bytes of one direction until either end is gone.
func (p *Proxy) pump(c *pair, dir Direction) {
	defer p.finish(c)
	src, dst := c.ends(dir)
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if p.forward(c, dir, buf[:n]) != nil {
			return
		}
		if err == io.EOF {
			p.closeWrite(c, dst)
			return
		}
		if err != nil {
			p.abandon(c)
			return
		}
	}
}

// closeWrite passes an end of file on: the other direction may have more to say.
func (p *Proxy) closeWrite(c *pair, dst net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if half, ok := dst.(interface{ CloseWrite() error }); ok && !c.ended {
		half.CloseWrite()
	}
}

// abandon passes a reset on.
func (p *Proxy) abandon(c *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.ended {
		p.end(c, reset)
	}
}

// finish ends the pair when both its directions have come to their end.
func (p *Proxy) finish(c *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.finished++; c.finished == 2 && !c.ended {
		p.end(c, hangUp)
	}
}

var errCut = errors.New("connection cut")

// forward writes b, as much at a time as the direction admits. A write that a
// stall interrupts goes on where it was.
func (p *Proxy) forward(c *pair, dir Direction, b []byte) error {
	_, dst := c.ends(dir)
	for len(b) > 0 {
		n, plan, err := p.admit(c, dir, len(b))
		if err != nil {
			return err
		}
		m, err := dst.Write(b[:n])
		b = b[m:]
		p.account(c, dir, plan, n, m)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			p.abandon(c)
			return err
		}
	}
	return nil
}

// interrupt makes a Write in progress return, and later ones work again.
func interrupt(conn net.Conn, yes bool) {
	at := time.Time{}
	if yes {
		at = time.Unix(1, 0)
	}
	conn.SetWriteDeadline(at)
}
