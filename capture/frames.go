package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// frameReader reads a Postgres connection message by message, in place.
//
// Until replication starts, pgconn reads through Read, which never hands out
// bytes beyond the message that pgconn is in the middle of. So nothing of the
// replication stream is ever left in a buffer of pgconn's, and next can take
// over with the first message that follows CopyBothResponse.
//
// The server sends each message by itself, and what that costs dominates small messages: far more than decoding,
// and twice as much again when the reader sleeps and has to be woken. So under a backlog gather waits for a moment before fill
// reads, until what the server had ready is read.
type frameReader struct {
	r      io.Reader
	buf    []byte
	rp, wp int
	rest   int // bytes of the current message that Read has not handed out

	pace    pace
	ahead   *readAhead // under TLS; else nil
	flowing bool       // the last read brought so much that there is more already
	level   int        // of traffic: what was read less what has leaked since
	levelAt time.Time  // when level was right
}

const (
	frameBuffer    = 128 << 10
	frameHeader    = 5          // type byte and a length that counts itself
	maxFrame       = 1<<30 + 64 // Postgres's own limit of a message
	keepBufferSize = 1 << 20    // a buffer grown beyond this by a huge row is given back

	// Traffic leaks at leakPerMilli, and each read counts as readCost more
	// than its bytes: being woken for every message is what a backlog must get out of, also where
	// that makes it slow. So a thousand small transactions a second are no backlog
	// and a few thousand are. The cap ends one within 16 ms of silence.
	readCost     = 512
	leakPerMilli = 2 << 10
	busyLevel    = 8 << 10
	maxLevel     = 32 << 10

	// busyPatience is how long a read waits under a backlog until whoever
	// gathers a batch is told that nothing comes.
	busyPatience = 1500 * time.Microsecond
)

func newFrameReader(r io.Reader, p pace) *frameReader {
	return &frameReader{r: r, buf: make([]byte, frameBuffer), pace: p}
}

// Read is for pgconn, before replication starts.
func (f *frameReader) Read(p []byte) (int, error) {
	if f.rest == 0 {
		for f.wp-f.rp < frameHeader {
			if err := f.fill(); err != nil {
				return 0, err
			}
		}
		n, err := f.frameLength()
		if err != nil {
			return 0, err
		}
		f.rest = n
	}
	if f.wp == f.rp {
		if err := f.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p[:min(len(p), f.rest)], f.buf[f.rp:f.wp])
	f.rp += n
	f.rest -= n
	return n, nil
}

// next returns the next whole message if it is buffered. The body is valid
// until the next fill.
func (f *frameReader) next() (kind byte, body []byte, ok bool, err error) {
	if f.wp-f.rp < frameHeader {
		return 0, nil, false, nil
	}
	n, err := f.frameLength()
	if err != nil || f.wp-f.rp < n {
		return 0, nil, false, err
	}
	kind, body = f.buf[f.rp], f.buf[f.rp+frameHeader:f.rp+n]
	f.rp += n
	return kind, body, true, nil
}

// frameLength is the whole length of the message at rp, whose header is buffered.
func (f *frameReader) frameLength() (int, error) {
	n := int(binary.BigEndian.Uint32(f.buf[f.rp+1:])) + 1
	if n < frameHeader || n > maxFrame {
		return 0, fmt.Errorf("read from Postgres: message %q of %d bytes: the connection is out of step", f.buf[f.rp], n)
	}
	return n, nil
}

// gather lets bytes come together when there is a backlog and the server has nothing ready. It comes before the deadline of
// the read is set: a deadline that passed meanwhile would make the read
// fail though there is plenty to read.
func (f *frameReader) gather() {
	if f.busy() && !f.flowing {
		time.Sleep(f.pace.gather)
	}
}

// fill reads once from the network. A timeout leaves everything as it was.
func (f *frameReader) fill() error {
	if err := f.makeRoom(); err != nil {
		return err
	}
	n, err := f.r.Read(f.buf[f.wp:])
	f.wp += n
	if n > 0 && f.ahead != nil {
		n += f.readOn()
	}
	f.flowing = n >= f.pace.flowing || f.wp == len(f.buf)
	f.measure(n, time.Now())
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// readOn reads what has come through the socket with the first read: under TLS each message of the server is a record by
// itself, and a read returns one. What fails here for good fails again in the next read.
func (f *frameReader) readOn() (n int) {
	f.ahead.only = true
	for f.wp < len(f.buf) {
		m, err := f.r.Read(f.buf[f.wp:])
		f.wp += m
		n += m
		if err != nil {
			break
		}
	}
	f.ahead.only = false
	return n
}

// measure keeps the level of traffic.
func (f *frameReader) measure(n int, now time.Time) {
	leaked := maxLevel
	if since := now.Sub(f.levelAt); since < time.Second {
		leaked = int(since * leakPerMilli / time.Millisecond)
	}
	f.level = max(0, f.level-leaked)
	if n > 0 {
		f.level = min(f.level+n+readCost, maxLevel)
	}
	f.levelAt = now
}

// busy reports whether a backlog is being worked off.
func (f *frameReader) busy() bool { return f.level >= busyLevel }

// makeRoom moves what is unread to the front and sees to it that the message
// at the front fits.
func (f *frameReader) makeRoom() error {
	if f.rp > 0 {
		f.wp = copy(f.buf, f.buf[f.rp:f.wp])
		f.rp = 0
	}
	want := frameBuffer
	if f.wp >= frameHeader {
		n, err := f.frameLength()
		if err != nil {
			return err
		}
		want = max(want, n)
	}
	if len(f.buf) < want || len(f.buf) > keepBufferSize && want <= keepBufferSize && f.wp <= want {
		grown := make([]byte, want)
		copy(grown, f.buf[:f.wp])
		f.buf = grown
	}
	return nil
}
