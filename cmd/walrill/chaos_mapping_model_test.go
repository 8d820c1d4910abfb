package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// mappingModel writes transactions at random, one after the other, and knows what must come of them.
type mappingModel struct {
	rand     *rand.Rand
	state    mappingState
	serial   int
	history  []string          // ids of the committed transactions, in their order
	want     map[string][]wish // by stream and key
	made     map[string]int    // how many of each kind
	problems []string
}

// mappingState is what is in the tables.
type mappingState struct {
	orders  map[int]chaosOrder
	baskets map[int]int
	lines   map[[2]int]int
}

type chaosOrder struct {
	status       string
	total, parts int
}

// wish is an event that must come, or, when it fails, what comes of it once the rule is mended.
type wish struct {
	tx    string
	typ   string
	data  any
	fails bool
}

func newMappingModel(random *rand.Rand) *mappingModel {
	return &mappingModel{rand: random, want: map[string][]wish{}, made: map[string]int{},
		state: mappingState{map[int]chaosOrder{}, map[int]int{}, map[[2]int]int{}}}
}

// write commits transactions until ctx ends, and there are enough; some are rolled back.
func (m *mappingModel) write(ctx context.Context, url string) error {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	for ctx.Err() == nil || m.saysNothing() {
		if err := m.transaction(conn); err != nil {
			return err
		}
	}
	return nil
}

// saysNothing reports whether there were too few transactions yet, or none that a rule fails on.
func (m *mappingModel) saysNothing() bool {
	fails := func(w wish) bool { return w.fails }
	for _, list := range m.want {
		if slices.ContainsFunc(list, fails) {
			return len(m.history) < leastCompared
		}
	}
	return true
}

// chaosTx is a transaction under way.
type chaosTx struct {
	*mappingModel
	tx      pgx.Tx
	id      string
	now     mappingState
	wishes  map[string][]wish
	baskets []int // in the order in which they were touched
	touched map[int]*chaosBasket
}

// chaosBasket is what the transaction did to a basket.
type chaosBasket struct {
	first, last string // of the root: insert, update, delete; empty when it was not touched
	row         map[string]any
	lines       []any
}

func (m *mappingModel) transaction(conn *pgx.Conn) error {
	ctx := context.Background() // a commit that was begun is waited for, so that the model knows
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
	t := &chaosTx{mappingModel: m, tx: tx, wishes: map[string][]wish{}, touched: map[int]*chaosBasket{},
		now: mappingState{maps.Clone(m.state.orders), maps.Clone(m.state.baskets), maps.Clone(m.state.lines)}}
	if err := tx.QueryRow(ctx, "SELECT pg_current_xact_id()::text").Scan(&t.id); err != nil {
		return err
	}
	for range 1 + m.rand.IntN(8) {
		step := []func() error{t.order, t.order, t.basket, t.line, t.line, t.tell}[m.rand.IntN(6)]
		if err := step(); err != nil {
			return err
		}
	}
	if m.rand.IntN(8) == 0 {
		m.made["rolled back"]++
		return tx.Rollback(ctx)
	}
	t.gather()
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	m.state = t.now
	m.history = append(m.history, t.id)
	for key, list := range t.wishes {
		m.want[key] = append(m.want[key], list...)
	}
	return nil
}

func (t *chaosTx) exec(sql string, args ...any) error {
	_, err := t.tx.Exec(context.Background(), sql, args...)
	return err
}

func (t *chaosTx) wish(stream string, key any, typ string, fails bool, data any) {
	name := fmt.Sprint(stream, "/", key)
	t.wishes[name] = append(t.wishes[name], wish{t.id, typ, data, fails})
	t.made[typ]++
	if fails {
		t.made["failing"]++
	}
}

