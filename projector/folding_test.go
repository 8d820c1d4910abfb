package projector

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// account is a key in the model: its balance, and the changes that wait behind one that was refused.
type account struct {
	balance int
	waiting []int
	parked  bool
}

// apply does what the view does: a balance below 0 is refused, and then the key waits.
func (a *account) apply(amount int, checked bool) {
	if a.parked || checked && a.balance+amount < 0 {
		a.parked = true
		a.waiting = append(a.waiting, amount)
		return
	}
	a.balance += amount
}

func (a *account) retry(skip, checked bool) {
	waiting := a.waiting
	a.waiting, a.parked = nil, false
	if skip && len(waiting) > 0 {
		waiting = waiting[1:]
	}
	for _, amount := range waiting {
		a.apply(amount, checked)
	}
}

// foldBed is a fold's table in a real store.
type foldBed struct {
	*rapid.T
	conn *pgx.Conn
	f    *folding
}

func (b *foldBed) exec(sql string) {
	if _, err := b.conn.Exec(context.Background(), sql); err != nil {
		b.Fatal(err)
	}
}

// batch applies events as a session does: in one transaction, and carefully when that is refused.
func (b *foldBed) batch(events []event.Event) {
	ctx := context.Background()
	for _, carefully := range []bool{false, true} {
		b.exec("BEGIN")
		for i := range events {
			b.f.take(&events[i])
		}
		err := b.f.flush(ctx, b.conn, carefully)
		if err == nil {
			b.exec("COMMIT")
			return
		}
		b.exec("ROLLBACK")
		if carefully || !isDataError(err) {
			b.Fatal(err)
		}
		if err := b.f.loadAside(ctx, b.conn); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever the order of keys, wherever batches end, and whatever is refused, retried and left out: each key has what its events
// make in their order, and what waits is what follows the one that was refused.
func TestFoldingKeepsOrder(t *testing.T) {
	ctx := t.Context()
	url := harness.Database(t, harness.SharedPostgres(t, harness.DefaultVersion))
	conn, err := connect(ctx, url, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // a test
	if err := install(ctx, conn, "walrill_p"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE public.balance (id text PRIMARY KEY, balance int, log text)"); err != nil {
		t.Fatal(err)
	}
	def := &definition{Kind: "fold", Key: []string{"id"}, Fold: &foldDef{Streams: []string{"s"}, Events: []foldEvent{
		{Type: "changed", Streams: []string{"s"}, SQL: `INSERT INTO balance SELECT :key, :data.n + coalesce(max(balance), 0), :data.n FROM balance WHERE id = :key
			ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, log = balance.log || ' ' || :data.n`}}}}
	f, err := newFolding(ctx, conn, &Options{Pipeline: "p", Log: slog.New(slog.DiscardHandler)}, "balance", def, "public", "walrill_p, public")
	if err != nil {
		t.Fatal(err)
	}
	stream := event.NewStream("s", 3)
	rapid.Check(t, func(t *rapid.T) {
		b := &foldBed{t, conn, f}
		b.exec("TRUNCATE public.balance, walrill.parked, walrill.parked_events; ALTER TABLE public.balance DROP CONSTRAINT IF EXISTS positive")
		checked := rapid.Bool().Draw(t, "checked")
		if checked {
			b.exec("ALTER TABLE public.balance ADD CONSTRAINT positive CHECK (balance >= 0)")
		}
		if err := f.loadAside(ctx, conn); err != nil {
			t.Fatal(err)
		}
		model := map[string]*account{}
		for commit := uint64(1); commit <= 6; commit++ {
			var events []event.Event
			for ordinal := range rapid.IntRange(0, 25).Draw(t, "events") {
				key := rapid.SampledFrom([]string{"a", "b", "c", "d'\"", "e"}).Draw(t, "key")
				n := rapid.IntRange(-12, 10).Draw(t, "n")
				if model[key] == nil {
					model[key] = &account{}
				}
				model[key].apply(n, checked)
				e := event.Event{Stream: stream, Partition: stream.Partition([]byte(key)), Position: event.Position{Commit: commit, Ordinal: uint64(ordinal + 1)},
					Type: "changed", Key: []byte(key), Op: 'c', Data: fmt.Appendf(nil, `{"n":%d}`, n)}
				if rapid.IntRange(0, 9).Draw(t, "other") == 0 {
					other := e
					other.Type = "other"
					events = append(events, other)
				}
				events = append(events, e)
			}
			for len(events) > 0 {
				n := rapid.IntRange(1, len(events)).Draw(t, "batch")
				b.batch(events[:n])
				events = events[n:]
			}
			b.retry(model, checked)
		}
		if checked && rapid.Bool().Draw(t, "heal") {
			checked = false
			b.exec("ALTER TABLE public.balance DROP CONSTRAINT positive")
			for key, a := range model {
				if a.parked {
					b.settle(key, a, false, checked)
				}
			}
		}
		b.compare(model)
	})
}

// retry settles some keys that are parked.
func (b *foldBed) retry(model map[string]*account, checked bool) {
	for _, key := range sortedKeys(model) {
		if a := model[key]; a.parked && rapid.IntRange(0, 2).Draw(b.T, "retry") == 0 {
			b.settle(key, a, rapid.Bool().Draw(b.T, "skip"), checked)
		}
	}
}

func (b *foldBed) settle(key string, a *account, skip, checked bool) {
	a.retry(skip, checked)
	b.exec("BEGIN")
	if err := b.f.retry(context.Background(), b.conn, key, skip); err != nil {
		b.Fatal(err)
	}
	b.exec("COMMIT")
}

func (b *foldBed) compare(model map[string]*account) {
	var want []string
	for _, key := range sortedKeys(model) {
		a := model[key]
		if len(a.waiting) > 0 {
			want = append(want, fmt.Sprintf("%s waiting %v", key, a.waiting))
		}
		want = append(want, fmt.Sprintf("%s %d", key, a.balance))
	}
	rows, err := b.conn.Query(context.Background(), `SELECT id || ' ' || balance FROM public.balance UNION ALL
		SELECT key || ' waiting [' || string_agg(event->'data'->>'n', ' ' ORDER BY commit, ordinal) || ']' FROM walrill.parked_events GROUP BY key`)
	if err != nil {
		b.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(got)
	// A key whose first event was refused has no row.
	want = slices.DeleteFunc(want, func(s string) bool { return strings.HasSuffix(s, " 0") && !slices.Contains(got, s) })
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.Fatalf("the view has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var keys []string
	for key, a := range model {
		if a.parked {
			keys = append(keys, key)
		}
	}
	for key := range b.f.aside {
		if !slices.Contains(keys, key) {
			b.Fatalf("%s is set aside; want %q", key, keys)
		}
	}
	if len(keys) != len(b.f.aside) {
		b.Fatalf("set aside are %v; want %q", b.f.aside, keys)
	}
}
