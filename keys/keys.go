// Package keys keeps a key for each data subject, in a table of the source database: walrill.subject_keys. Values of a
// subject that were published encrypted can be read as long as its key is there; Forget destroys it.
// It knows nothing of how values are encrypted.
package keys

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/event"
)

// Store is the table of keys. The keys in it are encrypted by the master key: AES-256-GCM, a random nonce of 12 bytes in front, the
// subject as associated data; the cipher's key is the HMAC-SHA-256, with the master key's text as its key, of "walrill master 1".
// It may be used by several goroutines, one after the other.
type Store struct {
	url    string
	master cipher.AEAD
	mu     sync.Mutex
	conn   *pgx.Conn
}

// New returns the store in a database. It connects when it is first asked.
func New(url, masterKey string) (*Store, error) {
	mac := hmac.New(sha256.New, []byte(masterKey))
	mac.Write([]byte("walrill master 1"))
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return nil, err
	}
	master, err := cipher.NewGCM(block)
	return &Store{url: url, master: master}, err
}

// ErrMasterKey is that a key was encrypted by another master key.
type ErrMasterKey struct{}

func (ErrMasterKey) Error() string {
	return "the keys in walrill.subject_keys were made with another encryption.master_key; fix: give the master key that they were made with"
}

// Permanent tells that trying again is of no use.
func (ErrMasterKey) Permanent() bool { return true }

// Key returns the key of a subject, made and committed when it has none, so that nothing is published whose key could still be
// lost. It is nil when the subject was forgotten. No error says anything of the subject.
func (s *Store) Key(ctx context.Context, subject string) (key []byte, err error) {
	err = s.do(ctx, func(conn *pgx.Conn) error {
		if key, err = s.find(ctx, conn, subject); !errors.Is(err, event.ErrNoKey) {
			return err
		}
		fresh := make([]byte, event.SubjectKeySize+s.master.NonceSize())
		rand.Read(fresh) //nolint:errcheck // it never fails
		wrapped := s.master.Seal(fresh[event.SubjectKeySize:], fresh[event.SubjectKeySize:], fresh[:event.SubjectKeySize], []byte(subject))
		// Another daemon may be quicker: whose key is committed, counts.
		_, err = conn.Exec(ctx, "INSERT INTO walrill.subject_keys (subject, key) VALUES ($1, $2) ON CONFLICT DO NOTHING", subject, wrapped)
		if err != nil {
			return fmt.Errorf("make the key of a subject: %w", err)
		}
		key, err = s.find(ctx, conn, subject)
		return err
	})
	return key, err
}

// Find is Key that makes none: the error is event.ErrNoKey then. It is what a consumer.Decrypter wants.
func (s *Store) Find(ctx context.Context, subject string) (key []byte, err error) {
	err = s.do(ctx, func(conn *pgx.Conn) error { key, err = s.find(ctx, conn, subject); return err })
	return key, err
}

func (s *Store) find(ctx context.Context, conn *pgx.Conn, subject string) ([]byte, error) {
	var wrapped []byte
	err := conn.QueryRow(ctx, "SELECT key FROM walrill.subject_keys WHERE subject = $1", subject).Scan(&wrapped)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, event.ErrNoKey
	case err != nil:
		return nil, fmt.Errorf("read the key of a subject: %w", err)
	case wrapped == nil:
		return nil, nil
	case len(wrapped) < s.master.NonceSize():
		return nil, ErrMasterKey{}
	}
	n := s.master.NonceSize()
	key, err := s.master.Open(nil, wrapped[:n], wrapped[n:], []byte(subject))
	if err != nil {
		return nil, ErrMasterKey{}
	}
	return key, nil
}

// Forget destroys the key of a subject for good, also when it has none yet. It reports whether there was one.
func (s *Store) Forget(ctx context.Context, subject string) (had bool, err error) {
	err = s.do(ctx, func(conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, `WITH before AS (SELECT key IS NOT NULL AS had FROM walrill.subject_keys WHERE subject = $1)
			INSERT INTO walrill.subject_keys AS k (subject, key, forgotten) VALUES ($1, NULL, now())
			ON CONFLICT (subject) DO UPDATE SET key = NULL, forgotten = coalesce(k.forgotten, now())
			RETURNING coalesce((SELECT had FROM before), false)`, subject).Scan(&had)
		if err != nil {
			return fmt.Errorf("forget the subject: %w", err)
		}
		return nil
	})
	return had, err
}

// Close ends the connection.
func (s *Store) Close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(ctx)
}

func (s *Store) drop(ctx context.Context) {
	if s.conn != nil {
		s.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is open in it
		s.conn = nil
	}
}

// do uses the connection. One that has been idle may be gone, and is made anew once.
func (s *Store) do(ctx context.Context, use func(*pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		idle := s.conn != nil
		if !idle {
			if err := s.connect(ctx); err != nil {
				return err
			}
		}
		err := use(s.conn)
		if !s.conn.IsClosed() {
			return err
		}
		s.drop(ctx)
		if !idle || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Store) connect(ctx context.Context) error {
	config, err := pgx.ParseConfig(s.url)
	if err != nil {
		return fmt.Errorf("connect to the keys of subjects: %w", err)
	}
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	config.RuntimeParams["application_name"] = "walrill keys"
	config.RuntimeParams["synchronous_commit"] = "on" // a key is not lost once it was used
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the keys of subjects: %w", err)
	}
	s.conn = conn
	var there bool
	if err = conn.QueryRow(ctx, "SELECT to_regclass('walrill.subject_keys') IS NOT NULL").Scan(&there); err == nil && !there {
		_, err = conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS walrill;
			CREATE TABLE IF NOT EXISTS walrill.subject_keys (subject text PRIMARY KEY, key bytea, created timestamptz NOT NULL DEFAULT now(), forgotten timestamptz)`)
	}
	if err != nil {
		s.drop(ctx)
		return fmt.Errorf("make the table walrill.subject_keys; the role needs CREATE on the database, or the table and the rights to read and write it: %w", err)
	}
	return nil
}