func (t *chaosTx) order() error {
	id := t.rand.IntN(60)
	was, there := t.now.orders[id]
	switch {
	case !there:
		o := chaosOrder{"placed", t.rand.IntN(1000), 1 + t.rand.IntN(5)}
		if id%15 == 3 { // the rule will fail on it
			o.parts = 0
		}
		t.now.orders[id] = o
		t.wish("orders", id, "order.placed", false, map[string]any{"id": id, "total": o.total})
		return t.exec("INSERT INTO ch_orders VALUES ($1, $2, $3, $4)", id, o.status, o.total, o.parts)
	case t.rand.IntN(6) == 0:
		delete(t.now.orders, id)
		t.wish("orders", id, "order.gone", false, map[string]any{"id": id})
		return t.exec("DELETE FROM ch_orders WHERE id = $1", id)
	}
	o := was
	o.status, o.total = []string{"placed", "paid"}[t.rand.IntN(2)], o.total+1
	t.now.orders[id] = o
	if was.status != "paid" && o.status == "paid" {
		rest := -1
		if o.parts != 0 {
			rest = o.total % o.parts
		}
		t.wish("orders", id, "order.paid", o.parts == 0, map[string]any{"id": id, "rest": rest})
	} else {
		t.wish("orders", id, "order.changed", false, map[string]any{"id": id, "total": o.total})
	}
	return t.exec("UPDATE ch_orders SET status = $2, total = $3 WHERE id = $1", id, o.status, o.total)
}

func (t *chaosTx) touch(id int) *chaosBasket {
	b := t.touched[id]
	if b == nil {
		b = &chaosBasket{row: map[string]any{"id": id}}
		t.touched[id], t.baskets = b, append(t.baskets, id)
	}
	return b
}

// basket changes a root row.
func (t *chaosTx) basket() error {
	id := t.rand.IntN(12)
	n, there := t.now.baskets[id]
	op, sql := "update", "UPDATE ch_baskets SET n = $2 WHERE id = $1"
	switch {
	case !there:
		op, sql, n = "insert", "INSERT INTO ch_baskets VALUES ($1, $2)", t.rand.IntN(1000)
		t.now.baskets[id] = n
	case t.rand.IntN(4) == 0:
		op, sql = "delete", "DELETE FROM ch_baskets WHERE id = $1 AND n = $2"
		delete(t.now.baskets, id)
	default:
		n++
		t.now.baskets[id] = n
	}
	b := t.touch(id)
	b.first, b.last, b.row = cmp.Or(b.first, op), op, map[string]any{"id": id, "n": n}
	return t.exec(sql, id, n)
}

// line changes a child's row. Lines need no basket: its key is all that they have of it.
func (t *chaosTx) line() error {
	at := [2]int{t.rand.IntN(12), t.rand.IntN(4)}
	qty, there := t.now.lines[at]
	b := t.touch(at[0])
	change := func(op string, qty int, old any) {
		c := map[string]any{"op": op, "row": map[string]any{"basket_id": at[0], "no": at[1], "qty": qty}}
		if old != nil {
			c["old"] = old
		}
		b.lines = append(b.lines, c)
	}
	switch {
	case !there:
		qty = t.rand.IntN(100)
		t.now.lines[at] = qty
		change("c", qty, nil)
		return t.exec("INSERT INTO ch_lines VALUES ($1, $2, $3)", at[0], at[1], qty)
	case t.rand.IntN(3) == 0:
		delete(t.now.lines, at)
		change("d", qty, nil)
		return t.exec("DELETE FROM ch_lines WHERE basket_id = $1 AND no = $2", at[0], at[1])
	}
	t.now.lines[at] = qty + 1
	change("u", qty+1, map[string]any{"qty": qty})
	return t.exec("UPDATE ch_lines SET qty = $3 WHERE basket_id = $1 AND no = $2", at[0], at[1], qty+1)
}

// tell writes to the outbox, and sometimes removes the row in the same transaction.
func (t *chaosTx) tell() error {
	t.serial++
	key, typ := t.rand.IntN(9), []string{"thing.counted", "thing.named"}[t.rand.IntN(2)]
	data := map[string]any{"n": t.serial}
	t.wish("told", key, typ, false, data)
	sql := fmt.Sprintf(`INSERT INTO ch_outbox (aggregateid, type, payload) VALUES ('%d', '%s', '{"n": %d}')`, key, typ, t.serial)
	if t.rand.IntN(2) == 0 {
		sql += `; DELETE FROM ch_outbox`
	}
	return t.exec(sql)
}

