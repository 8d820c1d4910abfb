package sink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/walrill/walrill/internal/harness"
)

// writeCertificate makes a self-signed certificate for 127.0.0.1 and returns
// the paths of it and of its key.
func writeCertificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	noLeaks(t)
	cert, key := writeCertificate(t)
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
