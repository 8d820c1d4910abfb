package config

import (
	"slices"
	"strings"
)

// setting is one `keyword=value` of a Postgres connection string.
type setting struct {
	before  string // all text up to the value, the keyword and = included
	keyword string
	value   string // as written, quotes and escapes and all
	quoted  bool
}

// keywords are those that libpq and pgx know. Others are run-time parameters
// of the session.
var keywords = []string{"host", "hostaddr", "port", "dbname", "database", "user", "password", "passfile",
	"connect_timeout", "client_encoding", "options", "application_name", "fallback_application_name",
	"sslmode", "sslnegotiation", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslsni", "sslcertmode",
	"requiressl", "channel_binding", "require_auth", "gssencmode", "krbsrvname", "service", "servicefile",
	"target_session_attrs", "load_balance_hosts", "min_protocol_version", "max_protocol_version",
	"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	"search_path", "timezone", "statement_timeout", "lock_timeout"}

// dissectKeywords takes `host=h password='p w'` apart. The format is libpq's,
// "Keyword/Value Connection Strings" in its manual.
func dissectKeywords(raw string) anatomy {
	settings, ok := cutSettings(raw)
	var a anatomy
	var shown strings.Builder
	bare := false // the setting before was a secret without quotes, which may have had a space in it
	for _, s := range settings {
		secret := isSecret(s.keyword)
		if bare && !slices.Contains(keywords, s.keyword) {
			ok = false
		}
		shown.WriteString(s.before)
		if secret {
			shown.WriteString(mask)
			a.secrets = append(a.secrets, strings.Trim(s.value, "'"))
		} else {
			shown.WriteString(s.value)
		}
		bare = secret && !s.quoted
	}
	a.shown = shown.String()
	if !ok {
		a.shown = mask
		a.secrets = append(a.secrets, raw)
		a.problem = "is neither a URL nor `host=… user=… password=…` text; a value with a space stands in single quotes"
	}
	return a
}

// cutSettings cuts the string into its settings; ok is false when it is not
// made of settings alone.
func cutSettings(raw string) (list []setting, ok bool) {
	for rest := raw; strings.TrimSpace(rest) != ""; {
		equals := strings.IndexByte(rest, '=')
		if equals < 0 {
			return list, false
		}
		keyword := strings.TrimSpace(rest[:equals])
		if !isVariable(keyword) {
			return list, false
		}
		value := strings.TrimLeft(rest[equals+1:], " \t\r\n")
		s := setting{before: rest[:len(rest)-len(value)], keyword: strings.ToLower(keyword)}
		end, closed := valueEnd(value)
		if !closed {
			return list, false
		}
		s.value, s.quoted = value[:end], strings.HasPrefix(value, "'")
		list = append(list, s)
		rest = value[end:]
	}
	return list, len(list) > 0
}

// valueEnd is where the value at the start of s ends. A quoted one must be
// closed, with nothing but space behind it.
func valueEnd(s string) (end int, closed bool) {
	const space = " \t\r\n"
	quoted := strings.HasPrefix(s, "'")
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case quoted && c == '\'' && i > 0:
			return i + 1, i+1 == len(s) || strings.IndexByte(space, s[i+1]) >= 0
		case !quoted && strings.IndexByte(space, c) >= 0:
			return i, true
		}
	}
	return len(s), !quoted && !strings.HasSuffix(s, `\`)
}
