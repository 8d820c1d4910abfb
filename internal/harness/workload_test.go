package harness

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// workloadKeys are the key columns of the workload's tables.
var workloadKeys = map[string][]string{
	"public.wl_plain": {"id"}, "public.wl_pair": {"region", "id"}, "public.wl_wide": {"id"}, "public.wl_whole": {"id"},
}

// replica is the workload's tables as the oracle tells them.
type replica map[string]map[string]map[string]*string

func keyOf(table string, row map[string]*string) (string, error) {
	var key []string
	for _, column := range workloadKeys[table] {
		v := row[column]
		if v == nil {
			return "", fmt.Errorf("%s: no %s in %v", table, column, row)
		}
		key = append(key, *v)
	}
	return fmt.Sprintf("%q", key), nil
}

func (r replica) apply(c OracleChange) error {
	if r[c.Table] == nil {
		r[c.Table] = map[string]map[string]*string{}
	}
	rows := r[c.Table]
	if c.Op == OpTruncate {
		clear(rows)
		return nil
	}
	before := c.Old
	if before == nil {
		before = c.New
	}
	old, err := keyOf(c.Table, before)
	if err != nil {
		return err
	}
	was, there := rows[old]
	if there == (c.Op == OpInsert) {
		return fmt.Errorf("%s of %s %s, which is there: %v", c.Op, c.Table, old, there)
	}
	delete(rows, old)
	if c.Op == OpDelete {
		return nil
	}
	for _, column := range c.Unchanged {
		c.New[column] = was[column]
	}
	key, err := keyOf(c.Table, c.New)
	rows[key] = c.New
	return err
}

