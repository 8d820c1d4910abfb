package capture

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/internal/harness"
)

// memoryStore is a BackfillStore that outlives sources.
type memoryStore struct {
	mu      sync.Mutex
	records map[string]BackfillRecord
}

func (s *memoryStore) Load(context.Context) (map[string]BackfillRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	records := map[string]BackfillRecord{}
	for table, r := range s.records {
		if r.State != nil {
			state := *r.State
			r.State = &state
		}
		records[table] = r
	}
	return records, nil
}

func (s *memoryStore) Save(_ context.Context, table string, state BackfillState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[table]
	r.State = &state
	s.records[table] = r
	return nil
}

func (s *memoryStore) state(table string) BackfillState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.records[table].State; state != nil {
		return *state
	}
	return BackfillState{}
}

// follower reads a stream to its end and notes each change: op and values.
type follower struct {
	t      *testing.T
	url    string
	source *Source
	store  *memoryStore
	stream *Stream
	stop   chan struct{}
	ended  chan struct{}

	mu   sync.Mutex
	seen []string
}

// follow prepares the database and follows its stream, from where an earlier one of it ended; first comes before.
func follow(t *testing.T, url string, store *memoryStore, o BackfillOptions, first ...func(*Source)) *follower {
	t.Helper()
	f := &follower{t: t, url: url, store: store, stop: make(chan struct{}), ended: make(chan struct{})}
	f.source = newTestSource(t, url, "backfill_"+strings.ToLower(harness.DatabaseName(t, url)))
	o.Store, o.Readers, o.ChunkRows = store, 2, max(o.ChunkRows, 1)
	f.source.opts.Backfill = o
	for _, do := range first {
		do(f.source)
	}
	f.source.opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if _, err := f.source.Prepare(t.Context(), Known{}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 10*time.Second, "the slot to be free", func() (ok bool) {
		var err error
		f.stream, err = f.source.Open(t.Context())
		return err == nil
	})
	go f.run()
	t.Cleanup(f.end)
	return f
}

func (f *follower) run() {
	defer close(f.ended)
	defer func() {
		if err := f.stream.Close(); err != nil { // and not Abort: what was confirmed must be the slot's
			f.t.Error(err)
		}
	}()
	for {
		select {
		case <-f.stop:
			return
		default:
		}
		item, err := f.stream.Next()
		if err != nil {
			f.t.Error(err)
			return
		}
		switch item.Kind {
		case change.ItemChanges:
			f.note(item.Changes)
		case change.ItemCommit, change.ItemWatermark:
			f.stream.Confirm(item.Watermark)
		}
	}
}

func (f *follower) note(changes []change.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		if c.Op == change.Message {
			continue
		}
		if c.Op == change.Update && c.Old != nil && !bytes.Equal(c.Old[0].Data, c.New[0].Data) {
			f.seen = append(f.seen, "- "+string(c.Old[0].Data))
		}
		text := string(rune(c.Op))
		row := c.New
		if row == nil {
			row = c.Old
		}
		for i, v := range row {
			if v.Kind == change.Unchanged && c.Old != nil {
				v = c.Old[i] // as mapping does
			}
			if v.Kind == change.Text {
				text += " " + string(v.Data[:min(len(v.Data), 12)])
			} else {
				text += " " + string(rune(v.Kind))
			}
		}
		f.seen = append(f.seen, text)
	}
}

func (f *follower) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
		f.stream.Wake()
	}
	<-f.ended
}

func (f *follower) has(text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.seen, text)
}

func (f *follower) await(text string) {
	f.t.Helper()
	if !harness.Poll(60*time.Second, func() bool { return f.has(text) }) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.t.Fatalf("no %q in %q", text, f.seen)
	}
}

func (f *follower) awaitDone(table string) {
	f.t.Helper()
	harness.Eventually(f.t, 60*time.Second, table+" is done", func() bool { return f.store.state(table).State == BackfillDone })
}

// awaitWaits waits until the table's backfill says that it waits, and for what.
func (f *follower) awaitWaits(table, what string) {
	f.t.Helper()
	harness.Eventually(f.t, 60*time.Second, table+" waits "+what, func() bool { return strings.Contains(f.store.state(table).Waits, what) })
}

// start asks for a backfill as the command does.
func (f *follower) start(table string, rate int) {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	r := f.store.records[table]
	r.Request = &BackfillRequest{ID: fmt.Sprint(time.Now().UnixNano()), Action: "start", Rate: rate}
	f.store.records[table] = r
}

func newStore() *memoryStore { return &memoryStore{records: map[string]BackfillRecord{}} }

// ghost is a cluster in which commits wait for a standby that does not exist, unless they say otherwise.
func ghost(t *testing.T) string {
	pg := harness.NewPostgres(t, harness.PostgresOptions{Settings: map[string]string{"synchronous_standby_names": "ghost"}})
	return pg.URL("postgres")
}

const local = "SET synchronous_commit = local; "

