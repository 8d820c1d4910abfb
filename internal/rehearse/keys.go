package rehearse

import (
	"crypto/sha256"
	"errors"

	"github.com/walrill/walrill/transform"
)

// WithKeys calls the mapper with keys of subjects that are made of their names: nothing is published, and what is
// encrypted looks the same each time.
func WithKeys(call func() error) error {
	for {
		err := call()
		var n *transform.KeyNeeded
		if !errors.As(err, &n) {
			return err
		}
		key := sha256.Sum256([]byte(n.NeedsKey()))
		if err := n.Give(key[:]); err != nil {
			return err
		}
	}
}
