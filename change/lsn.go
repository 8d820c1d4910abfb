package change

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in Postgres's write-ahead log, in bytes. The zero LSN is
// no position at all.
type LSN uint64

// ParseLSN reads the form that Postgres prints: two hexadecimal halves, 0/16B3748.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal numbers, such as 0/16B3748", s)
	}
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal numbers, such as 0/16B3748", s)
	}
	return LSN(h<<32 | l), nil
}

// String prints the LSN as Postgres does.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// IsZero reports whether l is no position.
func (l LSN) IsZero() bool { return l == 0 }
