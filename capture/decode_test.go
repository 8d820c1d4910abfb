package capture

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

var (
	record = flag.Bool("record", false, "record testdata/wal/*.hex from a real Postgres, running the .sql files")
	update = flag.Bool("update", false, "rewrite the golden files from what the run gives")
)

// TestDecodeRecordedWAL decodes recorded pgoutput messages, one in hex a
// line, and compares the items with the golden file beside them.
func TestDecodeRecordedWAL(t *testing.T) {
	scripts, err := filepath.Glob("testdata/wal/*.sql")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		base := strings.TrimSuffix(script, ".sql")
		t.Run(filepath.Base(base), func(t *testing.T) {
			if *record {
				recordWAL(t, script, base+".hex")
			}
			got := decodeAll(t, readHex(t, base+".hex"))
			if *update {
				if err := os.WriteFile(base+".golden", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(base + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("items differ (-want +got):\n%s", diff)
			}
		})
	}
}

func recordWAL(t *testing.T, script, out string) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	sql, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	slot := harness.DatabaseName(t, url)
	text := strings.Replace(string(sql), "'s', 'pgoutput'", "'"+slot+"', 'pgoutput'", 1)
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "--") {
			continue
		}
		if _, err := conn.PgConn().Exec(context.Background(), line).ReadAll(); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	rows, err := conn.Query(context.Background(), `SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`, slot)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readHex(t testing.TB, path string) [][]byte {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var messages [][]byte
	for lines := bufio.NewScanner(file); lines.Scan(); {
		m, err := hex.DecodeString(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	return messages
}

// noTypes stands in for the catalogue.
func noTypes(rel *change.Relation, columns []columnType) error {
	for i, c := range columns {
		rel.Columns[i].Type = &change.Type{OID: c.oid}
	}
	return nil
}

func decodeAll(t *testing.T, messages [][]byte) string {
	d := newDecoder(noTypes)
	var out bytes.Buffer
	for i, m := range messages {
		var item change.Item
		ok, err := d.decode(m, &item)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if ok {
			render(&out, &item)
		}
	}
	return out.String()
}

// render writes an item as a reader would want to see it.
func render(out *bytes.Buffer, item *change.Item) {
	switch item.Kind {
	case change.ItemBegin:
		fmt.Fprintf(out, "begin %s xid %d at %s\n", item.Tx.CommitLSN, item.Tx.XID, item.Tx.Time.Format("2006-01-02T15:04:05.000000Z07:00"))
	case change.ItemCommit:
		fmt.Fprintf(out, "commit, watermark %s\n", item.Watermark)
	case change.ItemChanges:
		for _, c := range item.Changes {
			fmt.Fprintf(out, "  %c", c.Op)
			if c.Relation != nil {
				fmt.Fprintf(out, " %s (identity %c)", c.Relation, c.Relation.Identity)
			} else {
				fmt.Fprintf(out, " %s: %s", c.Prefix, c.Content)
			}
			renderRow(out, " old", c.Relation, c.Old)
			renderRow(out, " new", c.Relation, c.New)
			out.WriteByte('\n')
		}
	}
}

func renderRow(out *bytes.Buffer, name string, rel *change.Relation, row []change.Value) {
	if row == nil {
		return
	}
	fmt.Fprintf(out, "%s:", name)
	for i, v := range row {
		text := map[change.ValueKind]string{change.Null: "NULL", change.Unchanged: "unchanged", change.Absent: "absent"}[v.Kind]
		if v.Kind == change.Text {
			text = fmt.Sprintf("%q", v.Data)
		}
		if len(text) > 20 {
			text = fmt.Sprintf("%.10s… (%d)", text, len(v.Data))
		}
		fmt.Fprintf(out, " %s=%s", rel.Columns[i].Name, text)
	}
}

func FuzzDecode(f *testing.F) {
	scripts, _ := filepath.Glob("testdata/wal/*.hex")
	for _, path := range scripts {
		for _, m := range readHex(f, path) {
			f.Add(m)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDecoder(noTypes)
		d.inTx = true
		d.relations[16384] = &change.Relation{OID: 16384, Columns: []change.Column{{Name: "id", Key: true}, {Name: "x"}}}
		var item change.Item
		if ok, err := d.decode(data, &item); ok && err == nil && item.Kind == change.ItemChanges {
			for _, c := range item.Changes {
				if c.New != nil && len(c.New) != len(c.Relation.Columns) {
					t.Errorf("a row of %d values for %d columns", len(c.New), len(c.Relation.Columns))
				}
			}
		}
	})
}

// A message outside a transaction makes no item, and whoever wants to know is told of it.
func TestMessageOutsideATransaction(t *testing.T) {
	d := newDecoder(noTypes)
	var told []string
	d.outside = func(prefix string) { told = append(told, prefix) }
	for _, flags := range []string{"\x00", "\x01"} {
		data := "M" + flags + "\x00\x00\x00\x00\x00\x00\x00\x01" + "orders\x00" + "\x00\x00\x00\x02" + "{}"
		var item change.Item
		ok, err := d.decode([]byte(data), &item)
		if err != nil {
			t.Fatal(err)
		}
		if want := flags == "\x01"; ok != want {
			t.Errorf("flags %q: an item is %t", flags, ok)
		}
	}
	if diff := cmp.Diff([]string{"orders"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
