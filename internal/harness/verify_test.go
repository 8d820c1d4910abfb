package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// entry is what a test puts into a stream.
type entry struct {
	key     string // of Redis
	commit  uint64
	ordinal int
	fields  []string
}

// verified is a small history, and the entries that are right for it.
func verified(t *testing.T, pg *Postgres) (db string, history []OracleTx, right []entry) {
	t.Helper()
	db = Database(t, pg)
	Exec(t, db, "CREATE TABLE t (id int PRIMARY KEY, n numeric, body text)", "ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
	oracle, err := NewOracle(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	Exec(t, db, "INSERT INTO t VALUES (1, 1.50, repeat('x', 9000)), (2, NULL, 'b')", "UPDATE t SET id = 4 WHERE id = 1", "UPDATE t SET n = 7 WHERE id = 2")
	if history, err = oracle.Read(t.Context()); err != nil || len(history) != 3 {
		t.Fatalf("the oracle has %d transactions, %v", len(history), err)
	}
	seqs := map[string]int{}
	add := func(tx, ordinal int, key string, op, typ, partition, data string, more ...string) {
		seqs[partition]++
		fields := []string{"type", "t." + typ, "key", key, "op", op, "table", "public.t", "time", "2026-01-01T00:00:00.000000Z",
			"tx", fmt.Sprint(history[tx].XID), "seq", fmt.Sprint(seqs[partition]), "schema", "1", "data", data}
		right = append(right, entry{partition, history[tx].FloorLSN, ordinal, append(fields, more...)})
	}
	body := strings.Repeat("x", 9000)
	add(0, 1, "1", "c", "created", "s:1", `{"id":1,"n":1.5,"body":"`+body+`"}`)
	add(0, 2, "2", "c", "created", "s:1", `{"id":2,"n":null,"body":"b"}`)
	add(1, 1, "1", "d", "deleted", "s:1", `{"id":1}`)
	add(1, 2, "4", "c", "created", "s:0", `{"id":4,"n":1.50}`, "unchanged", `["body"]`)
	add(2, 1, "2", "u", "updated", "s:1", `{"id":2,"n":7,"body":"b"}`)
	return db, history, right
}

// A verification that finds nothing is worth what it would find.
func TestVerifyFindsWhatIsWrong(t *testing.T) {
	pg := SharedPostgres(t, 0)
	db, history, right := verified(t, pg)
	server := NewRedis(t, RedisOptions{})
	p := Pipeline{Name: "p", DBURL: db, RedisURL: server.URL(), Streams: []StreamSpec{{Name: "s", Partitions: 2, Tables: []string{"public.t"}}}}
	set := func(i int, field, value string) func([]entry) []entry {
		return func(entries []entry) []entry {
			at := slices.Index(entries[i].fields, field)
			entries[i].fields[at+1] = value
			return entries
		}
	}
	for _, c := range []struct {
		what   string
		damage func([]entry) []entry
		want   string // part of the error
	}{
		{"nothing", func(e []entry) []entry { return e }, ""},
		{"an entry is missing at the end", func(e []entry) []entry { return e[:4] }, "is not in the streams"},
		{"an entry is missing in between", func(e []entry) []entry { return slices.Delete(e, 2, 3) }, "has seq 4, it is the 3."},
		{"a transaction is there that never was", func(e []entry) []entry {
			e[4].commit = history[2].EndLSN
			return e
		}, "is not Postgres's"},
		{"an ordinal is left out", func(e []entry) []entry { e[1].ordinal = 3; return e }, "ordinal 3, want 2"},
		{"another transaction id", set(0, "tx", "4"), "tx 4, want"},
		{"another operation", set(4, "op", "c"), "op:c"},
		{"another type", set(4, "type", "t.changed"), "t.changed"},
		{"another key", set(0, "key", "2"), `key:2`},
		{"the wrong partition", set(0, "key", "4"), `key "4" belongs to partition 0`},
		{"another value", set(4, "data", `{"id":2,"n":7.0001,"body":"b"}`), `"n" is "70001/10000", want "7"`},
		{"a string for a number", set(4, "data", `{"id":2,"n":"7","body":"b"}`), `"n" is "7", want "7"`},
		{"null for a value", set(4, "data", `{"id":2,"n":null,"body":"b"}`), `"n" is <nil>`},
		{"a column is missing", set(4, "data", `{"id":2,"n":7}`), `no "body"`},
		{"a column too many", set(4, "data", `{"id":2,"n":7,"body":"b","x":1}`), `"x" is "1", want none`},
		{"a placeholder for what is unchanged", set(3, "data", `{"id":4,"n":1.5,"body":"?"}`), `"body" is "?", want none`},
		{"another column unchanged", set(3, "unchanged", `["n"]`), `unchanged ["n"], want ["body"]`},
		{"an old value that was not sent", func(e []entry) []entry {
			e[4].fields = append(e[4].fields, "old", `{"n":null}`)
			return e
		}, "old: it is there"},
		{"another schema", set(4, "schema", "3"), `has schema "3", which the catalogue does not have`},
		{"a schema of other columns", set(4, "schema", "2"), "has column n, its schema 2 does not"},
		{"fewer columns than its schema", set(4, "data", `{"id":2,"n":7}`), "has 2 columns, its schema 1 has 3"},
		{"fields out of order", func(e []entry) []entry {
			e[0].fields = append(e[0].fields[2:], e[0].fields[:2]...)
			return e
		}, "out of order"},
	} {
		var entries []entry
		for _, e := range right {
			e.fields = slices.Clone(e.fields)
			entries = append(entries, e)
		}
		publish(t, server, c.damage(entries))
		seen, err := p.Verify(t.Context(), history)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: found %v", c.what, err)
		case c.want == "" && seen != (Verification{Transactions: 3, Entries: 5, Rows: 2}):
			t.Errorf("%s: saw %+v", c.what, seen)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: found %v, want %q", c.what, err, c.want)
		}
	}

	// What is in the tables counts too, not only what was decoded.
	publish(t, server, right)
	Exec(t, db, "UPDATE t SET body = 'other' WHERE id = 4")
	if _, err := p.Verify(t.Context(), history); err == nil || !strings.Contains(err.Error(), `fold of s: public.t "4": "body" is`) {
		t.Errorf("the table is not what the entries make: found %v", err)
	}
}

func publish(t *testing.T, server *Redis, entries []entry) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	_, err := client.TxPipelined(context.Background(), func(pipe redis.Pipeliner) error {
		pipe.FlushAll(context.Background())
		for version, columns := range []string{`{"name":"id"},{"name":"n"},{"name":"body"}`, `{"name":"id"},{"name":"body"}`} {
			text := fmt.Sprintf(`{"stream":"s","table":"public.t","version":%d,"columns":[%s]}`, version+1, columns)
			pipe.HSet(context.Background(), "walrill:{p}:catalogue", fmt.Sprintf("s/public.t/%d", version+1), text)
		}
		for _, e := range entries {
			pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: e.key, ID: fmt.Sprintf("%d-%d", e.commit, e.ordinal), Values: e.fields})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
