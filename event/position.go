package event

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is where an event stands in everything its pipeline publishes, and
// at the same time its Redis entry ID.
type Position struct {
	// Commit is the ID's first half: epoch << 56 | commit LSN. In epoch 0 it is the plain LSN.
	Commit uint64
	// Ordinal counts the entries of one transaction, from 1.
	Ordinal uint64
}

const lsnBits = 56

// MaxLSN is the highest LSN that an entry ID has room for.
const MaxLSN = 1<<lsnBits - 1

// Clock joins an epoch and an LSN into the first half of an entry ID.
func Clock(epoch uint8, lsn uint64) uint64 { return uint64(epoch)<<lsnBits | lsn }

// SplitClock is the inverse of Clock.
func SplitClock(clock uint64) (epoch uint8, lsn uint64) {
	return uint8(clock >> lsnBits), clock & MaxLSN
}

// ParseID reads a Redis entry ID, such as 23803720-3.
func ParseID(id string) (Position, error) {
	ms, n, ok := strings.Cut(id, "-")
	if !ok {
		n = "0"
	}
	commit, err1 := strconv.ParseUint(ms, 10, 64)
	ordinal, err2 := strconv.ParseUint(n, 10, 64)
	if err1 != nil || err2 != nil {
		return Position{}, fmt.Errorf("entry ID %q: want two decimal numbers, such as 23803720-3", id)
	}
	return Position{commit, ordinal}, nil
}

// ID is the Redis entry ID.
func (p Position) ID() string { return string(p.AppendID(nil)) }

// AppendID appends the Redis entry ID to dst.
func (p Position) AppendID(dst []byte) []byte {
	dst = strconv.AppendUint(dst, p.Commit, 10)
	dst = append(dst, '-')
	return strconv.AppendUint(dst, p.Ordinal, 10)
}

// String prints the position for people: 0/16B3748:3, and with the epoch in
// front when there is one: 1@0/16B3748:3.
func (p Position) String() string {
	return fmt.Sprintf("%s:%d", p.LSN(), p.Ordinal)
}

// LSN is the position without its ordinal, for people: 0/16B3748, or 1@0/16B3748.
func (p Position) LSN() string {
	epoch, lsn := SplitClock(p.Commit)
	s := fmt.Sprintf("%X/%X", uint32(lsn>>32), uint32(lsn))
	if epoch > 0 {
		s = fmt.Sprintf("%d@%s", epoch, s)
	}
	return s
}

// Compare orders positions: -1 when p is before q, 0 when equal, +1 after.
func (p Position) Compare(q Position) int {
	switch {
	case p.Commit < q.Commit || p.Commit == q.Commit && p.Ordinal < q.Ordinal:
		return -1
	case p == q:
		return 0
	}
	return 1
}

// IsZero reports whether p is no position.
func (p Position) IsZero() bool { return p == Position{} }
