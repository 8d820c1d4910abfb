package bridge

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// keyedMapper maps once it was given the key of a subject.
type keyedMapper struct {
	fakeMapper
	given *[]string
}

func (m keyedMapper) Map(c *change.Change) ([]event.Event, error) {
	if len(*m.given) == 0 {
		return nil, keyError{m.given}
	}
	return m.fakeMapper.Map(c)
}

type keyError struct{ given *[]string }

func (keyError) Error() string    { return "a key is needed" }
func (keyError) NeedsKey() string { return "customer/7" }
func (e keyError) Give(key []byte) error {
	*e.given = append(*e.given, string(key))
	return nil
}

// A key that a mapper needs is looked up, and in the next session when that fails; then the change is published.
func TestRunGivesKeys(t *testing.T) {
	failing, stream, pub := newFakeStream(transaction(200)...), newFakeStream(transaction(200)...), &fakePublisher{}
	streams := []Stream{failing, stream}
	var given, asked []string
	o := options(nil, pub)
	o.Open = func(context.Context) (Stream, error) { s := streams[0]; streams = streams[1:]; return s, nil }
	o.NewMapper = func(uint8) (Mapper, error) {
		return keyedMapper{fakeMapper{stream: event.NewStream("t", 1)}, &given}, nil
	}
	o.Key = func(_ context.Context, subject string) ([]byte, error) {
		asked = append(asked, subject)
		if len(asked) == 1 {
			return nil, errors.New("no connection")
		}
		return []byte("key of " + subject), nil
	}
	_, stop := run(t, o)
	for lsn := range stream.confirmed {
		if lsn == 200 {
			break
		}
		stream.Wake()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(asked, []string{"customer/7", "customer/7"}) || !slices.Equal(given, []string{"key of customer/7"}) {
		t.Errorf("asked for %q, given %q", asked, given)
	}
}
