package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/jackc/pgx/v5"
)

// WorkloadTables are the tables that a workload writes to, each with a trap:
// plain has none, pair a composite key with `/` and `%` in its values, wide many
// types and a value in TOAST that most updates leave alone, and whole REPLICA
// IDENTITY FULL.
var WorkloadTables = []string{"public.wl_plain", "public.wl_pair", "public.wl_wide", "public.wl_whole"}

const workloadSchema = `
CREATE TABLE wl_plain (
	id int PRIMARY KEY, n int NOT NULL DEFAULT 0, note text, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE wl_pair (
	region text, id int, qty numeric(12,3), PRIMARY KEY (region, id));
CREATE TABLE wl_wide (
	id int PRIMARY KEY, n int NOT NULL DEFAULT 0, body text, doc jsonb, amount numeric, ratio float8, flag boolean,
	tags text[], raw bytea, day date, span interval, uid uuid, bits bit varying(8), "Odd name" varchar(40));
ALTER TABLE wl_wide ALTER body SET STORAGE EXTERNAL; -- in TOAST uncompressed, however regular it is
CREATE TABLE wl_whole (
	id int PRIMARY KEY, kind text, body text);
ALTER TABLE wl_whole ALTER body SET STORAGE EXTERNAL;
ALTER TABLE wl_whole REPLICA IDENTITY FULL;`

