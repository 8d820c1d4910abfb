package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walrill/walrill/event"
)

func TestExpand(t *testing.T) {
	env := environment(map[string]string{"A": "a", "EMPTY": "", "NEST": "${A}"})
	tests := []struct {
		in, want string
		problems int
	}{
		{"", "", 0},
		{"plain $ $A $$ {A} }", "plain $ $A $$ {A} }", 0},
		{"${A}${A}-${A}", "aa-a", 0},
		{"${EMPTY}|${EMPTY:-b}|${NONE:-}|${NONE:-b:-c}", "|b||b:-c", 0},
		{"$${A} $$${A}", "${A} $${A}", 0},
		{"${NEST}", "${A}", 0},
		{"${NONE} ${NONE2}", "", 2},
		{"${A", "", 1},
		{"${} ${1} ${a-b} ${A:b}", "", 4},
		{"${NONE:-${A}}", "", 1},
	}
	for _, tt := range tests {
		got, _, problems := expand(tt.in, env)
		if len(problems) != tt.problems || tt.problems == 0 && got != tt.want {
			t.Errorf("%s: got %q with problems %q, want %q with %d", tt.in, got, problems, tt.want, tt.problems)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"0": 0, "5s": 5 * time.Second, "1h30m": 90 * time.Minute, "7d": 7 * day, "1d12h": 36 * time.Hour,
		"0.5d": 12 * time.Hour, "-2d": -2 * day, "36500d": 36500 * day, "1d0s": day,
	} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "d", "5", "1d5", "1h1d", "1d1d", "1d-1h", "NaNd", "Infd", "1e300d", "106752d", "1 d", "7days"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("%s: got %v, want an error", in, got)
		}
	}
	if d, err := parseDuration("106751d23h47m16s"); err != nil || d < 0 {
		t.Errorf("the longest: %v, %v", d, err)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"partitions", "tables", "max_age", "key"}
	for got, want := range map[string]string{
		"partition": "partitions", "parititons": "partitions", "Tables": "tables", "max-age": "max_age", "maxage": "max_age",
		"kye": "key", "ke": "key", "k": "", "cat": "", "": "", "something else": "", strings.Repeat("a", 1000): "",
	} {
		if near := Nearest(got, names); near != want {
			t.Errorf("%s: nearest is %q, want %q", got, near, want)
		}
	}
}

func TestTablePattern(t *testing.T) {
	for in, want := range map[string]string{
		"orders": "public.orders", "shop.orders": "shop.orders", "shop.*": "shop.*", "Shop.Order Lines": "Shop.Order Lines", "é.ü": "é.ü",
	} {
		if got, msg := tablePattern(in); got != want || msg != "" {
			t.Errorf("%s: got %s, %q, want %s", in, got, msg, want)
		}
	}
}

// Collisions are looked for among the keys that events really go to.
func TestKeysAreThoseOfEvents(t *testing.T) {
	for _, n := range []int{1, 2, 12} {
		s := Stream{Name: "orders", Partitions: n}
		if got, want := s.keys(), event.NewStream("orders", n).Keys; !slices.Equal(got, want) {
			t.Errorf("%d partitions: %v, but package event has %v", n, got, want)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	tests := []struct {
		raw          string
		source, sink bool // whether it will do
	}{
		{"postgres://u:p@h/db", true, false},
		{"postgresql://u@h1:5432,h2/db?target_session_attrs=primary", true, false},
		{"postgres:///db?host=/run/postgresql", true, false},
		{"postgres://u@%2Frun%2Fpostgresql/db", true, false},
		{"postgres://h/db?user=me@azure", true, false},
		{"postgres://[::1]:5432/db", true, false},
		{"postgres://", false, false},
		{"postgres://u:p/w@h/db", false, false},
		{"postgres://u:p%w@h/db", false, false},
		{"host=h dbname=d", true, false},
		{"host=h password=a b", false, false},
		{"localhost:5432", false, false},
		{"mysql://h/db", false, false},
		{"redis://h", false, true},
		{"rediss://u:p@h:6379/0", false, true},
		{"redis://my_host-1.example:6379", false, true},
		{"unix:///run/redis.sock?db=1", false, true},
		{"unix://", false, false},
		{"redis://", false, false},
		{"redis:///0", false, false},
		{"redis+sentinel://a:1,b:2/m/0", false, true},
		{"rediss+sentinel://u:p@a/m", false, true},
		{"redis+sentinel://a:1,b:2", false, false},
		{"redis+sentinel://a:1,b:2/", false, false},
		{"rediss+cluster://a", false, true},
		{"redis+cluster://u:p@a:1,b:2", false, true},
		{"redis+cluster://", false, false},
		{"redis+tls://h", false, false},
		{"redis://h:port", false, false},
		{"redis://h\n", false, false},
		{" redis://h", false, false},
		{"", false, false},
		{"  ", false, false},
	}
	for _, tt := range tests {
		if msg := checkAddress(tt.raw, checkSource); (msg == "") != tt.source {
			t.Errorf("source %q: %q", tt.raw, msg)
		}
		if msg := checkAddress(tt.raw, checkSink); (msg == "") != tt.sink {
			t.Errorf("sink %q: %q", tt.raw, msg)
		}
	}
}
