package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/walrill/walrill/event"
	"github.com/walrill/walrill/internal/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const master = "0123456789abcdef0123456789abcdef"

func open(t *testing.T, url, masterKey string) *Store {
	t.Helper()
	s, err := New(url, masterKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(t.Context()) })
	return s
}

func mustKey(t *testing.T, s *Store, subject string) []byte {
	t.Helper()
	key, err := s.Key(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestStore(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresOptions{})
	url := harness.Database(t, pg)
	s := open(t, url, master)

	if _, err := s.Find(t.Context(), "customer/1"); !errors.Is(err, event.ErrNoKey) {
		t.Errorf("Find before there is a key: %v", err)
	}
	key := mustKey(t, s, "customer/1")
	if len(key) != event.SubjectKeySize || bytes.Equal(key, make([]byte, len(key))) {
		t.Fatalf("key %x", key)
	}
	if other := mustKey(t, s, "customer/2"); bytes.Equal(key, other) {
		t.Error("two subjects have one key")
	}
	// A session that was ended is made anew.
	harness.Exec(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walrill keys'")
	if again := mustKey(t, s, "customer/1"); !bytes.Equal(key, again) {
		t.Error("the key is another")
	}
	if found, err := open(t, url, master).Find(t.Context(), "customer/1"); err != nil || !bytes.Equal(found, key) {
		t.Errorf("Find: %x, %v", found, err)
	}
	dump := harness.Value(t, url, "SELECT string_agg(encode(key, 'hex'), ' ') FROM walrill.subject_keys")
	if strings.Contains(dump, hex.EncodeToString(key)) {
		t.Error("the key stands in the table as it is")
	}

	// Another master key opens none, and none is moved to another subject.
	var wrong ErrMasterKey
	if _, err := open(t, url, strings.Repeat("x", 32)).Key(t.Context(), "customer/1"); !errors.As(err, &wrong) || !wrong.Permanent() {
		t.Errorf("another master key: %v", err)
	}
	harness.Exec(t, url, "UPDATE walrill.subject_keys a SET key = b.key FROM walrill.subject_keys b WHERE a.subject = 'customer/2' AND b.subject = 'customer/1'")
	if _, err := s.Key(t.Context(), "customer/2"); !errors.As(err, &wrong) {
		t.Errorf("a key of another subject: %v", err)
	}

	// Forgotten is forgotten, also before there was a key.
	for _, c := range []struct {
		subject string
		had     bool
	}{{"customer/1", true}, {"customer/1", false}, {"customer/9", false}} {
		if had, err := s.Forget(t.Context(), c.subject); err != nil || had != c.had {
			t.Errorf("Forget %s: %t, %v", c.subject, had, err)
		}
		if key := mustKey(t, s, c.subject); key != nil {
			t.Errorf("%s has a key again", c.subject)
		}
		if key, err := s.Find(t.Context(), c.subject); key != nil || err != nil {
			t.Errorf("Find %s: %x, %v", c.subject, key, err)
		}
	}
}

// Of several that make a subject's key at once, all get the same.
func TestStoreAtOnce(t *testing.T) {
	pg := harness.NewPostgres(t, harness.PostgresOptions{})
	url := harness.Database(t, pg)
	mustKey(t, open(t, url, master), "customer/0") // makes the table
	const n = 6
	keys := make([][]byte, n)
	var group sync.WaitGroup
	for i := range keys {
		s := open(t, url, master)
		group.Go(func() {
			var err error
			if keys[i], err = s.Key(t.Context(), "customer/1"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, key := range keys {
		if !bytes.Equal(key, keys[0]) {
			t.Fatal("they have different keys")
		}
	}
}
