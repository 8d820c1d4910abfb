package event

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func sealer(t interface{ Fatal(...any) }, subject string, key byte) *Sealer {
	s, err := NewSealer(subject, bytes.Repeat([]byte{key}, SubjectKeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is sealed is the same each time, says its subject, and opens with its key only.
func TestSeal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		subject, value := rapid.String().Draw(t, "subject"), rapid.SliceOf(rapid.Byte()).Draw(t, "value")
		s := sealer(t, subject, 1)
		sealed := string(s.Append([]byte("x"), "email", value))[1:]
		if again := string(sealer(t, subject, 1).Append(nil, "email", value)); again != sealed {
			t.Fatal("sealed again it is another")
		}
		if got, ok := SealedSubject(sealed); !ok || got != subject {
			t.Fatalf("subject %q, %t", got, ok)
		}
		got, err := s.Open(sealed)
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("opened: %q, %v", got, err)
		}
		if other := string(s.Append(nil, "name", value)); other == sealed {
			t.Fatal("another column has the same text")
		}
		for name, wrong := range map[string]*Sealer{"key": sealer(t, subject, 2), "subject": sealer(t, subject+"x", 1)} {
			if _, err := wrong.Open(sealed); err == nil {
				t.Fatalf("another %s opens it", name)
			}
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "place")
		if changed := sealed[:i] + string("AB"[b2i(sealed[i] == 'A')]) + sealed[i+1:]; changed[:i+1] != sealed[:i+1] && i < len(sealed)-1 {
			if _, err := s.Open(changed); err == nil {
				t.Fatalf("changed at %d it opens", i)
			}
		}
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// The form is a contract with readers in other languages.
func TestSealForm(t *testing.T) {
	const want = "walrill:enc:1:Y3VzdG9tZXIvNw:"
	sealed := string(sealer(t, "customer/7", 7).Append(nil, "email", []byte("ada@example.com")))
	if !strings.HasPrefix(sealed, want) {
		t.Errorf("%s", sealed)
	}
	t.Log(sealed)
	for _, text := range []string{"", "x", "walrill:enc:1:", "walrill:enc:1:Y3VzdG9tZXIvNw", "walrill:enc:1:%:x", "walrill:enc:2:Y3VzdG9tZXIvNw:x"} {
		if s, ok := SealedSubject(text); ok {
			t.Errorf("%q has the subject %q", text, s)
		}
	}
	for _, text := range []string{"", want, want + "A", want + "!!!!", sealed[:len(sealed)-2]} {
		if _, err := sealer(t, "customer/7", 7).Open(text); err == nil {
			t.Errorf("%q opens", text)
		}
	}
	if _, err := NewSealer("x", make([]byte, 31)); err == nil {
		t.Error("a short key is taken")
	}
}
