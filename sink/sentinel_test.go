package sink

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// The master dies; Sentinel makes its replica the master, and the publisher goes on there.
func TestSentinel(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx := t.Context()
	master := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"repl-diskless-sync-delay": "0"}})
	replica := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"repl-diskless-sync-delay": "0", "replicaof": fmt.Sprintf("127.0.0.1 %d", master.Port())}})
	c := client(t, replica.URL())
	harness.Eventually(t, patience, "replication", func() bool {
		return strings.Contains(c.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	sentinel := startSentinel(t, master.Port())
	s := newScript("orders", 1000, 1)
	l := start(t, Options{URL: "redis+sentinel://127.0.0.1:1," + sentinel + "/mymaster/0", Durability: Durability{Replicas: 1, Timeout: time.Second}}, s.stream)
	l.play(s, 0, 300)
	l.settle()
	if err := master.Kill(); err != nil {
		t.Fatal(err)
	}
	for i := 300; i < 400; i++ {
		l.take(s, i)
	}
	l.p.Offer()
	// The new master has no replica, so nothing counts as durable on it.
	l.troubled(t, kindNoReplicas)
	harness.Eventually(t, patience, "400 entries on the new master", func() bool { return published(t, c, s) == 400 })
	if l.p.Durable() >= s.events[300].Position.Commit+50 {
		t.Error("it counts as durable without a replica")
	}
	harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"replicaof": fmt.Sprintf("127.0.0.1 %d", replica.Port())}})
	l.play(s, 400, len(s.events))
	l.settle()
	complete(t, c, s)
}

// startSentinel starts a Sentinel that watches mymaster and returns its address.
func startSentinel(t *testing.T, masterPort int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	addr := runSentinel(t, fmt.Sprintf("sentinel monitor mymaster 127.0.0.1 %d 1\n"+
		"sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 1000\n", masterPort))
	c := redis.NewSentinelClient(&redis.Options{Addr: addr})
	defer c.Close()
	harness.Eventually(t, patience, "Sentinel knows the replica", func() bool {
		replicas, err := c.Replicas(ctx, "mymaster").Result()
		return err == nil && len(replicas) == 1 && !strings.Contains(replicas[0]["flags"], "down")
	})
	return addr
}

// runSentinel runs redis-server as a Sentinel until the test ends.
func runSentinel(t *testing.T, config string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	ln.Close()
	path := filepath.Join(t.TempDir(), "sentinel.conf")
	config = fmt.Sprintf("bind 127.0.0.1\nport %d\ndir %s\n", addr.Port, filepath.Dir(path)) + config
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", path, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	harness.Eventually(t, patience, "the Sentinel listens", func() bool {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr.String()
}
