package config

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRedact(t *testing.T) {
	pg := NewURL("postgres://app:p%40ss%2Fword1@db/shop?sslpassword=other+one")
	redis := NewURL("redis://lonely@h")
	dsn := NewURL(`host=h password='it\'s \\here' user=app`)
	dev := NewURL("postgres://postgres:postgres@localhost/postgres")
	tests := []struct {
		name, text, want string
		secrets          []URL
	}{
		{"nothing to hide", "connection refused", "connection refused", []URL{pg, {}}},
		{"whole URL", "parse " + pg.Reveal() + ": bad", "parse " + pg.String() + ": bad", []URL{pg}},
		{"as written", "p%40ss%2Fword1", "xxxxx", []URL{pg}},
		{"decoded", "WRONGPASS p@ss/word1!", "WRONGPASS xxxxx!", []URL{pg}},
		{"parameter", `"other one" other+one other%20one`, `"xxxxx" xxxxx xxxxx`, []URL{pg}},
		{"user-only form", "user lonely unknown", "user xxxxx unknown", []URL{redis}},
		{"keyword and value", `it's \here or it\'s \\here or "it's \\here"`, `xxxxx or xxxxx or "xxxxx"`, []URL{dsn}},
		{"several", "lonely p@ss/word1", "xxxxx xxxxx", []URL{pg, redis}},
		{"same as the user", `FATAL: database "postgres" does not exist`, `FATAL: database "postgres" does not exist`, []URL{dev}},
		{"same as the user, in a URL", "dial " + dev.Reveal(), "dial postgres://postgres:xxxxx@localhost/postgres", []URL{dev}},
		{"unknown URL", "dial redis://:pw@h:1 and http://u:p:w@h", "dial redis://:xxxxx@h:1 and http://u:xxxxx@h", nil},
		{"unknown keyword", "host=h password=pw sslpassword='p w' x=y", "host=h password=xxxxx sslpassword=xxxxx x=y", nil},
		{"no password", `password authentication failed for user "u"`, `password authentication failed for user "u"`, nil},
		{"no password in URL", "GET http://h:80/x", "GET http://h:80/x", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Redact(tt.text, tt.secrets...); got != tt.want {
				t.Errorf("%s:\n got %s\nwant %s", tt.text, got, tt.want)
			}
		})
	}
}

// The generated passwords start with head and end with tail, which nothing
// else does, so that a part of one is noticed as well as the whole.
const head, tail = "Zq9", "7Kw"

func passwords(alphabet string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return head + rapid.StringOfN(rapid.RuneFrom([]rune(alphabet)), 0, 12, -1).Draw(t, "password") + tail
	})
}

const letters, special = "abZq97Kwü", `@:/?#[]%&=+;,'"\ !$()*-._~<>{}|^` + "`"

// connections makes connection strings that hold password, in every way that
// such strings can be read.
func connections(password string) []string {
	user, escaped := url.UserPassword("u", password), url.QueryEscape(password)
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
	bare := strings.NewReplacer(`\`, `\\`, ` `, `\ `, `'`, `\'`).Replace(password)
	return []string{
		"postgres://" + user.String() + "@h:5432/db?sslmode=disable",
		"postgresql://" + user.String() + "@h1,h2:5433/db",
		"postgres:///db?user=u&password=" + escaped + "&sslmode=require",
		"redis://" + url.User(password).String() + "@h/0",
		"redis+sentinel://" + user.String() + "@a:1,b:2/m?sentinel_password=" + escaped,
		"unix://" + user.String() + "@/run/redis.sock",
		"host=h password='" + quoted + "' user=u",
		"host=h user=u password=" + bare,
		"user=u password = " + bare + " dbname=d",
		// Not escaped as it should be.
		"postgres://u:" + password + "@h:5432/db",
		"redis://:" + password + "@h/0",
		"redis+cluster://u:" + password + "@a:1,b:2",
	}
}

func TestRedactionProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		password := passwords(letters+special).Draw(t, "password")
		for _, raw := range connections(password) {
			u := NewURL(raw)
			out := fmt.Sprintf("%v %+v %#v %q", u, u, u, u)
			if strings.Contains(out, head) || strings.Contains(out, tail) {
				t.Errorf("%s is printed %s", raw, out)
			}
			text := rapid.SampledFrom(messages(raw, password)).Draw(t, "text")
			if got := Redact(text, u); strings.Contains(got, head) || strings.Contains(got, tail) {
				t.Errorf("with %s, %s is redacted to %s", raw, text, got)
			}
		}
	})
}

// messages are errors such as drivers write.
func messages(raw, password string) []string {
	return []string{
		"cannot parse `" + raw + "`: failed to parse as URL",
		fmt.Sprintf("parse %q: invalid port", raw),
		"WRONGPASS invalid password " + password,
		fmt.Sprintf("user=u password=%q: denied", password),
		"auth " + url.QueryEscape(password) + " and " + url.PathEscape(password) + " and " + url.UserPassword("", password).String(),
	}
}
