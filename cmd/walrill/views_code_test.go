package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
	"github.com/walrill/walrill/projector"
)

// The example of docs/views.md: how often each page was seen, and the longest stay.

var pages = projector.View{
	Name:    "pages",
	Key:     []string{"page"},
	Table:   []projector.Column{{Name: "page", Type: "text"}, {Name: "seen", Type: "bigint"}, {Name: "longest", Type: "interval"}},
	Streams: []string{"visits"},
	Types:   []string{"visits.created"},
	Apply:   countPages,
	Version: "1", // another one is a rebuild
}

func countPages(ctx context.Context, tx projector.Tx, events []event.Event) error {
	for _, e := range events {
		var visit struct {
			Page    string
			Seconds float64
		}
		if err := json.Unmarshal(e.Data, &visit); err != nil {
			return projector.Refuse(err)
		}
		if visit.Seconds < 0 {
			return projector.Refuse(errors.New("a visit cannot end before it begins"))
		}
		_, err := tx.Exec(ctx, `INSERT INTO pages VALUES ($1, 1, make_interval(secs => $2))
			ON CONFLICT (page) DO UPDATE SET seen = pages.seen + 1, longest = greatest(pages.longest, excluded.longest)`, visit.Page, visit.Seconds)
		if err != nil {
			return err
		}
	}
	return nil
}

// keep runs a projector with the view until ctx ends.
func keep(ctx context.Context, pipeline, storeURL, redisURL string, view projector.View) error {
	client, err := consumer.NewClient(redisURL)
	if err != nil {
		return err
	}
	defer client.Close()
	return projector.New(optionsOf(client, pipeline, storeURL, view)).Run(ctx)
}