// readTable reads a table as the oracle would have it.
func readTable(t *testing.T, o *Oracle, table string) map[string]map[string]*string {
	t.Helper()
	rows := map[string]map[string]*string{}
	err := o.do(t.Context(), func(conn *pgx.Conn) error {
		results, err := conn.PgConn().Exec(t.Context(), "SELECT * FROM "+table).ReadAll()
		if err != nil {
			return err
		}
		for _, values := range results[0].Rows {
			row := map[string]*string{}
			for i, f := range results[0].FieldDescriptions {
				row[f.Name] = oracleText(f.DataTypeOID, values[i])
			}
			key, err := keyOf(table, row)
			if err != nil {
				return err
			}
			rows[key] = row
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func oracleText(oid uint32, value []byte) *string {
	if value == nil {
		return nil
	}
	text := string(value)
	if oid == 16 { // boolean
		text = map[string]string{"t": "true", "f": "false"}[text]
	}
	return &text
}

// What the oracle read, replayed, is what the tables hold. The workload does
// every kind of thing that it promises.
func TestOracleTellsWorkload(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			url := Database(t, SharedPostgres(t, version))
			if err := SetupWorkload(t.Context(), url); err != nil {
				t.Fatal(err)
			}
			o, err := NewOracle(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			copied, seen := replica{}, map[string]bool{}
			stats, commits := WorkloadStats{}, commitLSNs(t, url)
			for round := range uint64(2) { // two, to see that Read goes on where it was
				s, err := RunWorkload(t.Context(), url, WorkloadOptions{Seed: round, Transactions: 150, Keys: 20})
				if err != nil {
					t.Fatal(err)
				}
				stats.add(s)
				replay(t, o, copied, seen, commits())
			}
			for table := range workloadKeys {
				if diff := cmp.Diff(readTable(t, o, table), copied[table]); diff != "" {
					t.Errorf("%s: %s", table, diff)
				}
			}
			t.Logf("%+v, seen %v", stats, seen)
			if stats.Committed == 0 || stats.RolledBack == 0 || stats.Committed+stats.RolledBack+stats.Failed != 300 {
				t.Errorf("%+v, want 300 transactions of every kind", stats)
			}
			for _, what := range []string{"c", "u", "d", "t", "new key", "unchanged", "new key, unchanged", "several tables"} {
				if !seen[what] {
					t.Errorf("the workload never did: %s", what)
				}
			}
		})
	}
}

// commitLSNs makes a slot and returns a function that reads from it the commit
// LSNs of the transactions since, as pgoutput's Begin messages have them.
func commitLSNs(t *testing.T, url string) func() map[uint32]uint64 {
	t.Helper()
	slot := DatabaseName(t, url) + "_begin"
	Exec(t, url, "CREATE PUBLICATION everything FOR ALL TABLES",
		"SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	return func() map[uint32]uint64 {
		conn := connect(t.Context(), t, url)
		defer conn.Close(t.Context())
		rows, err := conn.Query(t.Context(), `
			SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
				'proto_version', '1', 'publication_names', 'everything')`, slot)
		if err != nil {
			t.Fatal(err)
		}
		begins, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			t.Fatal(err)
		}
		lsns := map[uint32]uint64{}
		for _, m := range begins {
			if m[0] == 'B' { // commit LSN, time, xid
				lsns[binary.BigEndian.Uint32(m[17:])] = binary.BigEndian.Uint64(m[1:])
			}
		}
		return lsns
	}
}

// replay applies what the oracle reads and notes what kinds of changes there were.
func replay(t *testing.T, o *Oracle, r replica, seen map[string]bool, commits map[uint32]uint64) {
	t.Helper()
	txs, err := o.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tx := range txs {
		if !tx.Holds(commits[tx.XID]) {
			t.Fatalf("transaction %d between %X and %X does not hold its commit LSN %X", tx.XID, tx.FloorLSN, tx.EndLSN, commits[tx.XID])
		}
		for _, c := range tx.Changes {
			seen[c.Op] = true
			key := c.Op == OpUpdate && c.Old != nil && c.Table != "public.wl_whole"
			seen["new key"] = seen["new key"] || key
			seen["unchanged"] = seen["unchanged"] || c.Unchanged != nil
			seen["new key, unchanged"] = seen["new key, unchanged"] || key && c.Unchanged != nil
			seen["several tables"] = seen["several tables"] || c.Table != tx.Changes[0].Table
			if err := r.apply(c); err != nil {
				t.Fatalf("transaction %d: %v", tx.XID, err)
			}
		}
	}
}

// A seed gives the same statements whatever happens to them.
func TestWorkloadIsDeterministic(t *testing.T) {
	draw := func(seed uint64) (all []string) {
		s := script{rand.New(rand.NewPCG(seed, 0)), WorkloadOptions{Keys: 100}}
		for range 200 {
			for _, step := range s.transaction() {
				text := step.sql
				for _, arg := range step.args {
					if p, ok := arg.(*string); ok && p != nil {
						arg = *p
					}
					text += fmt.Sprintf(" %v", arg)
				}
				all = append(all, text)
			}
		}
		return all
	}
	first := draw(1)
	if !cmp.Equal(first, draw(1)) {
		t.Error("the same seed drew other statements")
	}
	if cmp.Equal(first, draw(2)) {
		t.Error("another seed drew the same statements")
	}
	for _, want := range []string{"TRUNCATE", "SAVEPOINT a", "ROLLBACK TO SAVEPOINT a", "RELEASE SAVEPOINT a", "ROLLBACK"} {
		if !strings.Contains(strings.Join(first, "\n"), want) {
			t.Errorf("never drew %s", want)
		}
	}
}

func TestWorkloadEndsWithContext(t *testing.T) {
	url := Database(t, SharedPostgres(t, 0))
	if err := SetupWorkload(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	stats, err := RunWorkload(ctx, url, WorkloadOptions{Workers: 2, NoTruncate: true})
	if err != nil || stats.Committed == 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
}

// A COMMIT that is on its way when the workload ends may still be done afterwards: whoever compares then would miss it.
func TestWorkloadEndsWhenItsCommitsAre(t *testing.T) {
	url := Database(t, SharedPostgres(t, 0))
	if err := SetupWorkload(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	// A commit that is slow, and does not let itself be cancelled.
	Exec(t, url, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			BEGIN PERFORM pg_sleep(10); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(0.3); END;
			RETURN NULL; END $$`,
		`CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON wl_plain DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := RunWorkload(ctx, url, WorkloadOptions{Workers: 1, NoTruncate: true, Keys: 1})
		ended <- err
	}()
	Eventually(t, 10*time.Second, "a commit is on its way", func() bool {
		return Value(t, url, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND wait_event = 'PgSleep'`) == "1"
	})
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := Value(t, url, `SELECT count(*) FROM wl_plain`); n == "0" {
		t.Error("the commit was not done when the workload had ended")
	}
}

// Cut connections fail the workload, or are part of it.
func TestWorkloadReconnects(t *testing.T) {
	pg := SharedPostgres(t, 0)
	url := Database(t, pg)
	if err := SetupWorkload(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	proxy := StartProxy(t, pg.Addr())
	proxy.CutRandomly(1, 5_000, 50_000)
	o := WorkloadOptions{Transactions: 200, Workers: 2}
	if _, err := RunWorkload(t.Context(), proxy.Through(url), o); err == nil || errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want that of a cut connection", err)
	}
	o.Reconnect = true
	stats, err := RunWorkload(t.Context(), proxy.Through(url), o)
	if err != nil || stats.Failed == 0 || stats.Committed == 0 {
		t.Fatalf("%+v, %v, with %d cuts", stats, err, proxy.Cuts())
	}
}
