package capture

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// A chunk ends with the row that makes it big enough, and rows that are read by their keys and did not fit are read later.
func TestBackfillBytes(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 200) i`)
	source := newTestSource(t, url, "bytes_"+harness.DatabaseName(t, url))
	r, part := testReader(t, source)
	core := r.core
	read := func(p piece) (*chunk, bool) { return readPiece(t, r, p) }
	for _, tc := range []struct {
		bytes, rows int
		last        bool
	}{{1, 1, false}, {200, 2, false}, {10000, 91, false}, {1 << 20, 200, true}} { // a row takes 109 bytes, 110 with two digits
		c, last := read(piece{part: part, limit: 1000, bytes: tc.bytes})
		if len(c.rows) != tc.rows || last != tc.last || c.next[0] != strconv.Itoa(tc.rows) {
			t.Errorf("of %d bytes: %d rows up to %v, last %v; want %d", tc.bytes, len(c.rows), c.next, last, tc.rows)
		}
	}
	if c, last := read(piece{part: part, limit: 70, bytes: 1 << 20}); len(c.rows) != 70 || last {
		t.Errorf("of 70 rows: %d, last %v", len(c.rows), last)
	}

	keys := [][]string{{"3"}, {"5"}, {"7"}}
	if c, _ := read(piece{keys: keys, limit: 3, bytes: 1 << 20}); len(c.rows) != 3 {
		t.Errorf("%d rows by their keys", len(c.rows))
	}
	if again, _, _ := core.movedKeys(r.armed); len(again) != 0 {
		t.Errorf("%q are to be read again", again)
	}
	c, _ := read(piece{keys: keys, limit: 3, bytes: 1})
	if again, _, _ := core.movedKeys(r.armed); len(c.rows) != 1 || !slices.Equal(again, []string{joinKey(keys[1]), joinKey(keys[2])}) {
		t.Errorf("%d rows by their keys, %q are to be read again", len(c.rows), again)
	}
}

// testReader reads the only table, t.
func testReader(t *testing.T, source *Source) (*tableReader, *part) {
	t.Helper()
	if _, err := source.Prepare(t.Context(), Known{}); err != nil {
		t.Fatal(err)
	}
	conn, err := source.connectCancelling(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // it only read
	target, err := source.readTarget(t.Context(), conn, "public", "t")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := target.parts(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	core := newBackfillCore("p", "me")
	return &tableReader{conn: conn, core: core, target: target, armed: core.arm(target.oid, target.key, nil), types: newTypeCatalogue()}, &parts[0]
}

func readPiece(t *testing.T, r *tableReader, p piece) (c *chunk, last bool) {
	t.Helper()
	if _, err := r.conn.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	c, last, err := r.inside(t.Context(), p)
	if err := r.rollback(t.Context(), err); err != nil {
		t.Fatal(err)
	}
	return c, last
}

// counting counts what is read from a connection.
type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// Once it is known how wide the rows are, no more of them are asked for than a chunk holds.
func TestBackfillWideRows(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `ALTER TABLE t ALTER x SET STORAGE EXTERNAL`,
		`INSERT INTO t SELECT i, repeat('x', 100000) FROM generate_series(1, 200) i`)
	source := newTestSource(t, url, "wide_"+harness.DatabaseName(t, url))
	var got atomic.Int64
	dial := source.config.DialFunc
	source.config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return counting{conn, &got}, err
	}
	r, part := testReader(t, source)
	p := piece{part: part, limit: 1000, bytes: 1 << 20}
	for range 3 {
		before := got.Load()
		c, last := readPiece(t, r, p)
		if len(c.rows) != 11 || last {
			t.Errorf("%d rows, last %v", len(c.rows), last)
		}
		if n := got.Load() - before; p.at.after != nil && n > 2<<20 {
			t.Errorf("%d bytes came for a chunk of %d", n, p.bytes)
		}
		p.at.after = c.next
	}
}
