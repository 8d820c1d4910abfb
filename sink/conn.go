package sink

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/walrill/walrill/event"
)

// conn is one connection to one server. Each exchange has a deadline, so a
// server that stalls is noticed. After any error other than a reply the
// connection is of no use: where it stands in the stream of replies is unknown.
type conn struct {
	nc      net.Conn
	raw     net.Conn // under TLS; closing it does not wait for the other side
	addr    string
	r       *bufio.Reader
	w       []byte // scratch for commands
	timeout time.Duration
	unwatch func() bool
	debt    debt
	witness string // a key that exists here, for settle
	watched string // the fence that is watched and was ours when that began
}

// dial connects and logs in. The connection is closed when ctx ends.
func (t *target) dial(ctx context.Context, addr string, greeting [][]string) (*conn, error) {
	d := net.Dialer{Timeout: t.dialTimeout}
	raw, err := d.DialContext(ctx, t.network, addr)
	if err != nil {
		return nil, fmt.Errorf("reach Redis: %w", err)
	}
	nc := raw
	if t.tls != nil {
		nc = tls.Client(raw, t.tlsFor(addr)) // the handshake comes with the first write, under its deadline
	}
	c := &conn{nc: nc, raw: raw, addr: addr, r: bufio.NewReaderSize(nc, 64<<10), timeout: t.timeout}
	c.unwatch = context.AfterFunc(ctx, func() { raw.Close() })
	replies, err := c.pipeline(greeting)
	for i := 0; i < len(replies) && err == nil; i++ {
		if e, bad := replies[i].(replyError); bad && greeting[i][0] != "CLIENT" { // a name is a courtesy
			err = e
		}
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("log in to Redis at %s: %w", addr, err)
	}
	return c, nil
}

// tlsFor is the configuration for one server: it must show a certificate for
// the name it was reached under.
func (t *target) tlsFor(addr string) *tls.Config {
	c := t.tls.Clone()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		c.ServerName = host
	}
	return c
}

// greeting is what a connection for data starts with. The empty transaction at
// its end finds out about a user who may not use MULTI: its commands would be
// executed one by one.
func (t *target) greeting() [][]string {
	return append(t.hello(), []string{"MULTI"}, []string{"EXEC"})
}

// hello logs in, chooses the database and says who we are.
func (t *target) hello() [][]string {
	g := t.login.greeting()
	if t.db != 0 {
		g = append(g, []string{"SELECT", strconv.Itoa(t.db)})
	}
	return append(g, []string{"CLIENT", "SETNAME", t.name})
}

func (l login) greeting() [][]string {
	switch {
	case l.user != "":
		return [][]string{{"AUTH", l.user, l.password}}
	case l.password != "":
		return [][]string{{"AUTH", l.password}}
	}
	return nil
}

func (c *conn) close() {
	c.unwatch()
	c.raw.Close()
}

// send writes commands, and gives their exchange its deadline: the usual
// timeout and a second for each MiB, so that a huge row gets through a slow line.
func (c *conn) send(b []byte, extra time.Duration) error {
	size := time.Duration(len(b)>>20) * time.Second
	if err := c.nc.SetDeadline(time.Now().Add(c.timeout + size + extra)); err != nil {
		return fmt.Errorf("send to Redis at %s: %w", c.addr, err)
	}
	if _, err := c.nc.Write(b); err != nil {
		// A server that refuses the connection says why before it closes it.
		if line, e := c.line(); e == nil && line[0] == '-' {
			return fmt.Errorf("send to Redis at %s: %w", c.addr, replyError(line[1:]))
		}
		return fmt.Errorf("send to Redis at %s: %w", c.addr, err)
	}
	return nil
}

// pipeline sends commands and returns their replies, error replies among them
// as replyError. Its error is the connection's.
func (c *conn) pipeline(commands [][]string) ([]any, error) {
	return c.pipelineFor(commands, 0)
}

// pipelineFor is pipeline for commands that may take longer by extra.
func (c *conn) pipelineFor(commands [][]string, extra time.Duration) ([]any, error) {
	if len(commands) == 0 {
		return nil, nil
	}
	c.w = appendCommands(c.w[:0], commands)
	if err := c.send(c.w, extra); err != nil {
		return nil, err
	}
	replies := make([]any, len(commands))
	for i := range replies {
		var err error
		if replies[i], err = c.reply(); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

func appendCommands(dst []byte, commands [][]string) []byte {
	for _, args := range commands {
		dst = append(dst, '*')
		dst = strconv.AppendInt(dst, int64(len(args)), 10)
		dst = append(dst, '\r', '\n')
		for _, a := range args {
			dst = event.AppendBulkString(dst, a)
		}
	}
	return dst
}

// do sends one command. An error reply is an error.
func (c *conn) do(args ...string) (any, error) {
	replies, err := c.pipeline([][]string{args})
	if err != nil {
		return nil, err
	}
	if e, bad := replies[0].(replyError); bad {
		return nil, e
	}
	return replies[0], nil
}

// replyError is an error that Redis replied, without the leading dash.
type replyError string

func (e replyError) Error() string { return string(e) }

var errProtocol = errors.New("a reply that is not RESP")

// line reads one line of a reply without its end. It aliases the connection's
// buffer until the next read, and has at least one byte.
func (c *conn) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("receive from Redis at %s: %w", c.addr, err)
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("receive from Redis at %s: %w", c.addr, errProtocol)
	}
	return line[:len(line)-2], nil
}
