package harness

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// groupByCommit cuts entries, which are in order, into transactions.
func groupByCommit(entries []streamEntry) [][]streamEntry {
	var groups [][]streamEntry
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].at.commit == entries[0].at.commit {
			n++
		}
		groups = append(groups, entries[:n])
		entries = entries[n:]
	}
	return groups
}

// compare walks both histories in commit order. After a transaction that only
// one of them has, it goes on where they fit again.
func (v *verifier) compare(got [][]streamEntry, want []expectedTx) {
	for len(got) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0 || len(got) > 0 && got[0][0].at.commit < want[0].FloorLSN:
			v.errorf("transaction at %v, xid %d, with %d entries, is not Postgres's", got[0][0].at, got[0][0].tx, len(got[0]))
			got = got[1:]
		case len(got) == 0 || !want[0].Holds(got[0][0].at.commit):
			v.errorf("transaction %d, which ends at %X/%X, with %d entries, is not in the streams", want[0].XID, want[0].EndLSN>>32, uint32(want[0].EndLSN), len(want[0].entries))
			want = want[1:]
		default:
			v.compareTx(got[0], want[0])
			got, want = got[1:], want[1:]
		}
	}
}

func (v *verifier) compareTx(got []streamEntry, want expectedTx) {
	if len(got) != len(want.entries) {
		v.errorf("transaction at %v, xid %d: %d entries, want %d", got[0].at, want.XID, len(got), len(want.entries))
		return
	}
	for i, e := range got {
		if e.at.ordinal != uint64(i+1) {
			v.errorf("transaction at %v, xid %d: ordinal %d, want %d", e.at, want.XID, e.at.ordinal, i+1)
			return
		}
		if e.tx != want.XID {
			v.errorf("entry %v: tx %d, want %d", e.at, e.tx, want.XID)
		}
		if difference := e.differs(want.entries[i]); difference != "" {
			v.errorf("entry %v of %s, partition %d: %s", e.at, e.stream, e.partition, difference)
		}
	}
}

// differs says in what an entry is not the one that was expected, "" when it is.
func (e *streamEntry) differs(w expectedEntry) string {
	type head struct {
		stream              string
		partition           int
		typ, key, op, table string
	}
	got := head{e.stream, e.partition, e.typ, e.key, e.op, e.table}
	want := head{w.stream, w.partition, w.typ, w.key, w.op, w.table}
	switch {
	case got != want:
		return fmt.Sprintf("%+v, want %+v", got, want)
	case !slices.Equal(e.unchanged, w.unchanged):
		return fmt.Sprintf("unchanged %q, want %q", e.unchanged, w.unchanged)
	}
	if d := differentColumn(e.data, w.data); d != "" {
		return "data: " + d
	}
	if d := differentColumn(e.old, w.old); d != "" {
		return "old: " + d
	}
	return ""
}

// differentColumn compares data or old with the image it should be of.
func differentColumn(got map[string]any, want *image) string {
	switch {
	case want == nil && got == nil:
		return ""
	case want == nil:
		return "it is there, want none"
	case got == nil:
		return "it is absent"
	}
	return differentValue(got, want.json)
}

// differentValue names a member in which two JSON objects differ.
func differentValue(got, want map[string]any) string {
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			return fmt.Sprintf("no %q, want %s", name, brief(w))
		}
		if !reflect.DeepEqual(g, w) {
			return fmt.Sprintf("%q is %s, want %s", name, brief(g), brief(w))
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok {
			return fmt.Sprintf("%q is %s, want none", name, brief(g))
		}
	}
	return ""
}

// brief prints a value, of a long one the beginning.
func brief(v any) string {
	s := fmt.Sprintf("%#v", v)
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

// compareTables compares the folded tables with the real ones.
func (v *verifier) compareTables(ctx context.Context, state map[tableOf]foldedTable) error {
	return withConn(ctx, v.pipeline.DBURL, func(conn *pgx.Conn) error {
		for _, t := range v.tables {
			real, err := t.readRows(ctx, conn)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			v.seen.Rows += len(real)
			for _, s := range t.streams {
				v.compareRows(tableOf{s.Name, t.name}, state[tableOf{s.Name, t.name}], real)
			}
		}
		return nil
	})
}

func (v *verifier) compareRows(at tableOf, folded, real foldedTable) {
	for key, want := range real {
		got, ok := folded[key]
		if !ok {
			v.errorf("fold of %s: %s %q is missing", at.stream, at.table, key)
		} else if d := differentValue(got, want); d != "" {
			v.errorf("fold of %s: %s %q: %s", at.stream, at.table, key, d)
		}
	}
	for key := range folded {
		if _, ok := real[key]; !ok {
			v.errorf("fold of %s: %s %q is not in the table", at.stream, at.table, key)
		}
	}
}

// readRows reads a table as to_jsonb has its rows, by key.
func (t *tableShape) readRows(ctx context.Context, conn *pgx.Conn) (foldedTable, error) {
	var key []string
	for _, column := range t.key {
		key = append(key, pgx.Identifier{column}.Sanitize()+"::text")
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT ARRAY[%s], to_jsonb(t)::text FROM %s t", strings.Join(key, ", "), t.name))
	if err != nil {
		return nil, err
	}
	table := foldedTable{}
	var values []string
	var text string
	_, err = pgx.ForEachRow(rows, []any{&values, &text}, func() error {
		row, err := decodeObject([]byte(text))
		if err != nil {
			return err
		}
		named := map[string]*string{}
		for i, column := range t.key {
			named[column] = &values[i]
		}
		table[t.keyOf(named)] = row
		return nil
	})
	return table, err
}