// gather makes the events of the baskets.
func (t *chaosTx) gather() {
	for _, id := range t.baskets {
		b := t.touched[id]
		typ := "basket.updated"
		switch {
		case b.last == "delete":
			typ = "basket.deleted"
		case b.first == "insert":
			typ = "basket.created"
		}
		if b.lines != nil {
			b.row["lines"] = b.lines
		}
		t.wish("baskets", id, typ, false, b.row)
	}
}

// chaosEntry is an entry of a stream.
type chaosEntry struct {
	key     string // of Redis
	seq     int
	tx, typ string
	schema  string
	data    any
	of      string // stream and key of the event
}

// entries are those of all streams, partition by partition.
func (r *rig) entries() (list []chaosEntry) {
	r.t.Helper()
	r.askRedis(func(ctx context.Context, client *redis.Client) error {
		for _, s := range r.pipeline.Streams {
			for _, key := range s.Keys() {
				entries, err := client.XRange(ctx, key, "-", "+").Result()
				if err != nil {
					return err
				}
				for _, e := range entries {
					text := func(field string) string { value, _ := e.Values[field].(string); return value }
					entry := chaosEntry{key: key, tx: text("tx"), typ: text("type"), schema: text("schema"), of: s.Name + "/" + text("key")}
					entry.seq, err = strconv.Atoi(text("seq"))
					if err != nil {
						return err
					}
					if err := json.Unmarshal([]byte(text("data")), &entry.data); err != nil {
						return fmt.Errorf("%s %s: %w", key, e.ID, err)
					}
					list = append(list, entry)
				}
			}
		}
		return nil
	})
	return list
}

// compare says what differs from the wishes, and how many keys have one that fails. Mended is after their retry.
func (m *mappingModel) compare(entries []chaosEntry, mended bool) (blocked int) {
	fail := func(format string, args ...any) { m.problems = append(m.problems, fmt.Sprintf(format, args...)) }
	got := map[string][]chaosEntry{}
	home, seqs := map[string]string{}, map[string]int{}
	place := map[string]int{} // of transactions
	for i, id := range m.history {
		place[id] = i
	}
	last := map[string]int{}
	for _, e := range entries {
		if seqs[e.key]++; e.seq != seqs[e.key] {
			fail("%s: seq %d where %d must be", e.key, e.seq, seqs[e.key])
		}
		if at := home[e.of]; at != "" && at != e.key {
			fail("%s is in %s and in %s", e.of, at, e.key)
		}
		home[e.of] = e.key
		if at, ours := place[e.tx]; ours {
			if at < last[e.key] {
				fail("%s: seq %d is of an earlier transaction than the one before", e.key, e.seq)
			}
			last[e.key] = at
		}
		if declared := e.typ != "thing.named"; declared != (e.schema == "1") {
			fail("%s: seq %d, a %s, has schema %q", e.key, e.seq, e.typ, e.schema)
		}
		got[e.of] = append(got[e.of], e)
	}
	for of := range got {
		if m.want[of] == nil {
			fail("%s was never written", of)
		}
	}
	for _, of := range slices.Sorted(maps.Keys(m.want)) {
		want := m.want[of]
		first := slices.IndexFunc(want, func(w wish) bool { return w.fails })
		if first >= 0 {
			blocked++
			if !mended {
				want = want[:first]
			}
		}
		if len(got[of]) != len(want) {
			fail("%s: %d events, want %d", of, len(got[of]), len(want))
		}
		for i := range min(len(want), len(got[of])) {
			e, w := got[of][i], want[i]
			if e.typ != w.typ || !reflect.DeepEqual(e.data, asJSON(w.data)) || (e.tx != w.tx && (first < 0 || i < first)) {
				fail("%s, event %d: %s of %s %v, want %s of %s %v", of, i+1, e.typ, e.tx, e.data, w.typ, w.tx, w.data)
				break
			}
		}
	}
	return blocked
}

// asJSON is a value as it is when it was read from JSON.
func asJSON(v any) (out any) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.NewDecoder(strings.NewReader(string(text))).Decode(&out)
	}
	if err != nil {
		panic(err)
	}
	return out
}
