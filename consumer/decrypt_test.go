package consumer

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/walrill/walrill/event"
)

func TestDecrypter(t *testing.T) {
	keys := map[string][]byte{"customer/1": bytes.Repeat([]byte{1}, 32), "customer/2": nil}
	asked := 0
	broken := errors.New("no database")
	d := NewDecrypter(func(_ context.Context, subject string) ([]byte, error) {
		asked++
		if subject == "customer/3" {
			return nil, broken
		}
		key, ok := keys[subject]
		if !ok {
			return nil, event.ErrNoKey
		}
		return key, nil
	})
	sealed := func(subject, value string) string {
		s, err := event.NewSealer(subject, bytes.Repeat([]byte{1}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return string(s.Append([]byte(`"`), "email", []byte(value))) + `"`
	}
	other, err := event.NewSealer("customer/1", bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	foreign := string(other.Append(nil, "email", []byte("x")))
	for _, c := range []struct{ data, want string }{
		{`{"id":1}`, `{"id":1}`},
		{`{"a":` + sealed("customer/1", `he said "é"`) + `,"b":[` + sealed("customer/1", "") + `]}`, `{"a":"he said \"é\"","b":[""]}`},
		{`{"a":` + sealed("customer/2", "gone") + `}`, `{"a":"[forgotten]"}`},
		{`{"a":` + sealed("customer/9", "x") + `}`, `{"a":` + sealed("customer/9", "x") + `}`},
		{`{"a":"` + foreign + `"}`, `{"a":"` + foreign + `"}`},
		{`{"a":"walrill:enc:1:x"}`, `{"a":"walrill:enc:1:x"}`},
		{`"walrill:enc:1:`, `"walrill:enc:1:`},
		{``, ``},
	} {
		got, err := d.JSON(t.Context(), []byte(c.data))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.data, got, err, c.want)
		}
	}
	if asked != 3 {
		t.Errorf("asked for keys %d times", asked)
	}
	if _, err := d.JSON(t.Context(), []byte(sealed("customer/3", "x"))); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
