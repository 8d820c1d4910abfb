package event

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// A sealed value is text that only who has its subject's key can read:
//
//	walrill:enc:1:<subject>:<nonce and ciphertext>
//
// Both parts are base64url without padding. The cipher is AES-256-GCM with a nonce of 12 bytes; the associated data is all
// that stands before the ciphertext, its colon included. With HMAC-SHA-256 the subject's key gives two: that of the cipher
// for the text "walrill enc 1 cipher", that of nonces for "walrill enc 1 nonce".
//
// A change that is read again must give the same entry, so nothing is random: the nonce is the first 12 bytes of the HMAC of
// the column's name, a zero byte and the value. Two nonces are the same when column and value are, and then so
// is the ciphertext; else only if 96 bits of a HMAC collide. So a nonce is never used for two texts, and what shows is
// that a column of a subject had this value before.

// SealPrefix is what sealed values start with.
const SealPrefix = "walrill:enc:1:"

var sealEncoding = base64.RawURLEncoding.Strict()

// Sealer seals and opens the values of one subject. It is not safe for concurrent use.
type Sealer struct {
	aead   cipher.AEAD
	nonces hash.Hash
	prefix []byte // up to the ciphertext: the associated data

	sum [sha256.Size]byte
	buf []byte
}

// ErrNoKey is that a subject never had a key.
var ErrNoKey = errors.New("the subject has no key")

// Forgotten stands for the values of a subject whose key was destroyed.
const Forgotten = "[forgotten]"

// SubjectKeySize is the length of a subject's key in bytes.
const SubjectKeySize = 32

// NewSealer returns the sealer of a subject, such as customer/7.
func NewSealer(subject string, key []byte) (*Sealer, error) {
	if len(key) != SubjectKeySize {
		return nil, fmt.Errorf("the key of a subject has %d bytes, not %d", len(key), SubjectKeySize)
	}
	block, err := aes.NewCipher(derived(key, "walrill enc 1 cipher"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	prefix := sealEncoding.AppendEncode([]byte(SealPrefix), []byte(subject))
	return &Sealer{aead: aead, nonces: hmac.New(sha256.New, derived(key, "walrill enc 1 nonce")), prefix: append(prefix, ':')}, nil
}

func derived(key []byte, use string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(use))
	return mac.Sum(nil)
}

// Append appends the value of a column, sealed, to dst. It must not alias the value.
func (s *Sealer) Append(dst []byte, column string, value []byte) []byte {
	s.nonces.Reset()
	s.buf = append(append(s.buf[:0], column...), 0)
	s.nonces.Write(s.buf)
	s.nonces.Write(value)
	nonce := s.nonces.Sum(s.sum[:0])[:s.aead.NonceSize()]
	s.buf = s.aead.Seal(append(s.buf[:0], nonce...), nonce, value, s.prefix)
	return sealEncoding.AppendEncode(append(dst, s.prefix...), s.buf)
}

var errNotSealed = errors.New("not a sealed value")

// SealedSubject is whose key opens a sealed value; ok is false for any other text.
func SealedSubject(text string) (subject string, ok bool) {
	rest, ok := strings.CutPrefix(text, SealPrefix)
	encoded, _, colon := strings.Cut(rest, ":")
	if !ok || !colon {
		return "", false
	}
	decoded, err := sealEncoding.DecodeString(encoded)
	return string(decoded), err == nil
}

// Open gives the value that was sealed. It fails when the text was changed, or sealed by another key or for another subject.
func (s *Sealer) Open(text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, string(s.prefix))
	if !ok {
		return nil, errNotSealed
	}
	sealed, err := sealEncoding.DecodeString(encoded)
	n := s.aead.NonceSize()
	if err != nil || len(sealed) < n {
		return nil, errNotSealed
	}
	value, err := s.aead.Open(nil, sealed[:n], sealed[n:], s.prefix)
	if err != nil {
		return nil, errors.New("the sealed value was changed, or its key is another one")
	}
	return value, nil
}
