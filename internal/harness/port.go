package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// freePort picks a port of 127.0.0.1 that nobody listens on. It stays below the
// range that the kernel takes ports for outgoing connections from, so that a
// server that is down for a while finds its port free again.
func freePort() (int, error) {
	const low, high = 10000, 32000
	var last error
	for range 100 {
		port := low + rand.IntN(high-low)
		ln, err := net.Listen("tcp", localAddr(port))
		if err != nil {
			last = err
			continue
		}
		ln.Close()
		return port, nil
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

func localAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
