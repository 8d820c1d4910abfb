package capture

import (
	"slices"
	"strconv"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// A chunk ends with the row that makes it big enough, and rows that are read by their keys and did not fit are read later.
func TestBackfillBytes(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 200) i`)
	source := newTestSource(t, url, "bytes_"+harness.DatabaseName(t, url))
	if _, err := source.Prepare(t.Context(), Known{}); err != nil {
		t.Fatal(err)
	}
	conn, err := source.connectCancelling(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // it only read
	target, err := source.readTarget(t.Context(), conn, "public", "t")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := target.parts(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	core := newBackfillCore("p", "me")
	r := &tableReader{conn: conn, core: core, target: target, armed: core.arm(target.oid, target.key, nil), types: newTypeCatalogue()}
	read := func(p piece) (c *chunk, last bool) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
			t.Fatal(err)
		}
		c, last, err := r.inside(t.Context(), p)
		if err := r.rollback(t.Context(), err); err != nil {
			t.Fatal(err)
		}
		return c, last
	}
	for _, tc := range []struct {
		bytes, rows int
		last        bool
	}{{1, 1, false}, {200, 2, false}, {10000, 91, false}, {1 << 20, 200, true}} { // a row takes 109 bytes, 110 with two digits
		c, last := read(piece{part: &parts[0], limit: 1000, bytes: tc.bytes})
		if len(c.rows) != tc.rows || last != tc.last || c.next[0] != strconv.Itoa(tc.rows) {
			t.Errorf("of %d bytes: %d rows up to %v, last %v; want %d", tc.bytes, len(c.rows), c.next, last, tc.rows)
		}
	}
	if c, last := read(piece{part: &parts[0], limit: 70, bytes: 1 << 20}); len(c.rows) != 70 || last {
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
