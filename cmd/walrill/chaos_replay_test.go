package main

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// What a replay builds is what the tables held at that moment, while they go on changing.
func TestReplayEqualsThePast(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"store apart": false, "store is source": true} {
		t.Run(name, func(t *testing.T) {
			r := newViewRig(t, same, nil)
			r.daemon()
			r.live()
			r.begin()
			moments := make([]string, 3)
			for i := range moments {
				r.progress()
				moments[i] = r.remember(fmt.Sprintf("past%d", i))
			}
			r.progress()
			for i, lsn := range moments {
				schema := fmt.Sprintf("replayed%d", i)
				harness.Exec(t, r.store, fmt.Sprintf("SELECT walrill.wait('lines', '%s', '60s')", lsn))
				if out, err := exec.Command("walrill", "replay", "-c", r.file, "--until", lsn, "--schema", schema).CombinedOutput(); err != nil {
					t.Fatalf("replay until %s: %v\n%s", lsn, err, out)
				}
				for _, v := range viewQueries {
					r.same(v.name, v.key, fmt.Sprintf("SELECT * FROM past%d.%s", i, v.name), "SELECT * FROM "+schema+"."+v.name)
				}
				r.same("accounts_copy", "id", fmt.Sprintf("SELECT id, branch_id, balance AS money, note FROM past%d.accounts", i), "SELECT id, branch_id, money, note FROM "+schema+".accounts_copy")
				r.same("purses", "purse", fmt.Sprintf("SELECT * FROM past%d.purses", i), "SELECT * FROM "+schema+".purses")
			}
			if harness.Value(t, r.store, "SELECT string_agg(nspname, ',') FROM pg_namespace WHERE nspname LIKE 'walrill_replay%'") != "" {
				t.Error("a replay left its working tables")
			}
			r.finish()
		})
	}
}

// remember copies what the views must be, at a moment at which no transaction is half done, and returns its LSN.
func (r *viewRig) remember(schema string) (lsn string) {
	r.Helper()
	sql := fmt.Sprintf("BEGIN; CREATE SCHEMA %s; CREATE TABLE %[1]s.moment (lsn pg_lsn); LOCK TABLE accounts, branches, customers, orders, order_items, moves IN SHARE MODE; INSERT INTO %[1]s.moment SELECT pg_current_wal_insert_lsn();"+
		"CREATE TABLE %[1]s.accounts AS SELECT * FROM accounts; CREATE TABLE %[1]s.purses AS %[2]s;", schema, foldedWant)
	for _, v := range viewQueries {
		sql += fmt.Sprintf("CREATE TABLE %s.%s AS %s;", schema, v.name, v.query)
	}
	var err error
	if !harness.Poll(patience, func() bool { // the lock and the writers may be each other's deadlock
		err = harness.Try(r.source, sql+"COMMIT")
		return err == nil
	}) {
		r.Fatal(err)
	}
	return harness.Value(r, r.source, "SELECT lsn FROM "+schema+".moment")
}
