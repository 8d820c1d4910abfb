package config

import (
	"fmt"
	"log/slog"
)

// URL is a connection string, which may hold a password: a URL or, for
// Postgres, keyword/value text. However it is printed, logged or marshalled,
// its passwords read xxxxx; only Reveal gives them away. The zero URL is none.
type URL struct {
	// A function, because fmt prints a URL in another type's unexported field
	// without asking its methods, and a pointer's target under some verbs,
	// but of a function only the address. Nil is the zero URL.
	open func() connection
}

type connection struct {
	raw     string
	anatomy anatomy
}

// NewURL wraps a connection string. It does not check it.
func NewURL(raw string) URL {
	if raw == "" {
		return URL{}
	}
	c := connection{raw, dissect(raw)}
	return URL{func() connection { return c }}
}

// Reveal is the connection string with its passwords: for connecting only.
func (u URL) Reveal() string {
	if u.open == nil {
		return ""
	}
	return u.open().raw
}

// String is the connection string with xxxxx for its passwords, and for
// everything after the scheme when it cannot be told what is a password.
func (u URL) String() string {
	if u.open == nil {
		return ""
	}
	return u.open().anatomy.shown
}

// IsZero reports whether there is no connection string.
func (u URL) IsZero() bool { return u.open == nil }

// Equal reports whether two connection strings are the same, passwords
// included. go-cmp uses it; == does not compile.
func (u URL) Equal(v URL) bool { return u.Reveal() == v.Reveal() }

// GoString is String, quoted.
func (u URL) GoString() string { return fmt.Sprintf("%q", u.String()) }

// Format prints String under every verb and flag.
func (u URL) Format(s fmt.State, verb rune) {
	_, _ = fmt.Fprintf(s, fmt.FormatString(s, verb), u.String())
}

// LogValue is String, for slog.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText is String, for JSON, YAML and what else asks for text.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// MarshalYAML is String.
func (u URL) MarshalYAML() (any, error) { return u.String(), nil }
