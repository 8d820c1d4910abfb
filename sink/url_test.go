package sink

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseURL(t *testing.T) {
	base := target{network: "tcp", name: "walrill", dialTimeout: 5 * time.Second, timeout: 5 * time.Second}
	with := func(change func(*target)) *target {
		t := base
		change(&t)
		return &t
	}
	tests := map[string]*target{
		"redis://localhost":                          with(func(t *target) { t.addrs = []string{"localhost:6379"} }),
		"redis://u:p%40%2F@[::1]:7/3":                with(func(t *target) { t.addrs, t.login, t.db = []string{"[::1]:7"}, login{"u", "p@/"}, 3 }),
		"redis://:p@h:1?db=2&client_name=x":          with(func(t *target) { t.addrs, t.login, t.db, t.name = []string{"h:1"}, login{"", "p"}, 2, "x" }),
		"redis://h?read_timeout=2s&dial_timeout=3s":  with(func(t *target) { t.addrs, t.timeout, t.dialTimeout = []string{"h:6379"}, 2*time.Second, 3*time.Second }),
		"redis://h?read_timeout=-1&write_timeout=0s": with(func(t *target) { t.addrs = []string{"h:6379"} }),
		"unix://u:p@/run/redis.sock?db=1": with(func(t *target) {
			t.network, t.addrs, t.login, t.db = "unix", []string{"/run/redis.sock"}, login{"u", "p"}, 1
		}),
		"redis+sentinel://u:p@a:1,b,[::1]:3/mymaster/2?sentinel_username=s&sentinel_password=q%26": with(func(t *target) {
			t.topology, t.addrs, t.master = sentinel, []string{"a:1", "b:26379", "[::1]:3"}, "mymaster"
			t.login, t.sentinelLogin, t.db = login{"u", "p"}, login{"s", "q&"}, 2
		}),
		"redis+cluster://a:1,b":       with(func(t *target) { t.topology, t.addrs = cluster, []string{"a:1", "b:6379"} }),
		"redis+cluster://:p@a:1,b/0?": with(func(t *target) { t.topology, t.addrs, t.login = cluster, []string{"a:1", "b:6379"}, login{"", "p"} }),
	}
	for url, want := range tests {
		got, err := parseURL(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(target{}, login{}), cmpopts.IgnoreFields(target{}, "tls")); diff != "" || got.tls != nil {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
	}
	for _, url := range []string{"rediss://h", "rediss+sentinel://a,b/m", "rediss+cluster://a,b?skip_verify=true"} {
		got, err := parseURL(url)
		if err != nil || got.tls == nil || got.tls.InsecureSkipVerify != strings.Contains(url, "skip") {
			t.Errorf("%s: %+v, %v", url, got, err)
			continue
		}
		if name := got.tlsFor("other.example:6379").ServerName; name != "other.example" {
			t.Errorf("%s: server name %q", url, name)
		}
	}
}

// Errors say what is wrong, and never show a password, wherever it slipped to.
func TestParseURLErrors(t *testing.T) {
	for url, want := range map[string]string{
		"":                                      "want one that starts with",
		"localhost:6379":                        "want one that starts with",
		"http://h":                              `scheme "http"`,
		"redis://h/x":                           "database number",
		"redis://h/1/2":                         "database number",
		"redis://h:port":                        "percent-encoded",
		"redis://:s3cret#1@h":                   "percent-encoded",
		"redis://:s3cret/1@h":                   "percent-encoded",
		"redis://s3cret/1@h":                    "%2F",
		"redis://h?x=1":                         "unexpected option: x",
		"redis://h?read_timeout=soon":           "read_timeout",
		"redis://h?sentinel_password=s3cret;&%": "malformed",
		"unix://":                               "empty unix socket path",
		"redis+sentinel://a,b":                  "master's name is missing",
		"redis+sentinel://a,b/m/x":              "database number",
		"redis+sentinel://,/m":                  "hosts",
		"redis+sentinel://:s3cret/1@a/m":        "",
		"redis+cluster://a/1":                   "database 0 only",
		"redis+cluster://a:b:c":                 "hosts",
		"redis://h?tls_ca_file=/x":              "rediss",
		"rediss://h?tls_ca_file=/does/not":      "read tls_ca_file",
		"rediss://h?tls_ca_file=/dev/null":      "no certificate",
		"rediss://h?tls_cert_file=/does/not":    "read tls_cert_file",
	} {
		_, err := New(Options{URL: url, Pipeline: "shop"})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: error %v, want %q in it", url, err, want)
		}
	}
	for _, o := range []Options{{URL: "redis://h"}, {URL: "redis://h", Pipeline: "p", Durability: Durability{Replicas: -1}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