// commitHidden runs a statement whose commit waits for the standby. It returns when the wait has begun; release ends it.
func commitHidden(t *testing.T, url, sql string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	pid := conn.PgConn().PID()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close(context.Background())      //nolint:errcheck // it was told to end
		_, _ = conn.Exec(context.Background(), sql) // it is cancelled, which lets the commit stand
	}()
	harness.Eventually(t, 10*time.Second, "the commit waits", func() bool {
		return harness.Value(t, url, fmt.Sprintf("SELECT 1 FROM pg_stat_activity WHERE pid = %d AND wait_event = 'SyncRep'", pid)) == "1"
	})
	var once sync.Once
	release = func() {
		once.Do(func() {
			harness.Exec(t, url, fmt.Sprintf("SELECT pg_cancel_backend(%d)", pid))
			<-done
		})
	}
	t.Cleanup(release)
	return release
}

// A transaction that the stream has delivered and that nobody sees yet, while its row is read: the chunk is
// read again until it is seen.
func TestBackfillInvisibleTransactionOfThisSession(t *testing.T) {
	url := ghost(t)
	harness.Exec(t, url, local+"CREATE TABLE t (id int PRIMARY KEY, x text)", local+"INSERT INTO t SELECT i, 'old' FROM generate_series(1, 8) i")
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 1})
	f.start("public.t", 2)
	f.await("r 1 old")
	release := commitHidden(t, url, "UPDATE t SET x = 'new' WHERE id = 5")
	f.await("u 5 new")
	f.awaitWaits("public.t", "not visible yet")
	if f.has("r 5 old") || f.has("r 5 new") || f.has("r 6 old") {
		t.Fatalf("row 5 was passed while its newest version was invisible: %q", f.seen)
	}
	release()
	f.awaitDone("public.t")
	f.await("r 5 new")
	if f.has("r 5 old") {
		t.Error("row 5 was read stale")
	}
}

// The same when an earlier session has delivered it: then no chunk is read before it has ended.
func TestBackfillInvisibleTransactionOfAnEarlierSession(t *testing.T) {
	url := ghost(t)
	harness.Exec(t, url, local+"CREATE TABLE t (id int PRIMARY KEY, x text)", local+"INSERT INTO t VALUES (1, 'old')")
	store := newStore()
	first := follow(t, url, store, BackfillOptions{})
	release := commitHidden(t, url, "UPDATE t SET x = 'new' WHERE id = 1")
	first.await("u 1 new")
	harness.Exec(t, url, local+"INSERT INTO t VALUES (2, 'after')") // so that the update is confirmed
	first.await("c 2 after")
	first.end()
	second := follow(t, url, store, BackfillOptions{})
	second.start("public.t", 0)
	second.awaitWaits("public.t", "to end")
	if second.has("r 1 old") || second.has("r 1 new") {
		t.Fatal("the table was read while a version of its row was invisible that never comes again")
	}
	release()
	second.awaitDone("public.t")
	second.await("r 1 new")
}

