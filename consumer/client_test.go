package consumer

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// endpoint is what a URL says.
type endpoint struct {
	Network, Addr  string
	Addrs          []string
	User, Password string
	DB             int
	TLS            bool
}

func TestNewClientReadsTheURL(t *testing.T) {
	tests := map[string]endpoint{
		"redis://localhost:6400/3":                      {Network: "tcp", Addr: "localhost:6400", DB: 3},
		"redis://localhost":                             {Network: "tcp", Addr: "localhost:6379"},
		"redis://[::1]:6400":                            {Network: "tcp", Addr: "[::1]:6400"},
		"redis://:p%2Fa%40ss@h:1/0?client_name=tail":    {Network: "tcp", Addr: "h:1", Password: "p/a@ss"},
		"redis://me:a:b@h:1":                            {Network: "tcp", Addr: "h:1", User: "me", Password: "a:b"},
		"rediss://h:1":                                  {Network: "tcp", Addr: "h:1", TLS: true},
		"unix:///run/redis.sock?db=2":                   {Network: "unix", Addr: "/run/redis.sock", DB: 2},
		"unix://me:secret@/run/a%20b.sock":              {Network: "unix", Addr: "/run/a b.sock", User: "me", Password: "secret"},
		"redis+cluster://me:secret@h1:7000,h2:7001":     {Addrs: []string{"h1:7000", "h2:7001"}, User: "me", Password: "secret"},
		"redis+cluster://h1,[::1]/0":                    {Addrs: []string{"h1:6379", "[::1]:6379"}},
		"rediss+cluster://h1:7000":                      {Addrs: []string{"h1:7000"}, TLS: true},
		"redis+sentinel://me:secret@h1:1,h2:2/master/4": {Network: "tcp", Addr: "FailoverClient", User: "me", Password: "secret", DB: 4},
	}
	for url, want := range tests {
		client, err := NewClient(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if diff := cmp.Diff(want, endpointOf(client)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
		client.Close()
	}
}

func endpointOf(client redis.UniversalClient) endpoint {
	if c, ok := client.(*redis.ClusterClient); ok {
		o := c.Options()
		return endpoint{Addrs: o.Addrs, User: o.Username, Password: o.Password, TLS: o.TLSConfig != nil}
	}
	o := client.(*redis.Client).Options()
	return endpoint{Network: o.Network, Addr: o.Addr, User: o.Username, Password: o.Password, DB: o.DB, TLS: o.TLSConfig != nil}
}

func TestNewClientSendsNoNeedlessHandshake(t *testing.T) {
	client, err := NewClient("redis://h:1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	o := client.(*redis.Client).Options()
	if !o.DisableIdentity || o.MaintNotificationsConfig.Mode != maintnotifications.ModeDisabled {
		t.Errorf("identity disabled %v, maintenance notifications %v", o.DisableIdentity, o.MaintNotificationsConfig.Mode)
	}
}

func TestNewClientNeverShowsThePassword(t *testing.T) {
	for url, want := range map[string]string{
		"localhost:6379":                        "redis://",
		"http://me:hunter2@h":                   "scheme",
		"redis+redis://me:hunter2@h":            "scheme",
		"unix+cluster://me:hunter2@/x":          "scheme",
		"redis://":                              "host:port",
		"unix://":                               "path",
		"unix://me:hunter2@run/redis.sock":      "path",
		"redis://me:hunter2@h:1,h:2":            "several hosts",
		"redis://me:hun%ter2@h":                 "percent-escape",
		"redis://me:4/hunter2@h:1":              "percent-escape",
		"redis://me:4?hunter2@h:1":              "percent-escape",
		"redis://me:4#hunter2@h:1":              "percent-escape",
		"redis://me:hunter2":                    "host:port",
		"redis://me:hunter2@h:1/zero":           "zero",
		"redis://me:hunter2@h:1?nosuch=1":       "nosuch",
		"redis+cluster://me:hunter2@h:1/3":      "database 0",
		"redis+cluster://h:1?read_only=true":    "replica",
		"redis+sentinel://me:hunter2@h:1":       "master",
		"redis+sentinel://me:hunter2@h:1/m/x":   `"x"`,
		"redis+sentinel://h:1/m?replica_only=1": "replica",
	} {
		client, err := NewClient(url)
		switch {
		case err == nil:
			client.Close()
			t.Errorf("%s: no error", url)
		case !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "unter2"):
			t.Errorf("%s: %v; want it to name %q", url, err, want)
		}
	}
}
