package capture

import (
	"bufio"
	"net"
	"os"
	"time"
)

// pace is how a connection is read under a backlog. The server sends each message by itself; how it is best let to have many
// of them ready depends on what is between.
type pace struct {
	gather  time.Duration // before a read, when the server has nothing ready
	buffer  int           // of the socket, in bytes; 0 as it is
	flowing int           // a read of so many bytes says that there is more
}

// paceOf is the pace for a server at an address.
func paceOf(a net.Addr) pace {
	switch a := a.(type) {
	case *net.UnixAddr:
		// It holds some 250 messages, however small, and then the server sleeps until we have read most of them.
		return pace{gather: 250 * time.Microsecond, flowing: frameBuffer}
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			// The buffer is small on purpose: once it is full, messages gather in the server's own socket, which costs next to
			// nothing, and come in large pieces as soon as we read. As long as there is room in ours, each message is a packet, which
			// costs more than to decode it. While we gather, the server fills ours several times over.
			return pace{gather: 2 * time.Millisecond, buffer: 32 << 10, flowing: 16 << 10}
		}
	}
	// What comes from afar has to fit into our buffer, or it waits for us. (The kernel may grant less.)
	return pace{gather: time.Millisecond, buffer: 1 << 20, flowing: 48 << 10}
}

// readAhead reads a connection in large pieces for TLS, which asks for one record at a time.
type readAhead struct {
	net.Conn
	r    *bufio.Reader
	only bool // what was read already; when there is none, a read times out
}

func newReadAhead(c net.Conn) *readAhead {
	return &readAhead{Conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

func (c *readAhead) Read(p []byte) (int, error) {
	if c.only && c.r.Buffered() == 0 {
		return 0, os.ErrDeadlineExceeded // TLS goes on from there with the next read
	}
	return c.r.Read(p)
}
