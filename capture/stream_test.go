package capture

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

func everyTable(*change.Relation) (bool, error) { return true, nil }

func newTestSource(t *testing.T, url, name string) *Source {
	t.Helper()
	source, err := NewSource(Options{URL: url, Pipeline: "test", Slot: name, Publication: name,
		Selection: Selection{Wanted: everyTable}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// openTest prepares a database with a table t and opens its stream.
func openTest(t *testing.T) (url string, source *Source, stream *Stream) {
	t.Helper()
	url = harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY, x text)", "CREATE TABLE unpublished (id int)")
	source = newTestSource(t, url, harness.DatabaseName(t, url))
	source.opts.Wanted = func(rel *change.Relation) (bool, error) { return rel.Name == "t", nil }
	if _, err := source.Prepare(t.Context(), Known{}); err != nil {
		t.Fatal(err)
	}
	stream, err := source.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return url, source, stream
}

// until reads items until one satisfies the condition.
func until(t *testing.T, s *Stream, what string, ok func(*change.Item) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		item, err := s.Next()
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(item) {
			return
		}
	}
	t.Fatalf("no %s within 10 s", what)
}

func TestStreamDeliversChanges(t *testing.T) {
	url, _, stream := openTest(t)
	defer stream.Abort()
	harness.Exec(t, url, "INSERT INTO t VALUES (1, 'x')")
	var got string
	until(t, stream, "insert", func(item *change.Item) bool {
		if item.Kind == change.ItemChanges {
			got = string(item.Changes[0].New[1].Data)
		}
		return got != ""
	})
	if got != "x" {
		t.Errorf("got %q", got)
	}
}

// A table outside the publication moves the watermark too, so that an idle
// pipeline never makes Postgres keep WAL.
func TestStreamIdleWatermarkReachesTheSlot(t *testing.T) {
	url, source, stream := openTest(t)
	defer stream.Abort()
	harness.Exec(t, url, "INSERT INTO unpublished SELECT generate_series(1, 1000)")
	target, err := change.ParseLSN(harness.Value(t, url, "SELECT pg_current_wal_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	until(t, stream, "watermark", func(item *change.Item) bool {
		if item.Kind == change.ItemWatermark || item.Kind == change.ItemCommit {
			stream.Confirm(item.Watermark)
		}
		state, err := source.Slot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return state.Confirmed >= target
	})
}

func TestStreamSecondInstanceStandsBy(t *testing.T) {
	url, source, stream := openTest(t)
	second := newTestSource(t, url, source.opts.Slot)
	var busy *SlotBusyError
	if _, err := second.Open(t.Context()); !errors.As(err, &busy) {
		t.Fatalf("got %v, want a *SlotBusyError", err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 5*time.Second, "the slot to be free", func() bool {
		s, err := second.Open(t.Context())
		if err == nil {
			s.Abort()
		}
		return err == nil
	})
}

func TestStreamCloseConfirms(t *testing.T) {
	url, source, stream := openTest(t)
	harness.Exec(t, url, "INSERT INTO t VALUES (1, 'x')")
	var end change.LSN
	until(t, stream, "commit", func(item *change.Item) bool { end = item.Watermark; return item.Kind == change.ItemCommit })
	stream.Confirm(end)
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	state, err := source.Slot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.Confirmed < end {
		t.Errorf("the slot is at %s, confirmed was %s", state.Confirmed, end)
	}
}

func TestStreamWake(t *testing.T) {
	_, _, stream := openTest(t)
	defer stream.Abort()
	until(t, stream, "idle", func(item *change.Item) bool { return item.Kind == change.ItemIdle })
	woken := make(chan struct{})
	go func() { stream.Wake(); close(woken) }()
	start := time.Now()
	until(t, stream, "idle again", func(item *change.Item) bool { return item.Kind == change.ItemIdle })
	<-woken
	if waited := time.Since(start); waited > 2*time.Second {
		t.Errorf("woke after %s", waited)
	}
}

// A connection that dies without a word is noticed, because the server is
// asked for an answer.
func TestStreamNoticesSilence(t *testing.T) {
	url, source, first := openTest(t)
	first.Abort()
	proxy := harness.StartProxy(t, harness.SharedPostgres(t, 0).Addr())
	through := newTestSource(t, proxy.Through(url), source.opts.Slot)
	var stream *Stream
	harness.Eventually(t, 5*time.Second, "the slot to be free", func() (ok bool) {
		var err error
		stream, err = through.Open(context.Background())
		return err == nil
	})
	defer stream.Abort()
	stream.ledger.interval = 50 * time.Millisecond
	proxy.Stall()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err := stream.Next(); err != nil {
			return
		}
	}
	t.Fatal("a stalled connection was not noticed")
}
