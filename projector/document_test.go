package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

func newDocumentRedis(t *testing.T, config map[string]string) redis.UniversalClient {
	t.Helper()
	server := harness.NewRedis(t, harness.RedisOptions{Config: config})
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	return client
}

// No two rows have the same key, whatever their values hold.
func TestDocumentKeysTellRowsApart(t *testing.T) {
	v := &DocumentView{Pattern: []KeyPart{{Text: "a:"}, {Text: "x", Column: true}, {Text: ":é"}, {Text: "y", Column: true}, {Text: "/"}, {Text: "z", Column: true}, {Text: ".end"}}}
	value := rapid.StringOfN(rapid.RuneFrom([]rune(":é/%23.A")), 0, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		var rows, keys [2]string
		for i := range rows {
			rows[i] = fmt.Sprintf(`{"x":%q,"y":%q,"z":%q}`, value.Draw(t, "x"), value.Draw(t, "y"), value.Draw(t, "z"))
			var null string
			var err error
			if keys[i], null, err = v.keyOf([]byte(rows[i])); err != nil || null != "" {
				t.Fatalf("%s: %q, %v", rows[i], null, err)
			}
			values, ok := v.valuesOf(keys[i])
			if back := fmt.Sprintf(`{"x":%q,"y":%q,"z":%q}`, values["x"], values["y"], values["z"]); !ok || back != rows[i] {
				t.Fatalf("%s is of %s, and not of %s", keys[i], rows[i], back)
			}
		}
		if rows[0] != rows[1] && keys[0] == keys[1] {
			t.Fatalf("%s and %s are both %s", rows[0], rows[1], keys[0])
		}
	})
	if key, null, err := v.keyOf([]byte(`{"x": 1.50, "y": null, "z": "b"}`)); key != "" || null != "y" || err != nil {
		t.Errorf("%q, %q, %v; want the column that is NULL", key, null, err)
	}
	if key, _, _ := v.keyOf([]byte(`{"z": true, "x": "1:2", "y": "\u00e9"}`)); key != "a:1%3A2:é%C3%A9/true.end" {
		t.Errorf("the key is %s", key)
	}
}

// What cannot be a document's key is none, and what follows from one is a key again.
func TestDocumentKeysAreReadBack(t *testing.T) {
	v := &DocumentView{Pattern: []KeyPart{{Text: "a:"}, {Text: "x", Column: true}, {Text: "/"}, {Text: "y", Column: true}, {Text: "."}, {Text: "x", Column: true}}}
	for _, key := range []string{"", "a:", "b:1/2.1", "a:1", "a:1/2", "a:1/2.3", "a:%/2.%", "a:%4/2.%4", "a:%zz/2.%zz"} {
		if values, ok := v.valuesOf(key); ok {
			t.Errorf("%q is of %v", key, values)
		}
	}
	if values, ok := v.valuesOf("a:1%2F/.1%2F"); !ok || values["x"] != "1/" || values["y"] != "" {
		t.Errorf("%v %v", values, ok)
	}
	// Anything at all behind the last text is the last column's.
	one := &DocumentView{Pattern: []KeyPart{{Text: "a:"}, {Text: "x", Column: true}}}
	if values, ok := one.valuesOf("a:%/:."); !ok || values["x"] != "%/:." {
		t.Errorf("%v %v", values, ok)
	}
}

// documentSource is a table whose events a keeper takes, and the backfills that it asks for.
type documentSource struct {
	sourceTable
	log     []event.Event
	fill    Backfill
	stream  *event.Stream
	pending string
}

func (s *documentSource) Look(context.Context, string) (Backfill, error) { return s.fill, nil }

func (s *documentSource) Request(context.Context, string) (string, error) {
	s.pending = fmt.Sprint("backfill ", s.commit, len(s.log))
	s.fill = Backfill{Known: true, Pending: s.pending}
	return s.pending, nil
}

