package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// url reads a connection string that check accepts. No error repeats any of it.
func (r *reader) url(dst *URL, check func(anatomy) string) readFunc {
	return func(path string, n *node) {
		if r.unconnected && n.kind == kindText {
			return
		}
		if n.kind == kindNumber || n.kind == kindBool {
			r.fail(n.at, path, "want a URL, got %s", n.kind)
			return
		}
		raw, ok := r.text(path, n, "a URL")
		if !ok {
			return
		}
		if msg := checkAddress(raw, check); msg != "" {
			if n.text != raw {
				msg += "; look at what its variables hold"
			}
			r.fail(n.at, path, "the URL %s", msg)
		}
		*dst = NewURL(raw)
	}
}

// checkAddress gives "" for a connection string that a driver may try, and
// otherwise what is wrong with it, without a word of it.
func checkAddress(raw string, check func(anatomy) string) string {
	switch {
	case strings.TrimSpace(raw) == "":
		return "is empty; " + check(anatomy{})
	case strings.TrimSpace(raw) != raw || strings.ContainsFunc(raw, unicode.IsControl):
		return "holds a line break, or a space at one end; remove it"
	}
	return check(dissect(raw))
}

// checkSource checks the address of the database.
func checkSource(a anatomy) string {
	const want = "write `postgres://user:password@host:5432/database`"
	switch {
	case a.scheme == "postgres" || a.scheme == "postgresql":
		if a.problem == "" && a.hosts == "" && a.path == "" && a.shown == a.scheme+"://" {
			return "names no database; " + want
		}
		return a.problem
	case a.scheme != "":
		return wrongScheme(a.scheme, want)
	case a.shown == "":
		return want
	}
	return a.problem
}

// sinkSchemes are those that package sink reads; errors offer the first five.
var sinkSchemes = []string{"redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "rediss+sentinel", "rediss+cluster"}

// checkSink checks the address of Redis.
func checkSink(a anatomy) string {
	want := "write `redis://host:6379/0`, or one that starts with " + enumerateSchemes(sinkSchemes[1:5])
	switch {
	case a.scheme == "":
		if a.shown == "" {
			return want
		}
		return "has no scheme; " + want
	case !slices.Contains(sinkSchemes, a.scheme):
		return wrongScheme(a.scheme, want)
	case a.problem != "":
		return a.problem
	case a.scheme == "unix" && len(a.path) < 2:
		return "names no socket; write `unix:///run/redis.sock`"
	case a.scheme != "unix" && strings.Trim(a.hosts, ",") == "":
		return "names no host; " + want
	case strings.HasSuffix(a.scheme, "+sentinel") && strings.Trim(a.path, "/") == "":
		return "names no master; write `redis+sentinel://host:26379,host:26379/mymaster/0`"
	}
	return ""
}

func enumerateSchemes(schemes []string) string {
	full := make([]string, len(schemes))
	for i, s := range schemes {
		full[i] = s + "://"
	}
	return enumerate(full, "or")
}

// wrongScheme names the scheme only when it is one: it may be a password.
func wrongScheme(scheme, want string) string {
	if !slices.Contains(knownSchemes, scheme) {
		return "has a scheme that cannot be used here; " + want
	}
	swapped := ""
	if slices.Contains(sinkSchemes, scheme) || strings.HasPrefix(scheme, "postgres") {
		swapped = " (are `source` and `sink` swapped?)"
	}
	return fmt.Sprintf("starts with `%s://`%s; %s", scheme, swapped, want)
}
