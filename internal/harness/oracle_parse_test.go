package harness

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// row makes a tuple of pairs; "NULL" stands for NULL.
func row(pairs ...string) map[string]*string {
	r := map[string]*string{}
	for i := 0; i < len(pairs); i += 2 {
		r[pairs[i]] = &pairs[i+1]
		if pairs[i+1] == "NULL" {
			r[pairs[i]] = nil
		}
	}
	return r
}

func TestParseTestDecoding(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       []OracleChange
	}{
		{"insert", `table public.t: INSERT: id[integer]:1 n[numeric]:-1.50 ok[boolean]:true f[double precision]:NaN`,
			[]OracleChange{{Table: "public.t", Op: OpInsert, New: row("id", "1", "n", "-1.50", "ok", "true", "f", "NaN")}}},
		{"null and texts like it", `table public.t: INSERT: a[text]:null b[text]:'null' c[text]:'' d[text]:'unchanged-toast-datum'`,
			[]OracleChange{{Table: "public.t", Op: OpInsert, New: row("a", "NULL", "b", "null", "c", "", "d", "unchanged-toast-datum")}}},
		{"quotes", `table public.t: INSERT: a[text]:'it''s' b[text]:'''' c[text]:'a'' b[text]:''x' d[text]:'back\slash'`,
			[]OracleChange{{Table: "public.t", Op: OpInsert, New: row("a", "it's", "b", "'", "c", "a' b[text]:'x", "d", `back\slash`)}}},
		{"line breaks and other alphabets", "table public.t: INSERT: a[text]:'line\nand\ttab 世界'",
			[]OracleChange{{Table: "public.t", Op: OpInsert, New: row("a", "line\nand\ttab 世界")}}},
		{"types with brackets, spaces and quotes", `table public.t: INSERT: a[text[]]:'{a,NULL}' b[character varying]:'x' c["char"]:'y' d[s."odd]: type"]:'z' e[bit varying]:B'101' f["Odd"[]]:'{}'`,
			[]OracleChange{{Table: "public.t", Op: OpInsert, New: row("a", "{a,NULL}", "b", "x", "c", "y", "d", "z", "e", "101", "f", "{}")}}},
		{"odd names", `table "My ""S"", x"."T: INSERT:": INSERT: "a b[c]"[integer]:1 "q""q"[integer]:2`,
			[]OracleChange{{Table: `My "S", x.T: INSERT:`, Op: OpInsert, New: row("a b[c]", "1", `q"q`, "2")}}},
		{"update that keeps the key", `table public.t: UPDATE: id[integer]:1 body[text]:unchanged-toast-datum n[integer]:2`,
			[]OracleChange{{Table: "public.t", Op: OpUpdate, New: row("id", "1", "n", "2"), Unchanged: []string{"body"}}}},
		{"update of the key", `table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 body[text]:unchanged-toast-datum`,
			[]OracleChange{{Table: "public.t", Op: OpUpdate, Old: row("id", "1"), New: row("id", "2"), Unchanged: []string{"body"}}}},
		{"new-tuple within a value", `table public.t: UPDATE: old-key: id[text]:' new-tuple: id[text]:''x' new-tuple: id[text]:'y'`,
			[]OracleChange{{Table: "public.t", Op: OpUpdate, Old: row("id", " new-tuple: id[text]:'x"), New: row("id", "y")}}},
		{"delete", `table public.t: DELETE: id[integer]:1`,
			[]OracleChange{{Table: "public.t", Op: OpDelete, Old: row("id", "1")}}},
		{"delete without identity", `table public.t: DELETE: (no-tuple-data)`,
			[]OracleChange{{Table: "public.t", Op: OpDelete}}},
		{"insert without columns", `table public.t: INSERT:`,
			[]OracleChange{{Table: "public.t", Op: OpInsert, New: row()}}},
		{"truncate", `table public.t: TRUNCATE: (no-flags)`,
			[]OracleChange{{Table: "public.t", Op: OpTruncate}}},
		{"truncate of several", `table public.t, "O, dd".u: TRUNCATE: restart_seqs cascade`,
			[]OracleChange{{Table: "public.t", Op: OpTruncate}, {Table: "O, dd.u", Op: OpTruncate}}},
		{"message", "message: transactional: 1 prefix: walrill, sz: 12 content:a content:b\n",
			[]OracleChange{{Op: OpMessage, New: row("prefix", "walrill", "content", "a content:b\n")}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseTestDecoding(c.data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseTestDecodingRefuses(t *testing.T) {
	for _, data := range []string{
		``,
		`tables`,
		`table public`,
		`table public.t`,
		`table public.t: MERGE: id[integer]:1`,
		`table public.t: INSERT: id`,
		`table public.t: INSERT: id[integer:1`,
		`table public.t: INSERT: id[integer]:`,
		`table public.t: INSERT: id[text]:'open`,
		`table public.t: INSERT: id[text]:'a'b`,
		`table public.t: INSERT: id[integer]:1 new-tuple: id[integer]:2`,
		`table public.t: UPDATE: old-key: id[integer]:1`,
		`table "public.t: INSERT:`,
		`message: transactional: 1`,
	} {
		if got, err := parseTestDecoding(data); err == nil {
			t.Errorf("parsed %q as %v", data, got)
		}
	}
}
