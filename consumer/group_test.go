package consumer

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

// A group's lag is the number of entries that its reader has not read, also when entries were trimmed, and when some were
// never walrill's to count.
func TestMoveGroups(t *testing.T) {
	r := harness.NewRedis(t, harness.RedisOptions{})
	client, err := NewClient(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() }) //nolint:errcheck // a test's
	ctx := t.Context()
	add := func(key string, from, to int) {
		for i := from; i <= to; i++ {
			err := client.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: fmt.Sprintf("%d-1", 100*i), Values: []string{"seq", fmt.Sprint(i)}}).Err()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	lag := func(key string) int64 {
		groups, err := client.XInfoGroups(ctx, key).Result()
		if err != nil || len(groups) != 1 || groups[0].Name != "view:v" {
			t.Fatalf("groups of %s: %+v, %v", key, groups, err)
		}
		return groups[0].Lag
	}
	move := func(key string, below, seq uint64) {
		t.Helper()
		if err := MoveGroups(ctx, client, []GroupMark{{Key: key, Group: "view:v", Below: below, Seq: seq}, {Key: "nothing", Group: "view:v"}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(key string, n int64) {
		t.Helper()
		if got := lag(key); got != n {
			t.Errorf("%s: lag %d, want %d", key, got, n)
		}
	}
	keys := event.NewStream("orders", 2).Keys
	add(keys[0], 1, 10)
	add(keys[1], 1, 3)
	move(keys[0], 401, 4) // makes it
	want(keys[0], 6)
	add(keys[0], 11, 12)
	want(keys[0], 8)
	move(keys[0], 701, 7)
	want(keys[0], 5)
	if err := client.XTrimMaxLen(ctx, keys[0], 9).Err(); err != nil { // what was read is trimmed
		t.Fatal(err)
	}
	move(keys[0], 801, 8)
	want(keys[0], 4)
	if err := client.XTrimMaxLen(ctx, keys[0], 0).Err(); err != nil {
		t.Fatal(err)
	}
	move(keys[0], 1201, 12)
	want(keys[0], 0)
	move(keys[1], 1, 0) // nothing was read yet
	want(keys[1], 3)

	if err := DropGroups(ctx, client, "view:v", append(keys, "nothing")); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if groups, err := client.XInfoGroups(ctx, key).Result(); err != nil || len(groups) != 0 {
			t.Errorf("groups of %s: %+v, %v", key, groups, err)
		}
	}
}
