package config

import (
	"fmt"
	"log/slog"
)

// Mask says what a column's values are replaced by in all that is published.
type Mask struct {
	Column Name
	Kind   MaskKind
	Key    Secret // of MaskHash: at least 16 bytes
	Text   string // of MaskRedact; default ***
	Keep   int    // of MaskTruncate and MaskLast: 1 to 1000
}

// MaskKind is a way to mask.
type MaskKind string

// The ways to mask.
const (
	MaskHash     MaskKind = "hash"
	MaskRedact   MaskKind = "redact"
	MaskTruncate MaskKind = "truncate"
	MaskLast     MaskKind = "last"
)

const (
	minMaskKey = 16
	maxKeep    = 1000
	redacted   = "***"
)

// Secret is a text that is never shown: however it is printed, logged or marshalled, it reads
// xxxxx. The zero Secret is none.
type Secret struct{ text *string } // fmt does not follow a pointer inside a struct

// NewSecret wraps a text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal is the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

func (s Secret) String() string {
	if s.text == nil {
		return ""
	}
	return mask
}

// Equal reports whether two secrets are the same, for go-cmp.
func (s Secret) Equal(o Secret) bool { return s.Reveal() == o.Reveal() }

// Format prints String under every verb and flag.
func (s Secret) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), s.String())
}

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for JSON, YAML and what else asks for text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// masks reads how columns are masked, by their names. No value is shown in an error: it may be a key.
func (r *reader) masks(path string, n *node) []Mask {
	if !r.isMapping(path, n, "columns with how they are masked, such as `email: redact`") {
		return nil
	}
	var masks []Mask
	for _, e := range n.entries {
		at := join(path, e.name)
		if badIdentifier(e.name) {
			r.fail(e.at, at, "the column %s cannot be a name in Postgres; write 1 to 63 bytes, without line breaks and without spaces at the ends", show(e.name))
		}
		m := Mask{Column: Name{e.name, e.at}, Text: redacted}
		r.mask(at, e.value, &m)
		masks = append(masks, m)
	}
	return masks
}

const maskForms = "`redact`, or one of `{hash: \"${MASK_KEY}\"}`, `{redact: \"***\"}`, `{truncate: 4}` and `{last: 4}`"

func (r *reader) mask(path string, n *node, m *Mask) {
	switch {
	case n.kind == kindBad:
		return
	case n.kind == kindText && n.text == string(MaskRedact):
		m.Kind = MaskRedact
		return
	case n.kind != kindMapping:
		r.fail(n.at, path, "want %s", maskForms)
		return
	}
	as := func(kind MaskKind, read readFunc) field {
		return field{name: string(kind), read: func(path string, n *node) {
			if m.Kind != "" {
				r.fail(n.owner, path, "a column is masked in one way; keep one of `%s` and `%s`", m.Kind, kind)
				return
			}
			m.Kind = kind
			read(path, n)
		}}
	}
	keep := func(path string, n *node) { integer(r, path, n, &m.Keep, 1, maxKeep) }
	r.mapping(path, n,
		as(MaskHash, func(path string, n *node) { r.secret(path, n, &m.Key, minMaskKey, "MASK_KEY") }),
		as(MaskRedact, func(path string, n *node) {
			if text, ok := r.text(path, n, "the text that stands for each value"); ok {
				m.Text = text
			}
		}),
		as(MaskTruncate, keep),
		as(MaskLast, keep),
	)
	if len(n.entries) == 0 {
		r.fail(n.at, path, "it does not say how to mask; write %s", maskForms)
	}
}

// secret reads a key of at least so many bytes; variable is what to call it.
func (r *reader) secret(path string, n *node, dst *Secret, least int, variable string) {
	if n.kind == kindNumber || n.kind == kindBool {
		r.fail(n.at, path, "want a key, got %s; put it into a variable and write \"${%s}\"", n.kind, variable)
		return
	}
	text, ok := r.text(path, n, "a key")
	if !ok {
		return
	}
	if len(text) < least {
		r.fail(n.at, path, "the key has %d bytes and needs at least %d, or it can be guessed; make one with `openssl rand -hex 32`, and write \"${%s}\" here", len(text), least, variable)
		return
	}
	*dst = NewSecret(text)
}
