package capture

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

// request asks for a backfill of some rows.
func (f *follower) request(table, id, where string) {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	r := f.store.records[table]
	r.Request = &BackfillRequest{ID: id, Action: "start", Where: where}
	f.store.records[table] = r
}

func (f *follower) awaitAnswered(table, id string) {
	f.t.Helper()
	harness.Eventually(f.t, 60*time.Second, table+" answers "+id, func() bool {
		state := f.store.state(table)
		return state.Request == id && state.State == BackfillDone
	})
}

func (f *follower) refresh() {
	f.t.Helper()
	if err := f.source.Refresh(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// open runs a statement in a transaction that stays open until commit.
func open(t *testing.T, url, sql string) (commit func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // what is still open is rolled back
	if _, err := conn.Exec(t.Context(), "BEGIN; "+sql); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
	}
}

// A request for some rows does not take the place of a backfill that has all of them still to read; it comes after.
func TestBackfillOfSomeRowsComesAfterThatOfAll(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY, x int)", "INSERT INTO t VALUES (1), (2)", "CREATE TABLE other (id int PRIMARY KEY)")
	f := follow(t, url, newStore(), BackfillOptions{})
	commit := open(t, url, "INSERT INTO other VALUES (1)")
	f.start("public.t", 0)
	f.awaitWaits("public.t", "to end")
	f.request("public.t", "some", "id = 2")
	f.start("public.other", 0) // when this is looked at a second time, the other was too
	f.awaitWaits("public.other", "to end")
	commit()
	f.awaitAnswered("public.t", "some")
	if got := f.sequence(1); len(got) != 1 {
		t.Errorf("row 1: %q", got)
	}
	if got := f.sequence(2); len(got) != 2 {
		t.Errorf("row 2: %q", got)
	}
}

// What was asked of a table is not done again when another one of its name comes, which is read whole.
func TestBackfillOfTableMadeAgain(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)", "CREATE TABLE other (id int PRIMARY KEY)")
	f := follow(t, url, newStore(), BackfillOptions{Initial: true})
	f.awaitDone("public.t")
	f.request("public.t", "some", "id = 2")
	f.awaitAnswered("public.t", "some")
	harness.Exec(t, url, "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (3), (4)")
	f.refresh()
	f.await("r 3")
	f.await("r 4")
	f.awaitAnswered("public.t", "some")
	if state := f.store.state("public.t"); state.Where != "" || state.Rows != 2 {
		t.Errorf("state %+v", state)
	}

	// The same when some rows of the one before were still to be read.
	commit := open(t, url, "INSERT INTO other VALUES (1)")
	f.request("public.t", "more", "id = 4")
	f.awaitWaits("public.t", "to end")
	harness.Exec(t, url, "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (5)")
	f.refresh()
	commit()
	f.await("r 5")
	f.awaitAnswered("public.t", "more")
}

// A table that was left out of the publication for a while, as another one was read: a transaction that
// wrote to it then is waited for.
func TestBackfillTableThatWasLeftOutForAWhile(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TABLE a (id int PRIMARY KEY, x text)", "INSERT INTO a VALUES (1, 'old')", "CREATE TABLE b (id int PRIMARY KEY)", "CREATE TABLE other (id int PRIMARY KEY)")
	f := follow(t, url, newStore(), BackfillOptions{Initial: true})
	all := f.source.selection()
	f.awaitDone("public.a")
	f.awaitDone("public.b")
	harness.Eventually(t, 60*time.Second, "nothing is read", func() bool { return !f.stream.backfills.core.on.Load() })
	commit := open(t, url, "INSERT INTO other VALUES (1)")
	f.start("public.b", 0)
	f.awaitWaits("public.b", "to end")

	f.source.Select(Selection{Wanted: func(rel *change.Relation) (bool, error) { return rel.Name == "b", nil }})
	f.refresh()
	commitUnpublished := open(t, url, "UPDATE a SET x = 'new'")
	f.source.Select(all)
	f.refresh()
	commit()
	f.awaitDone("public.b")
	f.awaitWaits("public.a", "to end")
	commitUnpublished()
	f.await("r 1 new")
	f.awaitDone("public.a")
}

// A server's limit to how long a transaction may take is met by trying again.
func TestHopeless(t *testing.T) {
	for code, want := range map[string]bool{"42P01": true, "22012": true, "25006": true, "25P03": false, "25P04": false, "40001": false, "57P01": false} {
		if got := hopeless(&pgconn.PgError{Code: code}); got != want {
			t.Errorf("%s: %t", code, got)
		}
	}
}
