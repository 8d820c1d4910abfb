package transform

import (
	"testing"
	"time"

	"github.com/walrill/walrill/change"
)

// accountsRelation is the table of docs/performance.md: 172 bytes a row.
func accountsRelation(identity change.Identity) *change.Relation {
	return &change.Relation{OID: 1, Namespace: "public", Name: "accounts", Identity: identity, PrimaryKey: []string{"id"},
		Columns: []change.Column{
			{Name: "id", Key: true, Type: typeInt8, TypeName: "bigint"},
			{Name: "owner", Type: typeText, TypeName: "text"},
			{Name: "balance", Type: typeNumeric, TypeName: "numeric(12,2)"},
			{Name: "status", Type: typeText, TypeName: "text"},
			{Name: "updated_at", Type: typeTimestampTZ, TypeName: "timestamp with time zone"},
			{Name: "note", Type: typeText, TypeName: "text"},
		}}
}

func accountsRow() []change.Value {
	return texts("48213", "owner-48213", "10482.13", "active", "2026-11-03 14:25:36.123456+00",
		"a note of some length that no one will ever read, which is what notes are for, and on it goes")
}

func texts(values ...string) []change.Value {
	row := make([]change.Value, len(values))
	for i, v := range values {
		row[i] = change.Value{Kind: change.Text, Data: []byte(v)}
	}
	return row
}

func benchmarkMap(b *testing.B, c *change.Change) { benchmarkTable(b, TableMapping{}, c) }

func benchmarkTable(b *testing.B, table TableMapping, c *change.Change) {
	table.Pattern = "public.accounts"
	m, err := New(Mapping{Streams: []StreamMapping{{Name: "accounts", Partitions: 8, Tables: []TableMapping{table}}}}, 0)
	if err != nil {
		b.Fatal(err)
	}
	m.Begin(change.Tx{CommitLSN: 0x16B3748, Time: time.Unix(1_790_000_000, 0).UTC(), XID: 731})
	b.ReportAllocs()
	bytes := 0
	for b.Loop() {
		events, err := m.Map(c)
		if err != nil {
			b.Fatal(err)
		}
		bytes = len(events[0].Data)
	}
	b.SetBytes(int64(bytes))
}

func BenchmarkMapInsert(b *testing.B) {
	benchmarkMap(b, &change.Change{Op: change.Insert, Relation: accountsRelation(change.IdentityDefault), New: accountsRow()})
}

func BenchmarkMapUpdate(b *testing.B) {
	benchmarkMap(b, &change.Change{Op: change.Update, Relation: accountsRelation(change.IdentityDefault), New: accountsRow()})
}

func BenchmarkMapUpdateFull(b *testing.B) {
	old := accountsRow()
	old[2].Data = []byte("9.00")
	benchmarkMap(b, &change.Change{Op: change.Update, Relation: accountsRelation(change.IdentityFull), New: accountsRow(), Old: old})
}

func BenchmarkMapDelete(b *testing.B) {
	old := make([]change.Value, 6)
	for i := range old {
		old[i].Kind = change.Absent
	}
	old[0] = change.Value{Kind: change.Text, Data: []byte("48213")}
	benchmarkMap(b, &change.Change{Op: change.Delete, Relation: accountsRelation(change.IdentityDefault), Old: old})
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range []struct {
		name string
		typ  *change.Type
		text string
	}{
		{"text", typeText, "a note of some length that no one will ever read, which is what notes are for, and on it goes"},
		{"text with escapes", typeText, `he said "no" and left; C:\temp` + "\n" + `and a line`},
		{"float8", typeFloat8, "0.30000000000000004"},
		{"float8 exponent", typeFloat8, "1.5e-07"},
		{"array", arrayOf(typeText), `{alpha,"be ta",NULL,"ga\"mma"}`},
		{"composite", compositeOf("address", change.Field{Name: "street", Type: typeText}, change.Field{Name: "no", Type: typeInt4}), `("Main ""St""",42)`},
		{"json", typeJSON, `{"id": 1, "name": "abc", "tags": ["a", "b"], "nested": {"x": 1.5, "y": null}}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			encode := encoding{}.appender(c.typ)
			text := []byte(c.text)
			var dst []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if dst, err = encode(dst[:0], text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMask maps the same update with no column masked, and with two.
func BenchmarkMask(b *testing.B) {
	for _, c := range []struct {
		name  string
		masks []Mask
	}{
		{name: "none"},
		{"last", []Mask{{Column: Name{Name: "owner"}, Kind: MaskLast, Keep: 4}, {Column: Name{Name: "note"}, Kind: MaskRedact, Text: "***"}}},
		{"hash", []Mask{{Column: Name{Name: "owner"}, Kind: MaskHash, Key: []byte("0123456789abcdef")}, {Column: Name{Name: "note"}, Kind: MaskRedact, Text: "***"}}},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkTable(b, TableMapping{Masks: c.masks}, updateOfBalance()) })
	}
}