// A transaction that wrote before its table joined the publication, and is still open.
func TestBackfillTransactionBeforeThePublication(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TABLE t (id int PRIMARY KEY, x text)", "INSERT INTO t VALUES (1, 'old')", "CREATE TABLE first (id int PRIMARY KEY)")
	store := newStore()
	f := follow(t, url, store, BackfillOptions{})
	f.end()
	harness.Exec(t, url, "ALTER PUBLICATION backfill_"+harness.DatabaseName(t, url)+" DROP TABLE t")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test is over
	if _, err := conn.Exec(t.Context(), "BEGIN; UPDATE t SET x = 'new'"); err != nil {
		t.Fatal(err)
	}
	f = follow(t, url, store, BackfillOptions{Initial: true})
	f.awaitWaits("public.t", "to end")
	if f.has("r 1 old") {
		t.Fatal("the table was read while a transaction that the stream may not have was open")
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	f.awaitDone("public.t")
	f.await("r 1 new")
}

// Tables of every shape are read as pgoutput would send them.
func TestBackfillTables(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url,
		`CREATE TABLE parts (id int, day date, x text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)`,
		`CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')`,
		`CREATE TABLE parts_2 PARTITION OF parts DEFAULT`,
		`INSERT INTO parts VALUES (1, '2020-05-05', 'p'), (2, '2022-02-02', NULL)`,
		`CREATE TABLE parent (id int PRIMARY KEY)`, `CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)`,
		`INSERT INTO parent VALUES (1)`, `INSERT INTO child VALUES (2)`,
		`CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, b bool, f float8)`,
		`INSERT INTO made VALUES (1, DEFAULT, true, 0.1)`,
		`CREATE TABLE byindex (a text NOT NULL, b int)`, `CREATE UNIQUE INDEX byindex_a ON byindex (a)`, `ALTER TABLE byindex REPLICA IDENTITY USING INDEX byindex_a`,
		`INSERT INTO byindex VALUES ('ä', 1), ('B', 2), ('a', 3), ('', 4)`,
		`CREATE TABLE whole (a numeric NOT NULL UNIQUE, b char(5))`, `ALTER TABLE whole REPLICA IDENTITY FULL`, `INSERT INTO whole VALUES (1.50, 'x'), (1.5000001, NULL)`,
		`CREATE TABLE bare (a int, b text)`, `ALTER TABLE bare REPLICA IDENTITY FULL`, `INSERT INTO bare VALUES (7, 'same'), (7, 'same'), (NULL, ''), (8, NULL)`,
		`CREATE TABLE log (a int, b text)`, `INSERT INTO log SELECT i, 'log' FROM generate_series(1, 3) i`,
		`CREATE TABLE deep (a int, x text) PARTITION BY LIST (a)`, `CREATE TABLE deep_1 PARTITION OF deep FOR VALUES IN (1)`,
		`CREATE TABLE deep_2 PARTITION OF deep FOR VALUES IN (2) PARTITION BY LIST (x)`, `CREATE TABLE deep_2a PARTITION OF deep_2 FOR VALUES IN ('a')`,
		`CREATE TABLE deep_2b (x text, a int)`, `ALTER TABLE deep_2 ATTACH PARTITION deep_2b DEFAULT`,
		`DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY ARRAY['deep','deep_1','deep_2','deep_2a','deep_2b'] LOOP EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', t); END LOOP; END $$`,
		`INSERT INTO deep VALUES (1, 'one'), (2, 'a'), (2, 'b')`,
		`CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
		`CREATE TABLE folded (k text COLLATE nocase PRIMARY KEY)`, `INSERT INTO folded VALUES ('b'), ('A'), ('C')`)
	store := newStore()
	f := follow(t, url, store, BackfillOptions{Initial: true, ChunkRows: 1})
	for _, table := range []string{"parts", "parent", "child", "made", "byindex", "whole", "folded", "bare", "log", "deep"} {
		f.awaitDone("public." + table)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.seen)
	want := []string{"r  4", "r 1", "r 1 2020-05-05 p", "r 1 t 0.1", "r 1.50 x    ", "r 1.5000001 n", "r 2", "r 2 2022-02-02 n",
		"r A", "r B 2", "r C", "r a 3", "r b", "r ä 1",
		"r 7 same", "r 7 same", "r n ", "r 8 n", "r 1 log", "r 2 log", "r 3 log", "r 1 one", "r 2 a", "r 2 b"}
	slices.Sort(want)
	if !slices.Equal(f.seen, want) {
		t.Errorf("got %q\nwant %q", f.seen, want)
	}
}

// A table that is altered, rewritten and truncated while it is read.
func TestBackfillAlteredTable(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, `CREATE TABLE t (id int PRIMARY KEY, x text)`, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 12) i`,
		`CREATE TABLE gone (id int PRIMARY KEY)`, `INSERT INTO gone SELECT generate_series(1, 50)`)
	f := follow(t, url, newStore(), BackfillOptions{ChunkRows: 1})
	f.start("public.t", 10)
	f.start("public.gone", 10)
	f.await("r 2 x")
	harness.Exec(t, url, `ALTER TABLE t ADD y int DEFAULT 7`)
	f.await("r 6 x 7")
	harness.Exec(t, url, `ALTER TABLE t ALTER id TYPE bigint, DROP x`, `DROP TABLE gone`)
	f.await("r 9 7")
	harness.Exec(t, url, `TRUNCATE t`)
	f.awaitDone("public.t")
	harness.Eventually(t, 10*time.Second, "the dropped table has failed", func() bool {
		return strings.Contains(f.store.state("public.gone").Error, "does not exist")
	})
	if f.has("r 12 7") {
		t.Error("a row was read after the truncate")
	}
}

// When a server of a Cluster has lost its tail, the watermarks on another one do not tell. A table that was
// published behind it is read again; one that was published before is not.
func TestBackfillLost(t *testing.T) {
	url := harness.Database(t, harness.SharedPostgres(t, 0))
	harness.Exec(t, url, "CREATE TABLE early (id int PRIMARY KEY)", "INSERT INTO early VALUES (1)", "CREATE TABLE late (id int PRIMARY KEY)", "INSERT INTO late VALUES (2)")
	store := newStore()
	f := follow(t, url, store, BackfillOptions{})
	f.start("public.early", 0)
	f.awaitDone("public.early")
	f.start("public.late", 0)
	f.awaitDone("public.late")
	f.end()
	early, err := change.ParseLSN(store.state("public.early").LSN)
	if err != nil {
		t.Fatal(err)
	}
	again := follow(t, url, store, BackfillOptions{}, func(s *Source) { s.Lost(early) })
	again.await("r 2")
	again.awaitDone("public.late")
	if again.has("r 1") {
		t.Error("a table was read again of which nothing was lost")
	}
	again.end()
	if last := follow(t, url, store, BackfillOptions{}); store.state("public.late").State != BackfillDone || last.has("r 2") {
		t.Error("a loss was mended twice")
	}
}
