package capture

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

// tlsServer writes records into its buffer, from where a test sends as much as it likes.
type tlsServer struct {
	net.Conn
	held bool
	wire bytes.Buffer
}

func (c *tlsServer) Write(p []byte) (int, error) {
	if c.held {
		return c.wire.Write(p)
	}
	return c.Conn.Write(p)
}

// release sends n bytes of what was written.
func (c *tlsServer) release(t *testing.T, n int) {
	t.Helper()
	if _, err := c.Conn.Write(c.wire.Next(n)); err != nil {
		t.Fatal(err)
	}
}

// overTLS is a reader as connectReplication makes it, and the server at the other end.
func overTLS(t *testing.T) (*frameReader, *tls.Conn, *tlsServer, net.Conn) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(harness.Certificate(t))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close(); accepted.Close() })
	wire := &tlsServer{Conn: accepted}
	server := tls.Server(wire, &tls.Config{Certificates: []tls.Certificate{pair}})
	ahead := newReadAhead(raw)
	client := tls.Client(ahead, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own certificate
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	wire.held = true
	frames := newFrameReader(client, paceOf(raw.RemoteAddr()))
	frames.ahead = ahead
	return frames, server, wire, client
}

func writeMessage(t *testing.T, w *tls.Conn, body string) {
	t.Helper()
	message := append(binary.BigEndian.AppendUint32([]byte{'d'}, uint32(len(body)+4)), body...)
	if _, err := w.Write(message); err != nil {
		t.Fatal(err)
	}
}

// A server writes each message as a record: read one by one, a backlog would take a pause for each message.
func TestManyRecordsOfTLSAreOneRead(t *testing.T) {
	frames, server, wire, _ := overTLS(t)
	const messages = 300 // as many as are in a socket at once
	for i := range messages {
		writeMessage(t, server, fmt.Sprintf("message %d %s", i, strings.Repeat("x", 50)))
	}
	wire.release(t, wire.wire.Len())
	reads, got := 0, 0
	for got < messages {
		_, body, ok, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			if err := frames.fill(); err != nil {
				t.Fatal(err)
			}
			reads++
			continue
		}
		if want := fmt.Sprintf("message %d x", got); !strings.HasPrefix(string(body), want) {
			t.Fatalf("got %q, want %q", body, want)
		}
		got++
	}
	if reads > messages/10 {
		t.Errorf("%d reads for %d messages", reads, messages)
	}
}

// What is whole is handed out though a part of the next record has come with it, and that record goes on after a timeout.
func TestPartOfARecordOfTLSHoldsUpNothing(t *testing.T) {
	frames, server, wire, client := overTLS(t)
	writeMessage(t, server, "first")
	whole := wire.wire.Len()
	writeMessage(t, server, "second")
	expect := func(want string) {
		t.Helper()
		for {
			_, body, ok, err := frames.next()
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				if string(body) != want {
					t.Fatalf("got %q, want %q", body, want)
				}
				return
			}
			if err := client.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := frames.fill(); err != nil {
				t.Fatalf("waiting for %q: %v", want, err)
			}
		}
	}
	wire.release(t, whole+7)
	expect("first")
	if err := client.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := frames.fill(); !isTimeout(err) {
		t.Fatalf("a read of half a record: got %v, want a timeout", err)
	}
	wire.release(t, wire.wire.Len())
	expect("second")
}

func TestStreamOverTLS(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresOptions{})
	db := harness.Database(t, pg)
	cert, key := harness.Certificate(t)
	for path, name := range map[string]string{cert: "server.crt", key: "server.key"} {
		pem, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The server has a user of its own, which alone may read the key.
		harness.Exec(t, db, `COPY (SELECT unnest(string_to_array('`+strings.TrimSpace(string(pem))+`', E'\n'))) TO PROGRAM 'umask 077; cat > `+name+`'`)
	}
	harness.Exec(t, db, `ALTER SYSTEM SET ssl = on`, `SELECT pg_reload_conf()`)
	harness.Eventually(t, 30*time.Second, "TLS to be on", func() bool { return harness.Value(t, db, `SHOW ssl`) == "on" })
	harness.Exec(t, db, `CREATE TABLE t (id int PRIMARY KEY, x text)`)
	source := newTestSource(t, strings.Replace(db, "sslmode=disable", "sslmode=require", 1), harness.DatabaseName(t, db))
	if _, err := source.Prepare(t.Context(), Known{}); err != nil {
		t.Fatal(err)
	}
	stream, err := source.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Abort()
	const rows = 5000
	harness.Exec(t, db, fmt.Sprintf(`INSERT INTO t SELECT i, repeat('x', i %% 300) FROM generate_series(1, %d) i`, rows))
	got := 0
	until(t, stream, "commit", func(item *change.Item) bool {
		if item.Kind == change.ItemChanges {
			got++
			if id := string(item.Changes[0].New[0].Data); id != fmt.Sprint(got) {
				t.Fatalf("row %d has id %s", got, id)
			}
		}
		return item.Kind == change.ItemCommit
	})
	if got != rows {
		t.Errorf("%d rows, want %d", got, rows)
	}
}
