package sink

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// newCluster starts three masters that share the slots.
func newCluster(t *testing.T) []*harness.Redis {
	t.Helper()
	ctx := t.Context()
	nodes := make([]*harness.Redis, 3)
	for i := range nodes {
		nodes[i] = harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{
			"cluster-enabled": "yes", "cluster-node-timeout": "2000", "appendonly": "yes", "appendfsync": "always"}})
	}
	first := client(t, nodes[0].URL())
	for i, n := range nodes {
		c := client(t, n.URL())
		lo, hi := i*5462, min(i*5462+5461, 16383)
		if err := errors.Join(c.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", lo, hi).Err(), c.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err()); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := first.ClusterMeet(ctx, "127.0.0.1", fmt.Sprint(n.Port())).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	clusterReady(t, nodes)
	return nodes
}

func clusterReady(t *testing.T, nodes []*harness.Redis) {
	t.Helper()
	for _, n := range nodes {
		c := client(t, n.URL())
		harness.Eventually(t, patience, "the cluster is up", func() bool {
			info := c.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
}

func TestCluster(t *testing.T) {
	t.Parallel() // it mostly waits
	nodes := newCluster(t)
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nodes[0].Addr()}})
	t.Cleanup(func() { c.Close() })
	s := newScript("orders", 2000, 1)
	s.spread(9)
	l := start(t, Options{URL: "redis+cluster://" + nodes[1].Addr() + "," + nodes[2].Addr(), BatchEntries: 100}, s.stream)
	l.play(s, 0, 500)
	l.settle()
	if n := published(t, c, s); n != 500 {
		t.Fatalf("%d entries", n)
	}
	t.Run("a slot moves", func(t *testing.T) {
		next := 500
		moveSlot(t, nodes, "orders:3", func() {
			for ; next < 600; next++ {
				l.take(s, next)
			}
			l.p.Offer()
		}, func() { l.troubled(t, kindMoved) })
		l.play(s, next, 1200)
		l.settle()
		published(t, c, s)
	})
	t.Run("a node dies and comes back", func(t *testing.T) {
		if err := nodes[2].Kill(); err != nil {
			t.Fatal(err)
		}
		for i := 1200; i < 1300; i++ {
			l.take(s, i)
		}
		l.p.Offer()
		l.troubled(t, kindConnection)
		if err := nodes[2].Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		clusterReady(t, nodes)
		l.play(s, 1300, len(s.events))
		l.settle()
		if n := published(t, c, s); n != len(s.events) {
			t.Fatalf("%d entries", n)
		}
	})
	top := c.XRevRangeN(t.Context(), event.CommitsKey("shop"), "+", "-", 1).Val()
	if len(top) != 1 || top[0].ID != (event.Position{Commit: s.end()}).ID() {
		t.Errorf("top of :commits: %v", top)
	}
}

// spread gives the script's stream another number of partitions.
func (s *script) spread(partitions int) {
	s.stream = event.NewStream(s.stream.Name, partitions)
	for i := range s.events {
		s.events[i].Stream, s.events[i].Partition = s.stream, s.stream.Partition(s.events[i].Key)
	}
}

// moveSlot moves a key's slot to another node, as a resharding does: half-way,
// when its key has moved and the slot has not, it calls half and then stuck.
func moveSlot(t *testing.T, nodes []*harness.Redis, key string, half, stuck func()) {
	t.Helper()
	ctx := t.Context()
	slot := int(slotOf(key))
	from := slot / 5462
	to := (from + 1) % 3
	src, dst := client(t, nodes[from].URL()), client(t, nodes[to].URL())
	id := func(c *redis.Client) string { return c.Do(ctx, "CLUSTER", "MYID").Val().(string) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(dst.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(src)).Err())
	must(src.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(dst)).Err())
	must(src.Migrate(ctx, "127.0.0.1", fmt.Sprint(nodes[to].Port()), key, 0, time.Second).Err())
	half()
	stuck()
	target := id(dst)
	for _, n := range []int{to, from, 3 - to - from} {
		must(client(t, nodes[n].URL()).Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", target).Err())
	}
}

func TestSlotOf(t *testing.T) {
	// From the Cluster specification and CLUSTER KEYSLOT.
	for key, want := range map[string]uint16{
		"123456789": 0x31c3, "": 0, "foo": 12182, "{foo}.bar": 12182, "x{foo}y{bar}": 12182, "foo{}": slotOf("foo{}"), "walrill:{shop}:commits": slotOf("shop"),
	} {
		if got := slotOf(key); got != want {
			t.Errorf("slot of %q is %d, want %d", key, got, want)
		}
	}
}

func TestParseSlots(t *testing.T) {
	node := func(host any, port int64) []any { return []any{host, port, "id"} }
	got, err := parseSlots([]any{
		[]any{int64(0), int64(100), node("10.0.0.1", 7000), node("10.0.0.2", 7000)},
		[]any{int64(101), int64(16383), node("", 7001)},
	}, "10.0.0.9:6379")
	if err != nil || fmt.Sprint(got) != "[{0 100 10.0.0.1:7000} {101 16383 10.0.0.9:7001}]" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []any{nil, []any{}, []any{"x"}, []any{[]any{int64(0), int64(1)}}, []any{[]any{"a", "b", node("h", 1)}}} {
		if _, err := parseSlots(bad, "h:1"); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
