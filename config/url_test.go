package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestURLString(t *testing.T) {
	tests := []struct{ raw, want string }{
		{"", ""},
		{"postgres://u:pw@h:5432/db?sslmode=require", "postgres://u:xxxxx@h:5432/db?sslmode=require"},
		{"postgresql://u:p%40w@h1:5432,h2:5433/db", "postgresql://u:xxxxx@h1:5432,h2:5433/db"},
		{"postgres://u@h/db", "postgres://u@h/db"},
		{"postgres:///db?host=/run/postgresql&user=u&password=pw", "postgres:///db?host=/run/postgresql&user=u&password=xxxxx"},
		{"postgres://h/db?pass%77ord=pw&sslpassword=pw;PASSWORD=pw", "postgres://h/db?pass%77ord=xxxxx&sslpassword=xxxxx;PASSWORD=xxxxx"},
		{"postgres://h/db?sslkey=/k.pem&passfile=/p&scram_client_key=pw", "postgres://h/db?sslkey=/k.pem&passfile=/p&scram_client_key=xxxxx"},
		{"postgres://h/db?password=a&b", "postgres://h/db?password=xxxxx&xxxxx"},
		{"postgres://u:p@w@[::1]:5432/db", "postgres://u:xxxxx@[::1]:5432/db"},
		{"postgres://u:p%zz@h/db", "postgres://xxxxx"},
		{"postgres://u:p/w@h/db", "postgres://xxxxx"},
		{"postgres://u:1/w@h/db", "postgres://xxxxx"},
		{"postgres://u:1?w@h/db", "postgres://xxxxx"},
		{"postgres://u:p#w@h/db", "postgres://xxxxx"},
		{"postgres://u:p w@h/db", "postgres://u:xxxxx@h/db"},
		{"POSTGRES://u:pw@h/db", "postgres://xxxxx"},
		{"redis://localhost:6379/0", "redis://localhost:6379/0"},
		{"redis://:pw@h:6379/0", "redis://:xxxxx@h:6379/0"},
		{"rediss://u:pw@h", "rediss://u:xxxxx@h"},
		{"redis://pw@h", "redis://xxxxx@h"},
		{"redis://@h", "redis://@h"},
		{"unix://u:pw@/run/redis.sock?db=1", "unix://u:xxxxx@/run/redis.sock?db=1"},
		{"redis+sentinel://u:pw@a:1,b:2/mymaster/0?sentinel_password=pw", "redis+sentinel://u:xxxxx@a:1,b:2/mymaster/0?sentinel_password=xxxxx"},
		{"secret://x", "xxxxx"},
		{"host=h user=u password=pw dbname=d", "host=h user=u password=xxxxx dbname=d"},
		{`host=h password='p \'w' user=u`, "host=h password=xxxxx user=u"},
		{`password = p\ w sslpassword=''`, "password = xxxxx sslpassword=xxxxx"},
		{"PASSWORD=pw", "PASSWORD=xxxxx"},
		{"host=h password=p w", "xxxxx"},
		{"host=h password=p w=1", "xxxxx"},
		{"host=h password='p' search_path=a", "host=h password=xxxxx search_path=a"},
		{"host=h password='p'w'", "xxxxx"},
		{"host=h password='pw", "xxxxx"},
		{`host=h password=pw\`, "xxxxx"},
		{"pw", "xxxxx"},
	}
	for _, tt := range tests {
		u := NewURL(tt.raw)
		if got := u.String(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.raw, got, tt.want)
		}
		if u.Reveal() != tt.raw || u.IsZero() != (tt.raw == "") {
			t.Errorf("%s: reveals %q, IsZero %v", tt.raw, u.Reveal(), u.IsZero())
		}
	}
}

// However a configuration is printed, the passwords stay in.
func TestConfigNeverPrintsPasswords(t *testing.T) {
	c, err := FromFlags("postgres://u:hunter2@h/db?sslpassword=hunter2", "redis://:hunter2@h", []string{"t"}, "")
	if err != nil {
		t.Fatal(err)
	}
	dsn := NewURL("host=h password='hunter2'")
	values := []any{c, *c, c.Source, c.Source.URL, &c.Source.URL, dsn, []URL{dsn}, map[string]URL{"a": dsn},
		struct{ u URL }{dsn}, &struct{ c *Config }{c}, struct{ c Config }{*c}, [][]struct{ u []URL }{{{[]URL{dsn}}}},
		fmt.Errorf("connect %v: %w", c.Sink.URL, errors.New("refused"))}
	for _, v := range values {
		for _, verb := range []string{"v", "s", "q", "d", "x", "X", "t", "U", "e", "p", "T"} {
			for _, flag := range []string{"", "+", "#", "-30", " ", "08.3"} {
				assertHidden(t, fmt.Sprintf("%"+flag+verb, v))
			}
		}
		assertHidden(t, fmt.Sprint(v))
		assertHidden(t, logged(v))
		if out, err := yaml.Marshal(v); err == nil {
			assertHidden(t, string(out))
		}
		if out, err := json.Marshal(v); err == nil {
			assertHidden(t, string(out))
		}
	}
	for format, want := range map[string]string{
		"%v": "redis://:xxxxx@h", "%q": `"redis://:xxxxx@h"`, "%#v": `"redis://:xxxxx@h"`, "%20s": "    redis://:xxxxx@h",
	} {
		if got := fmt.Sprintf(format, c.Sink.URL); got != want {
			t.Errorf("%s prints %s, want %s", format, got, want)
		}
	}
	if got := c.Sink.URL.GoString(); got != `"redis://:xxxxx@h"` {
		t.Errorf("GoString is %s", got)
	}
	if out, err := json.Marshal(c.Sink); err != nil || !strings.Contains(string(out), `"URL":"redis://:xxxxx@h"`) {
		t.Errorf("JSON is %s, %v", out, err)
	}
	if out, err := yaml.Marshal(c.Sink); err != nil || !strings.Contains(string(out), "url: redis://:xxxxx@h") {
		t.Errorf("YAML is %s, %v", out, err)
	}
}

func logged(v any) string {
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).With("with", v).Info("message", "value", v, slog.Group("group", "value", v))
	}
	return out.String()
}

func assertHidden(t *testing.T, out string) {
	t.Helper()
	for _, form := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), fmt.Sprintf("%q", []byte("hunter2"))} {
		if strings.Contains(out, form) {
			t.Errorf("the password is printed: %s", out)
		}
	}
}

func TestURLEqual(t *testing.T) {
	if !NewURL("a").Equal(NewURL("a")) || NewURL("redis://:a@h").Equal(NewURL("redis://:b@h")) || !NewURL("").Equal(URL{}) {
		t.Error("Equal does not compare the strings, passwords included")
	}
}
