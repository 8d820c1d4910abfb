package sink

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/walrill/walrill/event"
)

// fakeRedis is a server with streams that answers as it is told, for replies
// that a real one gives rarely or in other versions only.
type fakeRedis struct {
	ln net.Listener

	mu      sync.Mutex
	streams map[string][]fakeEntry
	conns   map[net.Conn]bool
	log     []string // commands with their arguments
	// intercept may answer a command in the server's place; queued says that it
	// is inside of a transaction and only to be queued. The empty string leaves
	// it to the server, and "close" closes the connection.
	intercept func(args []string, queued bool) string
}

type fakeEntry struct {
	pos    event.Position
	fields []string
}

func newFakeRedis(t *testing.T) *fakeRedis {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeRedis{ln: ln, streams: map[string][]fakeEntry{}, conns: map[net.Conn]bool{}}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); f.disconnect(); tasks.Wait() })
	return f
}

// disconnect closes all connections.
func (f *fakeRedis) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

func (f *fakeRedis) url() string { return "redis://" + f.ln.Addr().String() }

// behave changes how the server answers from now on.
func (f *fakeRedis) behave(intercept func(args []string, queued bool) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.intercept = intercept
}

// received counts the commands whose text has this prefix.
func (f *fakeRedis) received(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.log {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

// holds fails unless every partition has the whole script.
func (f *fakeRedis) holds(t *testing.T, s *script) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for part, key := range s.stream.Keys {
		var want []event.Position
		for _, e := range s.events {
			if e.Partition == part {
				want = append(want, e.Position)
			}
		}
		var got []event.Position
		for i, e := range f.streams[key] {
			got = append(got, e.pos)
			if at := slices.Index(e.fields, "seq"); e.fields[at+1] != strconv.Itoa(i+1) {
				t.Errorf("%s: entry %d has seq %s", key, i+1, e.fields[at+1])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has %d entries, want %d", key, len(got), len(want))
		}
	}
}

func (f *fakeRedis) serve(c net.Conn) {
	f.mu.Lock()
	f.conns[c] = true
	f.mu.Unlock()
	defer func() {
		c.Close()
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
	}()
	r := bufio.NewReader(c)
	var queue [][]string
	queueing, aborted := false, false
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.log = append(f.log, strings.Join(args, " "))
		inside := queueing && args[0] != "EXEC"
		reply := ""
		if f.intercept != nil {
			reply = f.intercept(args, inside)
		}
		switch {
		case reply == "close":
			f.mu.Unlock()
			return
		case reply != "":
			aborted = aborted || inside
			queueing = queueing && args[0] != "EXEC"
		case args[0] == "MULTI":
			queueing, aborted, queue, reply = true, false, nil, "+OK\r\n"
		case inside:
			queue, reply = append(queue, args), "+QUEUED\r\n"
		case args[0] == "EXEC" && aborted:
			queueing, reply = false, "-EXECABORT Transaction discarded because of previous errors.\r\n"
		case args[0] == "EXEC" && !queueing:
			reply = "-ERR EXEC without MULTI\r\n"
		case args[0] == "EXEC":
			queueing, reply = false, f.exec(queue)
		default:
			reply = f.do(args)
		}
		f.mu.Unlock()
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

func (f *fakeRedis) exec(queue [][]string) string {
	reply := fmt.Sprintf("*%d\r\n", len(queue))
	for _, args := range queue {
		r := ""
		if f.intercept != nil {
			r = f.intercept(args, false)
		}
		if r == "" {
			r = f.do(args)
		}
		reply += r
	}
	return reply
}

func (f *fakeRedis) do(args []string) string {
	switch args[0] {
	case "XADD":
		return f.add(args)
	case "XINFO":
		entries := f.streams[args[2]]
		if len(entries) == 0 {
			return "-ERR no such key\r\n"
		}
		last := entries[len(entries)-1]
		return "*4\r\n" + bulks("last-generated-id", last.pos.ID(), "last-entry") + last.reply()
	case "XREVRANGE": // key upper - COUNT 1
		bound, open := strings.CutPrefix(args[2], "(")
		upper, _ := event.ParseID(bound)
		for _, e := range slices.Backward(f.streams[args[1]]) {
			if d := e.pos.Compare(upper); d < 0 || d == 0 && !open {
				return "*1\r\n" + e.reply()
			}
		}
		return "*0\r\n"
	case "HGETALL":
		return "*0\r\n"
	case "INFO":
		return bulks("# Server\r\nredis_version:7.4.1\r\nredis_mode:standalone\r\n")
	}
	return "+OK\r\n"
}

func (f *fakeRedis) add(args []string) string {
	key := args[1]
	i := 2
	makes := args[i] != "NOMKSTREAM"
	if !makes {
		i++
	}
	if args[i] == "MAXLEN" {
		i += 3
	}
	pos, err := event.ParseID(args[i])
	if err != nil || pos.IsZero() {
		return "-ERR The ID specified in XADD must be greater than 0-0\r\n"
	}
	if entries := f.streams[key]; len(entries) > 0 && entries[len(entries)-1].pos.Compare(pos) >= 0 {
		return "-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n"
	}
	if !makes && f.streams[key] == nil {
		return "$-1\r\n"
	}
	f.streams[key] = append(f.streams[key], fakeEntry{pos, args[i+1:]})
	return bulks(args[i])
}

func (e fakeEntry) reply() string {
	return "*2\r\n" + bulks(e.pos.ID()) + fmt.Sprintf("*%d\r\n", len(e.fields)) + bulks(e.fields...)
}

func bulks(values ...string) string {
	var b []byte
	for _, v := range values {
		b = event.AppendBulkString(b, v)
	}
	return string(b)
}

func readCommand(r *bufio.Reader) ([]string, error) {
	var n int
	if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		var size int
		if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:size])
	}
	return args, nil
}
