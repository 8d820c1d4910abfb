package harness

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRedisComesBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		config map[string]string
		down   func(*Redis) error
		keeps  bool
	}{
		{"killed", nil, (*Redis).Kill, false},
		{"killed with appendonly", map[string]string{"appendonly": "yes", "appendfsync": "always"}, (*Redis).Kill, true},
		{"shut down", nil, (*Redis).Shutdown, false},
		{"shut down with save", map[string]string{"save": "900 1\n300 10"}, (*Redis).Shutdown, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRedis(t, RedisOptions{Config: c.config})
			ctx, pid := t.Context(), r.Pid()
			if err := client(t, r.URL()).Set(ctx, "k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := c.down(r); err != nil {
				t.Fatal(err)
			}
			if conn, err := net.Dial("tcp", r.Addr()); err == nil || r.Pid() != 0 {
				conn.Close()
				t.Fatal("the server is down and answers")
			}
			if err := r.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if r.Pid() == pid || r.Start(ctx) == nil {
				t.Error("started twice, or not at all")
			}
			n, err := client(t, r.URL()).Exists(ctx, "k").Result()
			if err != nil || (n == 1) != c.keeps {
				t.Errorf("the key is there: %d, %v; want it kept: %v", n, err, c.keeps)
			}
		})
	}
}

func TestRedisOptions(t *testing.T) {
	r := NewRedis(t, RedisOptions{
		Dir:    t.TempDir(),
		Config: map[string]string{"requirepass": "p@ss/word", "maxmemory": "10mb", "user": "a on nopass +@all\nb off"},
	})
	for _, url := range []string{r.URL(), r.SocketURL()} {
		users, err := client(t, url).Do(t.Context(), "ACL", "USERS").StringSlice()
		if err != nil || strings.Join(users, " ") != "a b default" {
			t.Errorf("%s: users %v, %v", url, users, err)
		}
	}
	if got := client(t, r.URL()).ConfigGet(t.Context(), "maxmemory").Val()["maxmemory"]; got != "10485760" {
		t.Errorf("maxmemory is %s", got)
	}
}

func TestRedisSaysWhatFails(t *testing.T) {
	for _, c := range []struct {
		name string
		o    RedisOptions
		want string
	}{
		{"directive", RedisOptions{Config: map[string]string{"nonsense": "yes"}}, "Bad directive"},
		{"port", RedisOptions{Port: NewRedis(t, RedisOptions{}).Port()}, "Address already in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := StartRedis(t.Context(), c.o)
			if err == nil {
				r.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		t.Setenv("PATH", "")
		if _, err := StartRedis(context.Background(), RedisOptions{}); err == nil || !strings.Contains(err.Error(), "apt-get install redis-server") {
			t.Errorf("error %v, want one that says how to install it", err)
		}
	})
}