// SetupWorkload makes the tables of a workload.
func SetupWorkload(ctx context.Context, dbURL string) error {
	conn, err := pgx.Connect(ctx, dbURL)
	if err != nil {
		return fmt.Errorf("set up workload: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, workloadSchema); err != nil {
		return fmt.Errorf("set up workload: %w", err)
	}
	return nil
}

// step is one statement.
type step struct {
	sql  string
	args []any
}

// script draws transactions from a seed. It asks nothing of the database, so
// that what it draws next does not depend on what other workers did.
type script struct {
	rand    *rand.Rand
	options WorkloadOptions
}

// chance is true in percent of the cases.
func (s *script) chance(percent int) bool { return s.rand.IntN(100) < percent }

// transaction draws the statements of one transaction, BEGIN and its end included.
func (s *script) transaction() []step {
	steps := []step{{sql: "BEGIN"}}
	switch {
	case !s.options.NoTruncate && s.chance(2):
		steps = append(steps, s.truncate())
	case s.chance(2):
		steps = append(steps, s.bulk())
	}
	steps = append(steps, s.rows()...)
	if s.chance(20) {
		steps = append(steps, s.savepoint()...)
	}
	if s.chance(10) {
		return append(steps, step{sql: "ROLLBACK"})
	}
	return append(steps, step{sql: "COMMIT"})
}

// savepoint draws changes behind a savepoint that are taken back or kept, and
// some after it.
func (s *script) savepoint() []step {
	steps := append([]step{{sql: "SAVEPOINT a"}}, s.rows()...)
	end := "ROLLBACK TO SAVEPOINT a"
	if s.chance(40) {
		end = "RELEASE SAVEPOINT a"
	}
	return append(append(steps, step{sql: end}), s.rows()...)
}

// rows draws one to five changes of rows, each of any table.
func (s *script) rows() (steps []step) {
	draw := []func() step{s.plain, s.pair, s.wide, s.whole}
	for range 1 + s.rand.IntN(5) {
		steps = append(steps, draw[s.rand.IntN(len(draw))]())
	}
	return steps
}

// truncate empties one table, or several in one statement.
func (s *script) truncate() step {
	tables := append([]string(nil), WorkloadTables...)
	s.rand.Shuffle(len(tables), func(i, j int) { tables[i], tables[j] = tables[j], tables[i] })
	return step{sql: "TRUNCATE " + strings.Join(tables[:1+s.rand.IntN(3)], ", ")}
}

// mostBulk is how many rows one statement changes at most: with more, in a large table, few others would be compared.
const mostBulk = 300

// bulk changes many rows in one statement.
func (s *script) bulk() step {
	n := min(s.options.Keys, mostBulk)
	first := 1 + s.rand.IntN(s.options.Keys-n+1)
	if s.chance(50) {
		return step{"UPDATE wl_plain SET n = n + 1 WHERE id BETWEEN $1 AND $2", []any{first, first + n - 1}}
	}
	return step{"INSERT INTO wl_plain SELECT i, $1, 'bulk' FROM generate_series($2::int, $3) i ON CONFLICT (id) DO UPDATE SET n = excluded.n",
		[]any{s.rand.IntN(1000), first, first + n - 1}}
}

func (s *script) plain() step {
	id := s.id()
	switch s.rand.IntN(10) {
	case 0:
		return step{"DELETE FROM wl_plain WHERE id = $1", []any{id}}
	case 1:
		return step{"UPDATE wl_plain SET id = $2 WHERE id = $1", []any{id, s.id()}}
	case 2, 3, 4:
		return step{"UPDATE wl_plain SET n = n + 1, note = $2 WHERE id = $1", []any{id, s.text()}}
	}
	return step{"INSERT INTO wl_plain (id, n, note) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET n = wl_plain.n + 1",
		[]any{id, s.rand.IntN(1000), s.text()}}
}

func (s *script) pair() step {
	id := 1 + s.rand.IntN(max(s.options.Keys/5, 1))
	switch s.rand.IntN(10) {
	case 0:
		return step{"DELETE FROM wl_pair WHERE (region, id) = ($1, $2)", []any{s.region(), id}}
	case 1:
		return step{"UPDATE wl_pair SET region = $3 WHERE (region, id) = ($1, $2)", []any{s.region(), id, s.region()}}
	case 2, 3, 4:
		return step{"UPDATE wl_pair SET qty = qty * 1.5 WHERE (region, id) = ($1, $2) AND qty < 1e6", []any{s.region(), id}}
	}
	return step{"INSERT INTO wl_pair VALUES ($1, $2, $3) ON CONFLICT (region, id) DO UPDATE SET qty = excluded.qty",
		[]any{s.region(), id, float64(s.rand.IntN(100000)) / 8}}
}

func (s *script) wide() step {
	id := s.id()
	switch s.rand.IntN(10) {
	case 0:
		return step{"DELETE FROM wl_wide WHERE id = $1", []any{id}}
	case 1: // a new key, with the value in TOAST not sent again
		return step{"UPDATE wl_wide SET id = $2 WHERE id = $1", []any{id, s.id()}}
	case 2, 3, 4:
		return step{`UPDATE wl_wide SET n = n + 1, flag = NOT flag, "Odd name" = $2 WHERE id = $1`, []any{id, s.text()}}
	case 5:
		return step{"UPDATE wl_wide SET body = $2 WHERE id = $1", []any{id, s.body()}}
	}
	return step{`
		INSERT INTO wl_wide
		SELECT $1::int, n, $3::text, jsonb_build_object('text', note, 'n', n, 'list', '[1, null, {"a": 1.50}]'::jsonb),
			n::numeric / 8, n::float8 / 3, n % 2 = 0, ARRAY[note, NULL, 'a,b"c'], decode(md5(note), 'hex'),
			date '2000-01-01' + n, n * interval '1 hour 1 second', md5(n::text)::uuid, n::bit(8)::varbit, left(note, 40)
		FROM (SELECT $2::int AS n, $4::text AS note) given
		ON CONFLICT (id) DO UPDATE SET n = excluded.n, doc = excluded.doc, tags = excluded.tags`,
		[]any{id, s.rand.IntN(100000), s.body(), s.text()}}
}

func (s *script) whole() step {
	id := s.id()
	switch s.rand.IntN(10) {
	case 0:
		return step{"DELETE FROM wl_whole WHERE id = $1", []any{id}}
	case 1:
		return step{"UPDATE wl_whole SET id = $2 WHERE id = $1", []any{id, s.id()}}
	case 2, 3, 4:
		return step{"UPDATE wl_whole SET kind = $2 WHERE id = $1", []any{id, s.text()}}
	}
	return step{"INSERT INTO wl_whole VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
		[]any{id, s.text(), s.body()}}
}

func (s *script) id() int { return 1 + s.rand.IntN(s.options.Keys) }

func (s *script) region() string { return s.pick("north", "a/b", "50%", "%2F", "/", "") }

// text is a short value that a careless parser trips over; nil is NULL.
func (s *script) text() *string {
	if s.chance(15) {
		return nil
	}
	t := s.pick("", "null", "it's", `back\slash "and" quotes`, "line\nand\ttab", "Grüße, 世界 🌊", "unchanged-toast-datum",
		" new-tuple: id[integer]:1", "{}", "plain words")
	return &t
}

// body is, but for a NULL now and then, too big for its row.
func (s *script) body() *string {
	if s.chance(10) {
		return nil
	}
	t := strings.Repeat(s.pick("walrill ", "it's long ", "\\\n", "世界"), 500+s.rand.IntN(1500))
	return &t
}

func (s *script) pick(texts ...string) string { return texts[s.rand.IntN(len(texts))] }
