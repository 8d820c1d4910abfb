package sink

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

func orderSchema(table string, columns ...string) *event.Schema {
	s := &event.Schema{Stream: "orders", Table: table, Since: "0/16B3748", Key: columns[:1]}
	for _, name := range columns {
		s.Columns = append(s.Columns, event.SchemaColumn{Name: name, Type: "character varying(<9)", JSON: "string"})
	}
	return s
}

func typeSchema(name string, columns ...string) *event.Schema {
	s := orderSchema("public.orders", columns...)
	s.Type = name
	return s
}

func claimed(t *testing.T, l *loop, s *event.Schema) int {
	t.Helper()
	version, err := l.p.ClaimSchema(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// catalogued is what :catalogue says of a version.
func catalogued(t *testing.T, c *redis.Client, field string) string {
	t.Helper()
	text, err := c.HGet(t.Context(), event.CatalogueKey("shop"), field).Result()
	if err != nil {
		t.Fatalf("%s: %v", field, err)
	}
	return text
}

// A shape gets the next number, one that was there before the number of then, whoever asks.
func TestClaimSchema(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	s := newScript("orders", 1, 1)
	first, second := start(t, Options{URL: r.URL()}, s.stream), start(t, Options{URL: r.URL()}, s.stream)
	a, b := orderSchema("public.orders", "id"), orderSchema("public.orders", "id", "a/b")
	for i, step := range []struct {
		l      *loop
		schema *event.Schema
		want   int
	}{
		{first, a, 1}, {first, b, 2}, {first, a, 1},
		{second, a, 1}, {second, orderSchema("public.lines", "id"), 1},
		{second, orderSchema("public.orders", "other"), 3},
		{first, orderSchema("public.orders", "other"), 3},
		{first, orderSchema("public.lines", "id"), 1},
		{first, orderSchema("shop/of%.lines", "id"), 1},
		{first, typeSchema("order.paid", "id"), 1},
		{second, typeSchema("order.paid", "id", "total"), 2},
		{second, typeSchema("order.paid", "id"), 1},
		{first, typeSchema("orders.created", "id"), 4},            // rows without rules were called so, in 3 versions
		{second, orderSchema("public.orders", "fifth", "row"), 5}, // and are still
	} {
		if got := claimed(t, step.l, step.schema); got != step.want {
			t.Errorf("step %d: version %d, want %d", i, got, step.want)
		}
	}
	want := `{"stream":"orders","table":"public.orders","version":2,"since":"0/16B3748","key":["id"],` +
		`"columns":[{"name":"id","type":"character varying(<9)","json":"string"},{"name":"a/b","type":"character varying(<9)","json":"string"}]}`
	if got := catalogued(t, c, "orders/public.orders/2"); got != want {
		t.Errorf("the catalogue has\n%s\nwant\n%s", got, want)
	}
	catalogued(t, c, "orders/shop%2Fof%25.lines/1")
}

// Instances that claim at the same time agree on what each number means.
func TestClaimSchemaTogether(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	const shapes, instances = 12, 4
	versions := make([][]int, instances)
	done := make(chan error, instances)
	for i := range instances {
		l := start(t, Options{URL: r.URL()})
		go func() {
			for n := range shapes {
				// Half of the instances meet the shapes in the other order.
				version, err := l.p.ClaimSchema(t.Context(), orderSchema("public.orders", fmt.Sprint("c", (n+i%2*7)%shapes)))
				if err != nil {
					done <- err
					return
				}
				versions[i] = append(versions[i], version)
			}
			done <- nil
		}()
	}
	for range instances {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := c.HLen(t.Context(), event.CatalogueKey("shop")).Val(); n != shapes {
		t.Errorf("the catalogue has %d versions of %d shapes", n, shapes)
	}
	for i, list := range versions {
		for n, version := range list {
			var s event.Schema
			if err := json.Unmarshal([]byte(catalogued(t, c, fmt.Sprintf("orders/public.orders/%d", version))), &s); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("c", (n+i%2*7)%shapes); s.Columns[0].Name != want || s.Version != version {
				t.Errorf("instance %d was given %d for %s, and the catalogue says %+v", i, version, want, s)
			}
		}
	}
}

// A number that was given never means something else, even when the catalogue
// is gone; and what entries are published with is put back before more are.
func TestCatalogueLost(t *testing.T) {
	noLeaks(t)
	r := harness.NewRedis(t, harness.RedisOptions{})
	c := client(t, r.URL())
	s := newScript("orders", 60, 1)
	l := start(t, Options{URL: r.URL()}, s.stream)
	claimed(t, l, orderSchema("public.orders", "id"))
	claimed(t, l, orderSchema("public.orders", "id", "a"))
	l.play(s, 0, 20)
	l.settle()
	if err := c.Del(t.Context(), event.CatalogueKey("shop")).Err(); err != nil {
		t.Fatal(err)
	}
	second := start(t, Options{URL: r.URL()}, s.stream)
	if version := claimed(t, second, orderSchema("public.orders", "new")); version != 3 {
		t.Errorf("version %d was given again", version)
	}
	if err := c.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	l.play(s, 20, 40)
	l.settle()
	for i, column := range []string{`"id"`, `"a"`, `"new"`} {
		text := catalogued(t, c, fmt.Sprintf("orders/public.orders/%d", i+1))
		var schema event.Schema
		if err := json.Unmarshal([]byte(text), &schema); err != nil || fmt.Sprintf("%q", schema.Columns[len(schema.Columns)-1].Name) != column {
			t.Errorf("version %d is %s", i+1, text)
		}
	}
	// Now somebody gives a number another meaning.
	changed, err := marshal(&event.Schema{Stream: "orders", Table: "public.orders", Version: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.HSet(t.Context(), event.CatalogueKey("shop"), "orders/public.orders/2", changed).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	for i := 40; i < 60; i++ {
		l.take(s, i)
	}
	l.p.Offer()
	if err := l.fails(); !errors.Is(err, errCatalogueChanged) {
		t.Errorf("it ended with %v", err)
	}
}

// While Redis is away a claim waits, and it fails for good when the catalogue cannot be read.
func TestClaimSchemaInTrouble(t *testing.T) {
	noLeaks(t)
	f := newFakeRedis(t)
	l := start(t, Options{URL: f.url()})
	attempts := 0
	f.behave(func(args []string, queued bool) string {
		switch {
		case args[0] == "WATCH":
			if attempts++; attempts == 1 {
				return "close"
			}
		case args[0] == "HSET" && queued && attempts == 2:
			return "-OOM command not allowed when used memory > 'maxmemory'.\r\n"
		case args[0] == "HSET" && attempts == 3:
			attempts++
			return "-ERR whatever\r\n"
		}
		return ""
	})
	if version := claimed(t, l, orderSchema("public.orders", "id")); version != 1 {
		t.Errorf("version %d", version)
	}
	if n := f.received("WATCH"); n != 4 {
		t.Errorf("claimed with %d attempts, want 4", n)
	}
	f.behave(func(args []string, _ bool) string {
		if args[0] == "HGETALL" {
			return "*2\r\n" + bulks("orders/public.orders/1", "no JSON")
		}
		return ""
	})
	_, err := l.p.ClaimSchema(t.Context(), orderSchema("public.orders", "other"))
	var never interface{ Permanent() bool }
	if !errors.As(err, &never) {
		t.Errorf("a catalogue that cannot be read: %v", err)
	}
}
