package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/walrill/walrill/event"
)

// Decrypter reads what was published encrypted. It is not safe for concurrent use.
type Decrypter struct {
	key     func(ctx context.Context, subject string) ([]byte, error)
	sealers map[string]*event.Sealer
}

// NewDecrypter returns a Decrypter that gets the keys of subjects from key, such as Find of a keys.Store: nil for a subject that was
// forgotten, event.ErrNoKey for one that it does not know. Keys are kept for as long as the Decrypter is, some thousands of them.
func NewDecrypter(key func(ctx context.Context, subject string) ([]byte, error)) *Decrypter {
	return &Decrypter{key: key, sealers: map[string]*event.Sealer{}}
}

const maxSealers = 4096

// JSON gives JSON text, such as an event's Data or Old or a whole entry, with its encrypted strings decrypted; event.Forgotten stands
// for those of a subject that was forgotten. A string that only looks encrypted, which no key opens, stays as it is.
// The error is one of key.
func (d *Decrypter) JSON(ctx context.Context, data []byte) ([]byte, error) {
	var out []byte
	for {
		start := bytes.Index(data, []byte(`"`+event.SealPrefix))
		if start < 0 {
			break
		}
		length := bytes.IndexByte(data[start+1:], '"')
		if length < 0 {
			break
		}
		end := start + 1 + length + 1
		out = append(out, data[:start]...)
		value, ok, err := d.open(ctx, string(data[start+1:end-1]))
		if err != nil {
			return nil, err
		}
		if ok {
			out = event.AppendJSON(out, value)
		} else {
			out = append(out, data[start:end]...)
		}
		data = data[end:]
	}
	return append(out, data...), nil
}

func (d *Decrypter) open(ctx context.Context, text string) (value []byte, ok bool, err error) {
	subject, ok := event.SealedSubject(text)
	if !ok {
		return nil, false, nil
	}
	s, known := d.sealers[subject]
	if !known {
		key, err := d.key(ctx, subject)
		switch {
		case errors.Is(err, event.ErrNoKey):
			return nil, false, nil
		case err != nil:
			return nil, false, fmt.Errorf("decrypt: %w", err)
		case key != nil:
			if s, err = event.NewSealer(subject, key); err != nil {
				return nil, false, fmt.Errorf("decrypt: %w", err)
			}
		}
		if len(d.sealers) >= maxSealers {
			clear(d.sealers)
		}
		d.sealers[subject] = s
	}
	if s == nil {
		return []byte(event.Forgotten), true, nil
	}
	value, err = s.Open(text)
	return value, err == nil, nil
}
