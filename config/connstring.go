package config

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// mask stands for a password.
const mask = "xxxxx"

// anatomy is what a connection string is made of, as far as its passwords are
// concerned. It does not stand in for the drivers' parsers, which read the
// original; where they may see a password that it cannot place, it hides all.
type anatomy struct {
	scheme  string   // in lower case; "" for keyword/value text
	hosts   string   // with their ports
	path    string   // with its slash
	shown   string   // the string without its passwords
	secrets []string // the passwords as written, escapes and all
	problem string   // why no driver can read it, "" when nothing is in the way
}

var schemePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

func dissect(raw string) anatomy {
	if schemePattern.MatchString(raw) {
		return dissectURL(raw)
	}
	return dissectKeywords(raw)
}

// knownSchemes are those that an error or a redacted URL may show. Text that
// only looks like a scheme might be anything.
var knownSchemes = []string{"postgres", "postgresql", "redis", "rediss", "unix", "redis+sentinel", "redis+cluster",
	"rediss+sentinel", "rediss+cluster", "valkey", "valkeys", "mysql", "mariadb", "mongodb", "http", "https", "jdbc", "tcp"}

const escapeAdvice = "write `@`, `:`, `/`, `?`, `#` and `%` in a user name or password as %40, %3A, %2F, %3F, %23 and %25"

func dissectURL(raw string) anatomy {
	scheme, rest, _ := strings.Cut(raw, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	user, hosts := "", rest[:end]
	at := strings.LastIndex(hosts, "@")
	if at >= 0 {
		user, hosts = hosts[:at], hosts[at+1:]
	}
	path, query, hasQuery := strings.Cut(rest[end:], "?")
	a := anatomy{scheme: strings.ToLower(scheme), hosts: hosts, path: path}
	a.problem = urlProblem(user, hosts, path, query)
	if scheme != a.scheme {
		a.problem = "has capitals in its scheme; write it in lower case"
	}
	// A raw @ further on may be where an unescaped password ends.
	if a.problem != "" || strings.Contains(query, "@") || !slices.Contains(knownSchemes, a.scheme) {
		return a.hidden(rest)
	}
	shown := scheme + "://"
	if at >= 0 {
		name, password, hasPassword := strings.Cut(user, ":")
		switch {
		case hasPassword:
			shown += name + ":" + mask + "@"
			a.secrets = append(a.secrets, password)
		case user != "" && a.scheme != "postgres" && a.scheme != "postgresql":
			// redis://password@host is written by mistake, and by some clients on purpose.
			shown += mask + "@"
			a.secrets = append(a.secrets, user)
		default:
			shown += user + "@"
		}
	}
	shown += hosts + path
	if hasQuery {
		shown += "?" + a.query(query)
	}
	a.shown = shown
	return a
}

// hidden gives up on telling passwords from the rest, rest being what
// follows the scheme.
func (a anatomy) hidden(rest string) anatomy {
	a.shown = mask
	if slices.Contains(knownSchemes, a.scheme) {
		a.shown = a.scheme + "://" + mask
	}
	a.secrets = append(a.secrets, rest)
	if user, _, ok := cutLast(rest, "@"); ok {
		_, password, _ := strings.Cut(user, ":")
		a.secrets = append(a.secrets, user, password)
	}
	return a
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// query shows a URL's parameters without the secret ones.
func (a *anatomy) query(query string) string {
	var b strings.Builder
	for query != "" {
		part, sep := query, ""
		if i := strings.IndexAny(query, "&;"); i >= 0 {
			part, sep = query[:i], query[i:i+1]
		}
		query = query[len(part)+len(sep):]
		name, value, ok := strings.Cut(part, "=")
		switch {
		case part == "":
		case !ok || isSecret(name):
			if ok {
				b.WriteString(name + "=")
			} else {
				value = part // the end of a password with an & in it, for all we know
			}
			b.WriteString(mask)
			a.secrets = append(a.secrets, value)
		default:
			b.WriteString(part)
		}
		b.WriteString(sep)
	}
	return b.String()
}

// isSecret reports whether a parameter's value is hidden. Names of files are
// shown: they are wanted when a file is missing.
func isSecret(name string) bool {
	if decoded, err := url.QueryUnescape(name); err == nil {
		name = decoded
	}
	name = strings.ToLower(name)
	if name == "passfile" || name == "sslkey" || strings.HasSuffix(name, "_file") {
		return false
	}
	return slices.ContainsFunc([]string{"pass", "pwd", "secret", "token", "key", "cred"},
		func(word string) bool { return strings.Contains(name, word) })
}

var (
	badEscape   = regexp.MustCompile(`%(?:$|[^0-9A-Fa-f]|[0-9A-Fa-f](?:$|[^0-9A-Fa-f]))`)
	hostPattern = regexp.MustCompile(`^(?:\[[0-9A-Fa-f:.%a-z]*\]|[^\s\[\]@:"<>\\^{|}` + "`" + `]*)(?::[0-9]*)?$`)
)

// urlProblem says why the parts cannot be those of a URL. It repeats nothing
// of them.
func urlProblem(user, hosts, path, query string) string {
	for _, host := range strings.Split(hosts, ",") {
		if !hostPattern.MatchString(host) {
			return "has a host or port that cannot be one; " + escapeAdvice
		}
	}
	switch {
	case strings.Contains(path, "@"):
		return "has an `@` after the host; " + escapeAdvice
	case strings.Contains(path, "#") || strings.Contains(query, "#"):
		return "has a `#`; " + escapeAdvice
	case slices.ContainsFunc([]string{user, hosts, path, query}, badEscape.MatchString):
		return "has a `%` that two hexadecimal digits do not follow; " + escapeAdvice
	}
	return ""
}
