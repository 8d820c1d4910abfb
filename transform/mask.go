package transform

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/walrill/walrill/change"
)

// Mask says what a column's values are replaced by before anything is made of them that is
// published. The result is a string; NULL stays NULL, and what Postgres did not send stays so.
type Mask struct {
	Column Name
	Kind   MaskKind
	Key    []byte // of MaskHash
	Text   string // of MaskRedact
	Keep   int    // of MaskTruncate and MaskLast, at least 1
}

// MaskKind is a way to mask. It is the word that the catalogue says of a column.
type MaskKind string

// The ways to mask the text that Postgres prints of a value.
const (
	MaskHash     MaskKind = "hash"     // HMAC-SHA-256 in 64 hexadecimal digits: equal values stay equal
	MaskRedact   MaskKind = "redact"   // Text for every value
	MaskTruncate MaskKind = "truncate" // its first Keep characters
	MaskLast     MaskKind = "last"     // its last Keep letters and digits, * for the others; separators stay
	maskEncrypt  MaskKind = "encrypt"  // see Encrypt
)

// masker is what a stream sees of a table of which columns are masked: a relation where
// these are text, and rows with the masked values.
type masker struct {
	rel       *change.Relation
	appenders []appender // of each column
	columns   []maskedColumn
	subjects  *subjects // whose keys columns are encrypted by; nil when none are

	// of the present change
	shown    change.Change
	new, old []change.Value
	buf      []byte
}

type maskedColumn struct {
	index int
	kind  MaskKind
	where string
	mask  func(dst, text []byte) []byte // nil: it is encrypted
	name  string
}

// newMasker is nil without masks. The errors are what does not fit the table.
func newMasker(rel *change.Relation, tm *TableMapping, keys *sealers) (*masker, []*Error) {
	if len(tm.Masks) == 0 && tm.Encrypt == nil {
		return nil, nil
	}
	masked := *rel
	masked.Columns = slices.Clone(rel.Columns)
	m := &masker{rel: &masked}
	var errs []*Error
	for i := range tm.Masks {
		errs = append(errs, m.add(tm.Masks[i].Column, tm.Masks[i].Kind, tm.Masks[i].function())...)
	}
	if tm.Encrypt != nil {
		errs = append(errs, m.encrypt(tm.Encrypt, keys)...)
	}
	for _, c := range masked.Columns {
		m.appenders = append(m.appenders, encoding{}.appender(c.Type))
	}
	return m, errs
}

func (m *masker) add(column Name, kind MaskKind, mask func(dst, text []byte) []byte) []*Error {
	i := m.rel.Column(column.Name)
	if i < 0 {
		return []*Error{unknownColumn(m.rel, column.Where, "column", column.Name)}
	}
	m.rel.Columns[i].Type = nil // its text
	m.columns = append(m.columns, maskedColumn{i, kind, column.Where, mask, column.Name})
	return nil
}

// seen is the relation that is seen in place of rel.
func (m *masker) seen(rel *change.Relation) *change.Relation {
	if m == nil {
		return rel
	}
	return m.rel
}

// of is the change as it may be published, valid until the next call. Without masks it is the change itself.
func (m *masker) of(c *change.Change) *change.Change {
	if m == nil {
		return c
	}
	if m.buf = m.buf[:0]; cap(m.buf) > maxSpare {
		m.buf = nil
	}
	m.shown = *c
	m.shown.Relation = m.rel
	m.shown.New, m.shown.Old = m.row(&m.new, c.New, c.Old), m.row(&m.old, c.Old, nil)
	return &m.shown
}

func (m *masker) row(dst *[]change.Value, row, before []change.Value) []change.Value {
	if row == nil {
		return nil
	}
	*dst = append((*dst)[:0], row...)
	var seal sealing
	if m.subjects != nil {
		seal = m.subjects.of(row, before)
	}
	for i := range m.columns {
		c := &m.columns[i]
		v := &(*dst)[c.index]
		if c.mask == nil && m.subjects.passOn(row, before, c.index) {
			*v = before[c.index]
		}
		if v.Kind == change.Text {
			start := len(m.buf)
			if c.mask != nil {
				m.buf = c.mask(m.buf, v.Data)
			} else {
				m.buf = seal.append(m.buf, c.name, v.Data)
			}
			v.Data = m.buf[start:]
		}
	}
	return *dst
}

