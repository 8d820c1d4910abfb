package sink

import (
	"fmt"
	"net"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

func TestTLS(t *testing.T) {
	noLeaks(t)
	cert, key := harness.Certificate(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	// Redis asks for a client's certificate by default.
	r := harness.NewRedis(t, harness.RedisOptions{Config: map[string]string{"requirepass": "pw",
		"tls-port": fmt.Sprint(port), "tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert}})
	url := fmt.Sprintf("rediss://:pw@127.0.0.1:%d", port)
	ours := fmt.Sprintf("tls_cert_file=%s&tls_key_file=%s", cert, key)
	for name, query := range map[string]string{
		"a CA of our own": "/0?tls_ca_file=" + cert + "&" + ours,
		"no verification": "/1?skip_verify=true&" + ours,
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript("orders", 1000, 1)
			l := start(t, Options{URL: url + query}, s.stream)
			l.play(s, 0, len(s.events))
			l.settle()
			complete(t, client(t, r.URL()+"?db="+query[1:2]), s)
		})
	}
	for name, bad := range map[string]string{"an unknown CA": url + "?" + ours, "no certificate": url + "?skip_verify=true", "no TLS": fmt.Sprintf("redis://:pw@127.0.0.1:%d", port)} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t, Options{URL: bad})
			l.p.Start(t.Context())
			t.Cleanup(l.stop)
			l.troubled(t, kindConnection)
		})
	}
}
