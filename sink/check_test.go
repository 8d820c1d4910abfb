package sink

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// troubles are the findings of a check that are not ok, one a line.
func troubles(d *Diagnosis) string {
	var lines []string
	for _, f := range d.Findings {
		if f.Level != LevelOK {
			lines = append(lines, fmt.Sprintf("%s %s: %s | %s", f.Level, f.Subject, f.Finding, f.Fix))
		}
	}
	return strings.Join(lines, "\n")
}

func TestCheckFindings(t *testing.T) {
	r := harness.NewRedis(t, harness.RedisOptions{})
	replica := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"replicaof": strings.Replace(r.Addr(), ":", " ", 1)}})
	c := client(t, r.URL())
	do := func(args ...any) {
		t.Helper()
		if err := c.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{URL: r.URL(), Pipeline: "shop"}
	streams := []*event.Stream{event.NewStream("orders", 2), event.NewStream("customers", 1)}
	for _, tc := range []struct {
		what  string
		begin func()
		o     func(*Options)
		want  string // a pattern over troubles
	}{
		{"no append-only file", func() {}, nil, `^warning Redis: no append-only file: .*everything: it takes no snapshots either.* \| redis-cli -h 127.0.0.1 -p \d+ CONFIG SET appendonly yes`},
		{"nothing", func() { do("CONFIG", "SET", "appendonly", "yes") }, nil, `^$`},
		{"eviction without a limit", func() { do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru") }, nil, `^warning Redis: maxmemory-policy is allkeys-lru: .* \| redis-cli -h 127.0.0.1 -p \d+ CONFIG SET maxmemory-policy noeviction`},
		{"eviction", func() { do("CONFIG", "SET", "maxmemory", "100mb") }, nil, `^error Redis: maxmemory-policy is allkeys-lru: when Redis is full it deletes whole streams`},
		{"full", func() { do("CONFIG", "SET", "maxmemory-policy", "volatile-lru"); do("CONFIG", "SET", "maxmemory", "1") }, nil,
			`(?s)^warning Redis: \d+ of 0 MiB are used.*\nerror writing to Redis: OOM .* \| redis-cli -h 127.0.0.1 -p \d+ CONFIG SET maxmemory`},
		{"short values", func() { do("CONFIG", "SET", "maxmemory", "0"); do("CONFIG", "SET", "proto-max-bulk-len", "1mb") }, nil,
			`^warning Redis: proto-max-bulk-len is 1048576: `},
		{"too few replicas", func() { do("CONFIG", "SET", "proto-max-bulk-len", "512mb") }, func(o *Options) { o.Durability.Replicas = 2 },
			`^error Redis: [01] replicas are connected, sink.durability asks for 2`},
		{"min-replicas", func() { do("CONFIG", "SET", "min-replicas-to-write", "3") }, nil, `^error writing to Redis: NOREPLICAS .* \| redis-cli -h 127.0.0.1 -p \d+ CONFIG SET min-replicas-to-write`},
		{"a replica", func() { do("CONFIG", "SET", "min-replicas-to-write", "0") }, func(o *Options) { o.URL = replica.URL() },
			`error Redis: ` + replica.Addr() + ` is a replica and takes no writes \| sink: \{url: "redis://` + r.Addr() + `"\}`},
		{"no Cluster", func() {}, func(o *Options) { o.URL = "redis+cluster://" + r.Addr() }, `^error Redis: .*cluster support disabled`},
		{"a key of another type", func() { do("HSET", "orders:1", "a", "b") }, nil,
			`^error stream orders: the key orders:1 is something else than a stream \| redis-cli .*RENAME 'orders:1' 'orders:1.old'`},
		{"an entry of somebody else", func() { do("DEL", "orders:1"); do("XADD", "orders:1", "5-1", "a", "b") }, nil,
			`^error stream orders: .*written or changed by something else.* \| redis-cli .*XREVRANGE 'orders:1'`},
		{"a password", func() { do("DEL", "orders:1"); do("CONFIG", "SET", "requirepass", "pw") }, nil, `^error Redis: .*NOAUTH.* \| check the user and password in sink.url`},
	} {
		tc.begin()
		with := o
		if tc.o != nil {
			tc.o(&with)
		}
		before, err := c.DBSize(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		var got string
		// What INFO says of replicas and of a first rewrite of the append-only file takes a moment.
		harness.Poll(patience, func() bool {
			got = troubles(Check(t.Context(), with, streams))
			return regexp.MustCompile(tc.want).MatchString(got)
		})
		if !regexp.MustCompile(tc.want).MatchString(got) {
			t.Errorf("%s: got\n%s\nwant %s", tc.what, got, tc.want)
		}
		if after := c.DBSize(t.Context()).Val(); after != before {
			t.Errorf("%s: %d keys before the check, %d after it", tc.what, before, after)
		}
	}
}

// What the fix grants is enough, and it is found one after the other.
func TestCheckRights(t *testing.T) {
	r := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"appendonly": "yes"}})
	c := client(t, r.URL())
	streams := []*event.Stream{event.NewStream("orders", 2), event.NewStream("customers", 1)}
	grant := func(rules ...string) {
		t.Helper()
		args := []any{"ACL", "SETUSER"}
		for _, rule := range rules {
			args = append(args, strings.Trim(rule, "'"))
		}
		if err := c.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	grant("walrill", "on", ">secret", "resetkeys", "-@all", "+multi", "+info")
	o := Options{URL: "redis://walrill:secret@" + r.Addr(), Pipeline: "shop", Durability: Durability{Replicas: 0, Fsync: false}}
	fix := regexp.MustCompile(`redis-cli .*ACL SETUSER (.*?)  +#`)
	var d *Diagnosis
	for step, want := range []string{"error rights: .*\\+multi", "error rights: .*'~walrill:\\{shop\\}:\\*' .*\\+xadd", "error rights: .*'~customers' '~orders:\\*'", "warning rights: .*\\+xread", "^$"} {
		d = Check(t.Context(), o, streams)
		got := troubles(d)
		if !regexp.MustCompile(want).MatchString(got) {
			t.Fatalf("step %d: got\n%s\nwant %s", step, got, want)
		}
		if m := fix.FindStringSubmatch(got); m != nil {
			grant(strings.Fields(m[1])...)
		}
	}
	if !d.Read || len(d.Tops) != len(streams) {
		t.Errorf("read %t, %d streams; want all of them", d.Read, len(d.Tops))
	}
	if n := c.Exists(t.Context(), "orders:0", event.MetaKey("shop"), event.CommitsKey("shop")).Val(); n != 0 {
		t.Errorf("the checks made %d keys", n)
	}
	script := newScript("orders", 100, 1)
	l := start(t, o, script.stream)
	l.play(script, 0, len(script.events))
	l.settle()
	complete(t, c, script)
}
