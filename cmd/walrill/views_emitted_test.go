package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
	"github.com/walrill/walrill/projector"
)

// lows is the example of docs/views.md: how often each branch was low.
var lows = projector.View{
	Name: "lows", Key: []string{"branch"},
	Table:   []projector.Column{{Name: "branch", Type: "int"}, {Name: "times", Type: "int"}},
	Streams: []string{"alerts"},
	Fold: []projector.FoldEvent{{Type: "branch.low",
		SQL: `INSERT INTO lows VALUES (:key, 1) ON CONFLICT (branch) DO UPDATE SET times = lows.times + 1`}},
}

// A view in Go folds what views of the file emit, each event once whenever program and daemon are stopped, and who waits for it by an LSN
// has waited for both.
func TestViewOfEmitted(t *testing.T) {
	t.Parallel()
	url := harness.Database(t, harness.SharedPostgres(t, postgresVersion(t)))
	redis := harness.NewRedis(t, harness.RedisOptions{})
	pipeline := harness.DatabaseName(t, url)
	harness.Exec(t, url, "CREATE TABLE accounts (id int PRIMARY KEY, branch int, balance int); INSERT INTO accounts SELECT i, i % 3, 100 FROM generate_series(1, 6) i")
	file := filepath.Join(t.TempDir(), "walrill.yaml")
	config := fmt.Sprintf(`pipeline: %s
source: {url: %q}
sink: {url: %q}
streams: {bank: {tables: {accounts: {}}}}
views:
  store: %q
  branches:
    key: branch
    query: SELECT branch, sum(balance) AS total FROM accounts GROUP BY branch
    emit: {stream: alerts, events: {branch.low: {when: old.total >= 100 AND new.total < 100, data: {total: new.total}}}}
`, pipeline, url, redis.URL(), url)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() (stop func()) {
		daemon, err := harness.StartProgram(exec.Command("walrill", "run", "-c", file, "--http", ""), file+".log")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- keep(ctx, event.ViewsPipeline(pipeline), url, redis.URL(), lows) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := daemon.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	live := func() {
		t.Helper()
		harness.Eventually(t, 2*patience, "both views are live", func() bool {
			return harness.Try(url, "SELECT walrill.wait('branches', '0/0', '1ms'), walrill.wait('lows', '0/0', '1ms')") == nil
		})
	}
	for range 3 {
		stop := start()
		live()
		for range 4 {
			harness.Exec(t, url, "UPDATE accounts SET balance = 10 WHERE branch < 2")
			harness.Exec(t, url, "UPDATE accounts SET balance = 100")
		}
		stop() // wherever they are
	}
	stop := start()
	defer stop()
	live()
	for i := range 10 {
		harness.Exec(t, url, "UPDATE accounts SET balance = 10 WHERE branch = 2")
		lsn := harness.Value(t, url, "SELECT pg_current_wal_lsn()")
		harness.Exec(t, url, fmt.Sprintf("SELECT walrill.wait('lows', '%s', '%v')", lsn, patience))
		if got, want := harness.Value(t, url, "SELECT string_agg(branch || ' ' || times, ', ' ORDER BY branch) FROM lows"), fmt.Sprintf("0 12, 1 12, 2 %d", i+1); got != want {
			t.Fatalf("behind the wait %s, want %s", got, want)
		}
		harness.Exec(t, url, "UPDATE accounts SET balance = 100 WHERE branch = 2")
	}

	// It is verified where its program is.
	client, err := consumer.NewClient(redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	o := projector.VerifyOptions{Options: optionsOf(client, event.ViewsPipeline(pipeline), url, lows), ChunkRows: 3, Patience: patience}
	list, err := projector.Verify(t.Context(), o)
	if err != nil || len(list) != 1 || list[0].Found > 0 || list[0].Rows != 3 {
		t.Errorf("verify: %v, %+v", err, list)
	}
}