// transaction makes the events of one: changes, or the rows that a backfill reads.
func (s *documentSource) transaction(t *rapid.T) {
	s.commit++
	s.ordinal, s.seen = 0, nil
	if s.pending != "" {
		for id, r := range s.rows {
			s.emit('r', fmt.Sprintf(`{"id":%d,"n":%s,"body":%q}`, id, r[0], r[1]), "", "")
		}
		s.fill = Backfill{Known: true, Done: true, Whole: true, Request: s.pending, Clock: s.commit + 1}
		s.pending = ""
	} else {
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			s.change(t)
		}
	}
	for _, e := range s.seen {
		e.Stream, e.Seq = s.stream, uint64(len(s.log)+1)
		s.log = append(s.log, e)
	}
}

// ranked is a feed of which only the beginning is known.
type ranked struct {
	Feed
	ranks map[string]uint64
}

func (f ranked) Ranks(context.Context) (map[string]uint64, error) { return f.ranks, nil }

// keeper is what goes on from what Redis has.
func (s *documentSource) keeper(t *rapid.T, client redis.UniversalClient, v *DocumentView) *directKeeper {
	o := &DocumentOptions{Pipeline: "p", Client: client, Views: []DocumentView{*v}, Backfills: s, Log: slog.New(slog.DiscardHandler),
		Watermark: func(context.Context) (uint64, error) { return s.commit + 1, nil }}
	k := &directKeeper{documents: NewDocuments(*o), opts: o, view: v, store: newDocStore(client, "p", v)}
	k.store.owner = ":0:me"
	table := Table{Name: "public.t", Stream: "t", Key: []string{"id"}, Columns: []SourceColumn{{Name: "id"}, {Name: "n"}, {Name: "body"}}}
	var err error
	if k.def, err = planDirect(v, []Table{table}); err == nil {
		k.fold = newFold(k.def.Mirror.Columns, k.def.Mirror.Key)
		if _, err = k.store.claim(context.Background(), false); err == nil {
			err = k.load(context.Background())
		}
	}
	if err == nil {
		before := slices.IndexFunc(s.log, func(e event.Event) bool { return e.Position.Commit >= k.pos.read })
		if before < 0 {
			before = len(s.log)
		}
		k.feed = ranked{ranks: map[string]uint64{"t": uint64(before)}}
		err = k.beginStream(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// want are the documents that the table's rows are.
func (s *documentSource) want(hash bool) map[string]string {
	all := map[string]string{}
	for id, r := range s.rows {
		text := fmt.Sprintf(`{"id":%d,"n":%s,"body":%q}`, id, r[0], r[1])
		if hash {
			text = fmt.Sprint(map[string]string{"id": fmt.Sprint(id), "n": r[0], "body": r[1]})
		}
		all[fmt.Sprint("t:", id)] = text
	}
	return all
}

func documentsIn(t *rapid.T, client redis.UniversalClient, hash bool) map[string]string {
	ctx := context.Background()
	keys, err := client.Keys(ctx, "t:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, key := range keys {
		if hash {
			all[key] = fmt.Sprint(client.HGetAll(ctx, key).Val())
		} else {
			all[key] = client.Get(ctx, key).Val()
		}
	}
	return all
}

// However events are cut into batches, batches into parts, and keepers end at any moment, the documents are what the table is after each
// commit, and what an ended keeper still sends changes nothing.
func TestDocumentsFollowTheSource(t *testing.T) {
	for _, hash := range []bool{false, true} {
		t.Run(fmt.Sprint("hash ", hash), func(t *testing.T) {
			client := newDocumentRedis(t, nil)
			ctx := t.Context()
			refilled, late := 0, 0
			rapid.Check(t, func(t *rapid.T) {
				if err := client.FlushAll(ctx).Err(); err != nil {
					t.Fatal(err)
				}
				v := &DocumentView{Name: "v", Pattern: []KeyPart{{Text: "t:"}, {Text: "id", Column: true}}, Hash: hash, Table: View{Mirror: "public.t"}}
				src := &documentSource{stream: event.NewStream("t", 1), fill: Backfill{Known: true, Whole: true, Done: true}}
				src.rows = map[int][2]string{}
				k := src.keeper(t, client, v)
				taken := 0 // of the log
				step := func(err error) {
					if err != nil {
						t.Fatal(err)
					}
				}
				for range 12 {
					src.transaction(t)
					for ; taken < len(src.log); taken++ {
						e := src.log[taken]
						if k.fold.mayFlush(&e) && rapid.IntRange(0, 15).Draw(t, "flush") == 0 {
							step(k.flush(ctx))
						}
						step(k.take(ctx, &e))
						if rapid.IntRange(0, 30).Draw(t, "crash") == 0 {
							dead := k
							if k = src.keeper(t, client, v); k.fill == fillGap {
								refilled++
							}
							dead.store.owner = ":0:dead" // as another process has it
							if _, err := dead.store.write(ctx, docCall{ops: []docOp{{kind: 'd', key: "t:1"}}}); !errors.Is(err, errOvertaken) {
								t.Fatalf("a dead keeper wrote: %v", err)
							}
							for taken = 0; taken < len(src.log) && src.log[taken].Position.Commit < k.pos.read; taken++ {
							}
							taken--
						}
					}
					if rapid.Bool().Draw(t, "more") {
						continue
					}
					before := *k.store
					step(k.commit(ctx, src.commit+1))
					if _, err := before.write(ctx, docCall{ops: []docOp{{kind: 'd', key: "t:1"}, {kind: 'd', key: "t:2"}}}); !errors.Is(err, errOvertaken) {
						t.Fatalf("a call came twice: %v", err)
					}
					late++
					step(k.lookAfter(ctx))
					if !k.live() {
						continue
					}
					if diff := cmp.Diff(src.want(hash), documentsIn(t, client, hash)); diff != "" {
						t.Fatalf("after transaction %d (-want +got):\n%s", src.commit, diff)
					}
				}
			})
			t.Logf("%d refills, %d late calls", refilled, late)
			if refilled == 0 || late == 0 {
				t.Error("this says nothing")
			}
		})
	}
}

// A call is refused that another owner's has overtaken, that expects another serial number, or that would take the documents back.
func TestDocumentCallsThatComeLate(t *testing.T) {
	client := newDocumentRedis(t, nil)
	ctx := t.Context()
	v := &DocumentView{Name: "v", Pattern: []KeyPart{{Text: "t:"}, {Text: "id", Column: true}}}
	first, second := newDocStore(client, "p", v), newDocStore(client, "p", v)
	first.owner, second.owner = "s:1:a", "s:2:b"
	claim := func(d *docStore, entitled bool) time.Duration {
		t.Helper()
		wait, err := d.claim(ctx, entitled)
		if err != nil {
			t.Fatal(err)
		}
		return wait
	}
	set := func(d *docStore, n string, position uint64) error {
		_, err := d.write(ctx, docCall{ops: []docOp{{kind: 's', key: "t:1", value: []byte(n)}}, position: position})
		return err
	}
	if wait := claim(first, false); wait != 0 {
		t.Fatalf("nobody has it, and it is to be waited for %v", wait)
	}
	if err := set(first, "1", 100); err != nil {
		t.Fatal(err)
	}
	if wait := claim(second, false); wait <= 0 || wait > docLease {
		t.Fatalf("another has it, and it is to be waited for %v", wait)
	}
	if err := set(second, "2", 100); !errors.Is(err, errOvertaken) {
		t.Fatalf("without the claim: %v", err)
	}
	if wait := claim(second, true); wait != 0 {
		t.Fatalf("who is entitled waits for %v", wait)
	}
	if _, err := second.load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := set(first, "3", 200); !errors.Is(err, errOvertaken) {
		t.Fatalf("after another's claim: %v", err)
	}
	if _, err := first.claim(ctx, true); !errors.Is(err, errFenced) {
		t.Fatalf("an older claim: %v", err)
	}
	var older *olderError
	if err := set(second, "4", 99); !errors.As(err, &older) || older.at != "100" {
		t.Fatalf("an older position: %v", err)
	}
	if err := set(second, "5", 1000); err != nil { // longer, and below as text
		t.Fatal(err)
	}
	second.serial--
	if err := set(second, "6", 2000); !errors.Is(err, errOvertaken) {
		t.Fatalf("an older serial number: %v", err)
	}
	if got := client.Get(ctx, "t:1").Val(); got != "5" {
		t.Errorf("the document is %s; want 5", got)
	}
}

// A batch that is too large for one call goes in parts, and the view is filling until the last of them.
func TestDocumentsInParts(t *testing.T) {
	client := newDocumentRedis(t, map[string]string{"slowlog-log-slower-than": "0", "slowlog-max-len": "1000"})
	ctx := t.Context()
	d := newDocStore(client, "p", &DocumentView{Name: "v", Pattern: []KeyPart{{Text: "t:"}, {Text: "id", Column: true}}})
	d.owner = ":0:me"
	if _, err := d.claim(ctx, false); err != nil {
		t.Fatal(err)
	}
	var ops []docOp
	for i := range 2*maxDocuments + 1 {
		ops = append(ops, docOp{kind: 's', key: fmt.Sprint("t:", i), value: []byte("{}")})
	}
	if n := parts(ops); n != 3 {
		t.Fatalf("%d parts, want 3", n)
	}
	cut, cancel := context.WithCancel(ctx)
	client.AddHook(&cancelAfter{calls: 2, cancel: cancel})
	if _, err := d.writeAll(cut, docCall{ops: ops, position: 5, fields: []string{"state", stateLive}}); !errors.Is(err, context.Canceled) {
		t.Fatalf("cut off: %v", err)
	}
	st, err := d.load(ctx)
	if err != nil || st["state"] != stateFilling || st["torn"] != "1" || st["position"] != "" {
		t.Fatalf("after two parts the state is %v, %v; want it filling and torn", st, err)
	}
	if _, err := d.writeAll(ctx, docCall{ops: ops, position: 5, fields: []string{"state", stateLive}}); err != nil {
		t.Fatal(err)
	}
	st, err = d.load(ctx)
	if err != nil || st["state"] != stateLive || st["torn"] != "" || st["position"] != "5" || client.SCard(ctx, d.index).Val() != int64(len(ops)) {
		t.Fatalf("after all parts the state is %v, %v", st, err)
	}
}

// cancelAfter cancels a context after some scripts.
type cancelAfter struct {
	calls  int
	cancel context.CancelFunc
}

func (c *cancelAfter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *cancelAfter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c *cancelAfter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if strings.HasPrefix(cmd.Name(), "eval") && err == nil {
			if c.calls--; c.calls == 0 {
				c.cancel()
			}
		}
		return err
	}
}

// A full Redis takes all of a batch or nothing.
func TestDocumentsInAFullRedis(t *testing.T) {
	client := newDocumentRedis(t, nil)
	ctx := t.Context()
	d := newDocStore(client, "p", &DocumentView{Name: "v", Pattern: []KeyPart{{Text: "t:"}, {Text: "id", Column: true}}})
	d.owner = ":0:me"
	if _, err := d.claim(ctx, false); err != nil {
		t.Fatal(err)
	}
	before, err := d.load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	ops := []docOp{{kind: 's', key: "t:1", value: []byte("{}")}, {kind: 'd', key: "t:2"}}
	if _, err := d.write(ctx, docCall{ops: ops, position: 5}); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("into a full Redis: %v", err)
	}
	after, err := d.load(ctx)
	if err != nil || !maps.Equal(before, after) || client.Exists(ctx, "t:1", d.index).Val() != 0 {
		t.Fatalf("a refused batch has changed %v to %v, %v", before, after, err)
	}
	if err := client.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.write(ctx, docCall{ops: ops, position: 5}); err != nil {
		t.Fatal(err)
	}
}