func optionsOf(client redis.UniversalClient, pipeline, storeURL string, view projector.View) projector.Options {
	return projector.Options{
		Pipeline: pipeline,
		StoreURL: storeURL,
		Schema:   "public",
		Views:    []projector.View{view},
		Open: func(ctx context.Context, streams []string, after event.Position) (projector.Feed, error) {
			o := consumer.Options{Client: client, Pipeline: pipeline, Streams: streams}
			if !after.IsZero() {
				o.From = consumer.After(after)
			}
			r, err := consumer.Open(ctx, o)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		Watermark: func(ctx context.Context) (uint64, error) {
			w, _, err := consumer.Watermark(ctx, client, pipeline)
			return w, err
		},
		Log: slog.Default(),
	}
}

// TestViewInGo runs the example: each visit counts once, whenever the program is stopped; a visit that is refused waits, with those
// behind it; another version is a rebuild.
func TestViewInGo(t *testing.T) {
	t.Parallel()
	url := harness.Database(t, harness.SharedPostgres(t, postgresVersion(t)))
	redis := harness.NewRedis(t, harness.RedisOptions{})
	pipeline := harness.DatabaseName(t, url)
	harness.Exec(t, url, "CREATE TABLE visits (id bigserial, page text, seconds int, PRIMARY KEY (page, id))")
	file := filepath.Join(t.TempDir(), "walrill.yaml")
	config := fmt.Sprintf("pipeline: %s\nsource: {url: %q}\nsink: {url: %q}\nstreams: {visits: {partitions: 3, tables: {visits: {key: page}}}}\n", pipeline, url, redis.URL())
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon, err := harness.StartProgram(exec.Command("walrill", "run", "-c", file, "--http", ""), file+".log")
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Kill() //nolint:errcheck // a test
	client, err := consumer.NewClient(redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	harness.Eventually(t, patience, "changes are streamed, and not read by the backfill", func() bool {
		w, _, err := consumer.Watermark(t.Context(), client, pipeline)
		return err == nil && w > 0
	})
	view := pages
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func(view projector.View) { done <- keep(ctx, pipeline, url, redis.URL(), view) }(view)
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	wait := func() {
		t.Helper()
		lsn := harness.Value(t, url, "SELECT pg_current_wal_lsn()")
		harness.Eventually(t, patience, "the view is live", func() bool { return harness.Try(url, "SELECT walrill.wait('pages', '0/0', '1ms')") == nil })
		harness.Exec(t, url, fmt.Sprintf("SELECT walrill.wait('pages', '%s', '%v')", lsn, patience))
	}
	same := func() {
		t.Helper()
		want := harness.Value(t, url, "SELECT string_agg(page || ' ' || n || ' ' || s, ', ' ORDER BY page) FROM (SELECT page, count(*) n, max(make_interval(secs => seconds)) s FROM visits WHERE page <> 'bad' GROUP BY page) v")
		if got := harness.Value(t, url, "SELECT string_agg(page || ' ' || seen || ' ' || longest, ', ' ORDER BY page) FROM pages WHERE page <> 'bad'"); got != want {
			t.Fatalf("got %s\nwant %s", got, want)
		}
	}
	for range 5 {
		stop := start()
		for range 3 {
			harness.Exec(t, url, "INSERT INTO visits (page, seconds) SELECT 'page ' || i % 7, i FROM generate_series(1, 200) i")
		}
		stop() // wherever it is
	}
	stop := start()
	wait()
	same()

	harness.Exec(t, url, "INSERT INTO visits (page, seconds) VALUES ('bad', 1), ('good', 1), ('bad', -1), ('good', 2), ('bad', 3)")
	wait()
	same()
	if got := harness.Value(t, url, "SELECT string_agg(p.error || ' ' || e.key || ' ' || (e.event->'data'->>'seconds'), ', ' ORDER BY e.ordinal) FROM walrill.parked p JOIN walrill.parked_events e ON e.view = p.view"); got !=
		"a visit cannot end before it begins bad -1, a visit cannot end before it begins bad 3" {
		t.Errorf("parked: %s", got)
	}
	if got := harness.Value(t, url, "SELECT seen FROM pages WHERE page = 'bad'"); got != "1" {
		t.Errorf("the page whose second visit is refused was seen %s times", got)
	}
	harness.Exec(t, url, "UPDATE walrill.parked SET retry = true, skip = true")
	harness.Eventually(t, patience, "the third visit of the page counts", func() bool { return harness.Value(t, url, "SELECT seen FROM pages WHERE page = 'bad'") == "2" })

	// It is compared where its function is, without the visit that was left out, and built anew with it.
	verify := func(repair bool, want string) {
		t.Helper()
		list, err := projector.Verify(t.Context(), projector.VerifyOptions{Options: optionsOf(client, pipeline, url, view), ChunkRows: 3, Patience: patience, Repair: repair})
		if err != nil || len(list) != 1 {
			t.Fatalf("verify: %v, %d views", err, len(list))
		}
		c := list[0]
		if got := fmt.Sprintf("%q of %d rows, %d repaired, %d set aside%s", differences([]projector.Comparison{*c}), c.Rows, c.Repaired, len(c.Parked), c.NotJudged); got != want {
			t.Errorf("verify found %s, want %s", got, want)
		}
	}
	verify(false, `[] of 9 rows, 0 repaired, 0 set aside`)
	harness.Exec(t, url, "UPDATE pages SET longest = NULL WHERE page = 'page 3'; DELETE FROM pages WHERE page = 'good'")
	found := `["pages {\"page\":\"good\"} missing" "pages {\"page\":\"page 3\"} differs"] of 9 rows`
	verify(false, found+", 0 repaired, 0 set aside")
	verify(true, found+", 2 repaired, 1 set aside")
	elsewhere := file + ".store.yaml"
	if err := os.WriteFile(elsewhere, []byte(config+fmt.Sprintf("views: {store: %q, copy: {mirror: visits}}\n", url)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("walrill", "verify", "-c", elsewhere).CombinedOutput(); err == nil || !strings.Contains(string(out), "pages: could not be judged: the Go function that makes it is in the program that keeps it") {
		t.Errorf("verify without the function: %v %s", err, out)
	}
	harness.Exec(t, url, "UPDATE walrill.parked SET retry = true, skip = true")
	stop()

	// Another version counts twice.
	view.Version = "2"
	view.Apply = func(ctx context.Context, tx projector.Tx, events []event.Event) error {
		if err := countPages(ctx, tx, events); err != nil {
			return err
		}
		return countPages(ctx, tx, events)
	}
	before := harness.Value(t, url, "SELECT sum(seen) FROM pages WHERE page <> 'bad'")
	stop = start()
	harness.Eventually(t, patience, "it is built anew", func() bool {
		return harness.Value(t, url, "SELECT (sum(seen) / 2)::bigint FROM pages WHERE page <> 'bad'") == before
	})
	wait()
	stop()
}
