package harness

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// echoServer sends back what it gets.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().String()
}

func echoProxy(t *testing.T) *Proxy { return StartProxy(t, echoServer(t)) }

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// say sends text and wants it back.
func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, string(got)); diff != "" {
		t.Fatal(diff)
	}
}

// isCut wants no more bytes and the end of the connection.
func isCut(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	if n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v: want a cut connection", n, err)
	}
}

// isRefused wants a new connection to fail: at the dial, or just after it.
func isRefused(t *testing.T, p *Proxy) {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	isCut(t, conn)
}

func TestProxyPassesBytesAndEnds(t *testing.T) {
	p := echoProxy(t)
	conn := dial(t, p)
	want := bytes.Repeat([]byte("walrill "), 1<<17) // more than any buffer on the way
	go func() {
		conn.Write(want)
		conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes back, want the %d that were sent", len(got), len(want))
	}
	if n := p.Bytes(ToClient); n != int64(len(want)) {
		t.Fatalf("counted %d bytes, want %d", n, len(want))
	}
	Eventually(t, 5*time.Second, "the connection is forgotten", func() bool { return p.Connections() == 0 })
	if p.Cuts() != 0 {
		t.Fatalf("counted %d cuts, want none", p.Cuts())
	}
}

func TestProxyCut(t *testing.T) {
	p := echoProxy(t)
	a, b := dial(t, p), dial(t, p)
	say(t, a, "one")
	say(t, b, "two")
	if n := p.Cut(); n != 2 {
		t.Fatalf("cut %d connections, want 2", n)
	}
	isCut(t, a)
	isCut(t, b)
	say(t, dial(t, p), "three")
	if p.Accepted() != 3 || p.Cuts() != 2 || p.Connections() != 1 {
		t.Fatalf("accepted %d, cut %d, open %d", p.Accepted(), p.Cuts(), p.Connections())
	}
}

func TestProxyCutAfterExactly(t *testing.T) {
	for _, dir := range []Direction{ToServer, ToClient} {
		for _, n := range []int64{0, 1, 7, 40_000} {
			p := echoProxy(t)
			conn := dial(t, p)
			say(t, conn, "hello")
			before := p.Bytes(dir)
			p.CutAfter(dir, n)
			go conn.Write(make([]byte, 50_000))
			got, _ := io.ReadAll(conn)
			if dir == ToClient && int64(len(got)) != n {
				t.Errorf("%v: client got %d bytes, want %d", dir, len(got), n)
			}
			if passed := p.Bytes(dir) - before; passed != n {
				t.Errorf("%v: %d bytes passed, want %d", dir, passed, n)
			}
			if p.Cuts() != 1 {
				t.Errorf("%v: %d cuts, want 1", dir, p.Cuts())
			}
			again := dial(t, p)
			say(t, again, "the cut came once")
		}
	}
}

func TestProxyCutsRandomlyBySeed(t *testing.T) {
	const low, high = 10, 200
	run := func(seed uint64) (passed []int64) {
		p := echoProxy(t)
		p.CutRandomly(seed, low, high)
		for range 10 {
			before := p.Bytes(ToServer)
			conn := dial(t, p)
			for { // byte by byte, so that the two directions are in step
				if _, err := conn.Write([]byte{1}); err != nil {
					break
				}
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					break
				}
			}
			passed = append(passed, p.Bytes(ToServer)-before)
		}
		if p.Cuts() != 10 {
			t.Fatalf("%d cuts, want one per connection", p.Cuts())
		}
		p.CutNever()
		say(t, dial(t, p), string(make([]byte, high+1)))
		return passed
	}
	first := run(1)
	for _, n := range first {
		if n < low || n > high {
			t.Errorf("cut after %d bytes, want between %d and %d", n, low, high)
		}
	}
	if diff := cmp.Diff(first, run(1)); diff != "" {
		t.Errorf("the same seed cut elsewhere: %s", diff)
	}
	if cmp.Equal(first, run(2)) {
		t.Error("another seed cut at the same bytes")
	}
}

func TestProxyStall(t *testing.T) {
	p := echoProxy(t)
	conn := dial(t, p)
	say(t, conn, "before")
	p.Stall(ToClient)
	toServer := p.Bytes(ToServer)
	toClient := p.Bytes(ToClient)
	if _, err := io.WriteString(conn, "while"); err != nil {
		t.Fatal(err)
	}
	Eventually(t, 5*time.Second, "the other direction moves", func() bool { return p.Bytes(ToServer) == toServer+5 })
	p.Stall()
	conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 10)); err == nil {
		t.Fatalf("read %d bytes through a stalled proxy", n)
	}
	if p.Bytes(ToClient) != toClient {
		t.Fatal("bytes were counted that did not pass")
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	p.Resume()
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "while" {
		t.Fatalf("read %q, %v after the stall", got, err)
	}
}

// A write that waits for a reader must not keep Stall waiting, and what it had
// not written yet comes after the stall, once.
func TestProxyStallInterruptsAWrite(t *testing.T) {
	p := echoProxy(t)
	conn := dial(t, p)
	want := make([]byte, 32<<20)
	for i := range want {
		want[i] = byte(i * 7)
	}
	var writer sync.WaitGroup
	writer.Go(func() { conn.Write(want) })
	Eventually(t, 5*time.Second, "the client's window fills", func() bool { return p.Bytes(ToClient) > 1<<20 })
	for range 20 {
		p.Stall()
		p.Resume()
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	writer.Wait()
	if !bytes.Equal(got, want) {
		t.Fatal("bytes differ after stalls")
	}
}

func TestProxyRefuse(t *testing.T) {
	p := echoProxy(t)
	open := dial(t, p)
	say(t, open, "open before")
	p.Refuse(true)
	isRefused(t, p)
	say(t, open, "stays open")
	p.Refuse(false)
	say(t, dial(t, p), "welcome")
}

func TestProxyRate(t *testing.T) {
	p := echoProxy(t)
	conn := dial(t, p)
	p.Rate(ToClient, 100_000)
	start := time.Now()
	say(t, conn, string(make([]byte, 10_000)))
	if took := time.Since(start); took < 80*time.Millisecond {
		t.Fatalf("10 kB at 100 kB/s took %v", took)
	}
}

func TestProxySetTarget(t *testing.T) {
	p := StartProxy(t, "127.0.0.1:1") // nobody listens there
	isRefused(t, p)
	p.SetTarget(echoServer(t))
	say(t, dial(t, p), "found")
}

func TestProxyCloseEndsAll(t *testing.T) {
	p := echoProxy(t)
	conn := dial(t, p)
	say(t, conn, "open")
	p.Stall()
	io.WriteString(conn, "stuck")
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	isCut(t, conn)
}
