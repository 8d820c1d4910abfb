package projector

import "testing"

// Definitions are as Postgres prints them (pg_get_viewdef).
func TestDerive(t *testing.T) {
	const summary = ` SELECT o.id AS order_id,
    o.status,
    c.name AS customer,
    count(i.id) AS items
   FROM ((orders o
     JOIN customers c ON ((c.id = o.customer_id)))
     LEFT JOIN order_items i ON (((i.order_id = o.id) AND (i.qty > 1))))
  GROUP BY o.id, c.id;`
	tests := []struct{ name, viewdef, key, table, want, refused string }{
		{"key's own table", summary, "order_id", "orders", `SELECT "o"."id" FROM changed "o"`, ""},
		{"nullable side", summary, "order_id", "order_items", `SELECT "i"."order_id" FROM changed "i"`, ""},
		{"through the key's table", summary, "order_id", "customers", `SELECT "o"."id" FROM changed "c" JOIN "orders" "o" ON c.id = o.customer_id`, ""},
		{"one table", " SELECT id AS k,\n    a\n   FROM t\n  WHERE (a > 1);", "k", "t", `SELECT "t"."id" FROM changed "t"`, ""},
		{"comma and WHERE", " SELECT a.id\n   FROM a,\n    b\n  WHERE ((b.a_id = a.id) AND (b.x <= 3));", "id", "b", `SELECT "b"."a_id" FROM changed "b"`, ""},
		{"casts", " SELECT a.id\n   FROM (a\n     JOIN b ON (((b.name)::text = (a.name)::text)));", "id", "b",
			`SELECT "a"."id" FROM changed "b" JOIN "a" "a" ON (b.name)::text = (a.name)::text`, ""},
		{"self-join", " SELECT e.id\n   FROM (people e\n     LEFT JOIN people m ON ((m.id = e.boss)));", "id", "people",
			`SELECT "e"."id" FROM changed "e" UNION SELECT "e"."id" FROM changed "m" JOIN "people" "e" ON m.id = e.boss`, ""},
		{"USING", " SELECT a.id\n   FROM (a\n     JOIN b USING (id));", "id", "b", `SELECT "b"."id" FROM changed "b"`, ""},
		{"not against an outer join", " SELECT o.id\n   FROM ((o\n     CROSS JOIN t)\n     LEFT JOIN a ON (((a.x = t.x) AND (a.y = o.id))));", "id", "t", "", "no equality of columns leads from t to o"},
		{"not by an ON that need not hold", " SELECT a.id\n   FROM ((a\n     CROSS JOIN c)\n     LEFT JOIN b ON (((b.x = a.x) AND (c.y = a.y))));", "id", "c", "", "no equality of columns leads from c to a"},
		{"nor on the right", " SELECT b.id\n   FROM (a\n     RIGHT JOIN (b\n     CROSS JOIN c) ON (((a.x = b.x) AND (c.y = b.y))));", "id", "c", "", "no equality of columns leads from c to b"},
		{"within what may be missing", " SELECT a.id\n   FROM (a\n     LEFT JOIN (b\n     CROSS JOIN c) ON (((b.x = a.x) AND (c.y = b.y))));", "id", "c",
			`SELECT "a"."id" FROM changed "c" JOIN "b" "b" ON c.y = b.y JOIN "a" "a" ON b.x = a.x`, ""},
		{"renamed columns", " SELECT a.x AS id\n   FROM a a(y, x);", "id", "a", "", "its FROM is not plain"},
		{"a name for a join", " SELECT j.id\n   FROM (a\n     JOIN b ON ((b.x = a.id))) j(id, x, y);", "id", "a", "", "its FROM is not plain"},
		{"OR is no equality", " SELECT a.id\n   FROM (a\n     JOIN b ON (((b.x = a.x) OR (b.y = a.y))));", "id", "b", "", "no equality of columns leads from b to a"},
		{"inequality", " SELECT a.id\n   FROM (a\n     JOIN b ON ((b.x <= a.x)));", "id", "b", "", "no equality of columns leads from b to a"},
		{"computed key", " SELECT (a.id + 1) AS k\n   FROM a;", "k", "a", "", "the key k is not a column of one table as it is"},
		{"window", " SELECT a.id,\n    row_number() OVER (ORDER BY a.id) AS n\n   FROM a;", "id", "a", "", "it has OVER"},
		{"limit", " SELECT a.id\n   FROM a\n LIMIT 3;", "id", "a", "", "it has LIMIT"},
		{"union", " SELECT a.id\n   FROM a\nUNION\n SELECT b.id\n   FROM b;", "id", "a", "", "it has UNION"},
		{"distinct on", " SELECT DISTINCT ON (a.x) a.id\n   FROM a;", "id", "a", "", "it has DISTINCT ON"},
		{"with", " WITH x AS (\n         SELECT 1\n        )\n SELECT a.id\n   FROM a;", "id", "a", "", "it does not start with SELECT"},
		{"subquery in FROM", " SELECT s.id\n   FROM ( SELECT a.id\n           FROM a) s;", "id", "a", "", "its FROM has a subquery"},
		{"subquery elsewhere", " SELECT a.id,\n    ( SELECT count(*) AS count\n           FROM b\n          WHERE (b.x = a.x)) AS n\n   FROM a;", "id", "b", "", "a subquery reads it"},
		{"beside a subquery", " SELECT a.id,\n    ( SELECT count(*) AS count\n           FROM b) AS n\n   FROM a;", "id", "a", `SELECT "a"."id" FROM changed "a"`, ""},
		{"quotes", ` SELECT o."Id"` + "\n   FROM (\"sales.orders\" o\n     JOIN b ON ((b.x = o.\"Id\")));", "Id", "b", `SELECT "b"."x" FROM changed "b"`, ""},
		{"a keyword in a literal", " SELECT a.id,\n    'LIMIT ( OVER'::text AS t\n   FROM a;", "id", "a", `SELECT "a"."id" FROM changed "a"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseShape(tt.viewdef).derive(tt.table, []string{tt.key})
			if tt.refused != "" {
				if err == nil || err.Error() != tt.refused {
					t.Errorf("got %q, %v; want %q", got, err, tt.refused)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// Whatever it is given, the parser comes to an end.
func FuzzParseShape(f *testing.F) {
	f.Add(" SELECT o.id FROM ((orders o JOIN customers c ON ((c.id = o.customer_id))) LEFT JOIN i USING (id)) WHERE (a = 'x''y');")
	f.Add("SELECT ((((")
	f.Add("SELECT a FROM ) ON JOIN , USING (")
	f.Fuzz(func(t *testing.T, viewdef string) {
		s := parseShape(viewdef)
		for _, src := range s.sources {
			s.derive(src.table, []string{"id"}) //nolint:errcheck // any answer will do
		}
	})
}
