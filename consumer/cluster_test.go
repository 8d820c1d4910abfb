package consumer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/internal/harness"
)

// newCluster starts a Redis Cluster of n masters, each with its share of slots.
func newCluster(t *testing.T, n int) redis.UniversalClient {
	t.Helper()
	const slots = 16384
	var addrs []string
	var nodes []redis.UniversalClient
	for i := range n {
		server, node := newRedis(t, map[string]string{"cluster-enabled": "yes", "cluster-port": freePort(t), "cluster-node-timeout": "2000"})
		addrs, nodes = append(addrs, server.Addr()), append(nodes, node)
		do(t, node, "CLUSTER", "ADDSLOTSRANGE", i*slots/n, (i+1)*slots/n-1)
		do(t, node, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i > 0 {
			meet(t, nodes[0], node)
		}
	}
	for _, node := range nodes {
		harness.Eventually(t, 20*time.Second, "the cluster is up", func() bool {
			info, err := node.Do(t.Context(), "CLUSTER", "INFO").Text()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n))
		})
	}
	return newClient(t, "redis+cluster://"+strings.Join(addrs, ","))
}

// meet introduces a node to another.
func meet(t *testing.T, node, other redis.UniversalClient) {
	t.Helper()
	host, port, _ := strings.Cut(other.(*redis.Client).Options().Addr, ":")
	bus, err := other.ConfigGet(t.Context(), "cluster-port").Result()
	if err != nil {
		t.Fatal(err)
	}
	do(t, node, "CLUSTER", "MEET", host, port, bus["cluster-port"])
}

func do(t *testing.T, client redis.UniversalClient, args ...any) {
	t.Helper()
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}