// kindOf is how a column is masked, or "".
func (m *masker) kindOf(column int) MaskKind {
	if m != nil {
		for i := range m.columns {
			if m.columns[i].index == column {
				return m.columns[i].kind
			}
		}
	}
	return ""
}

// mask is a value as the column's mask shows it, which is not encrypted.
func (m *masker) mask(column int, text []byte) []byte {
	for i := range m.columns {
		if c := &m.columns[i]; c.index == column {
			return c.mask(nil, text)
		}
	}
	return text
}

// parked says which of the columns are masked, and how; nil when none is.
func (m *masker) parked(columns []int) map[string]string {
	var masked map[string]string
	for _, i := range columns {
		if kind := m.kindOf(i); kind != "" {
			if masked == nil {
				masked = map[string]string{}
			}
			masked[m.rel.Columns[i].Name] = string(kind)
		}
	}
	return masked
}

// checkKey refuses a key of columns whose values can become the same by their masks.
func (m *masker) checkKey(k *keyer) (errs []*Error) {
	if m == nil {
		return nil
	}
	for i := range m.columns {
		c := &m.columns[i]
		if c.kind == MaskHash || !slices.Contains(k.reads(), c.index) {
			continue
		}
		why := fmt.Sprintf("with the mask %s rows that differ would have one key", c.kind)
		if c.kind == maskEncrypt {
			why = "encrypted its events would be under another key from the day on that its subject is forgotten"
		}
		errs = append(errs, &Error{Where: c.where, Table: m.rel.String(), Columns: []string{c.name},
			Problem: fmt.Sprintf("column %s is part of the key, and %s", c.name, why),
			Fix:     fmt.Sprintf("mask it with %s: {hash: \"${MASK_KEY}\"}, or choose another key", c.name)})
	}
	return errs
}

func (m *Mask) function() func(dst, text []byte) []byte {
	switch m.Kind {
	case MaskHash:
		return (&hasher{mac: hmac.New(sha256.New, m.Key)}).append
	case MaskTruncate:
		return func(dst, text []byte) []byte { return append(dst, text[:firstCharacters(text, m.Keep)]...) }
	case MaskLast:
		return func(dst, text []byte) []byte { return appendLast(dst, text, m.Keep) }
	}
	return func(dst, _ []byte) []byte { return append(dst, m.Text...) }
}

// hasher makes tokens of values.
type hasher struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func (h *hasher) append(dst, text []byte) []byte {
	h.mac.Reset()
	h.mac.Write(text)
	return hex.AppendEncode(dst, h.mac.Sum(h.sum[:0]))
}

// firstCharacters is how many bytes the first n characters have.
func firstCharacters(text []byte, n int) int {
	end := 0
	for ; n > 0 && end < len(text); n-- {
		_, size := utf8.DecodeRune(text[end:])
		end += size
	}
	return end
}

// appendLast writes * for all characters but separators and the last n others. A text
// that has no more than n of them has none of them left: it would be there whole.
func appendLast(dst, text []byte, n int) []byte {
	hide := -n
	for _, c := range string(text) {
		if !isSeparator(c) {
			hide++
		}
	}
	if hide <= 0 {
		hide = len(text)
	}
	for _, c := range string(text) {
		switch {
		case isSeparator(c):
			dst = utf8.AppendRune(dst, c)
		case hide > 0:
			dst = append(dst, '*')
			hide--
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return dst
}

// isSeparator takes everything outside ASCII for a part of the value.
func isSeparator(c rune) bool {
	return c < utf8.RuneSelf && !unicode.IsLetter(c) && !unicode.IsDigit(c)
}

// validate refuses what no table is needed to see.
func (m *Mask) validate() string {
	switch m.Kind {
	case MaskHash:
		if len(m.Key) < MinMaskKey {
			return fmt.Sprintf("the key has %d bytes, and less than %d can be guessed", len(m.Key), MinMaskKey)
		}
	case MaskTruncate, MaskLast:
		if m.Keep < 1 {
			return "it keeps no character: write redact"
		}
	case MaskRedact:
	default:
		return "there is no mask " + strings.TrimSpace(string(m.Kind))
	}
	return ""
}

// MinMaskKey is the length in bytes of the shortest key of a hash.
const MinMaskKey = 16
