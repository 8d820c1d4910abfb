package capture

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// snapshot is what pg_current_snapshot() prints: which transactions a reader sees.
type snapshot struct {
	xmin, xmax uint64
	running    []uint64 // ascending
}

func parseSnapshot(text string) (snapshot, error) {
	var s snapshot
	bad := fmt.Errorf("snapshot %q: want xmin:xmax:xip,…", text)
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, bad
	}
	var err1, err2 error
	s.xmin, err1 = strconv.ParseUint(parts[0], 10, 64)
	s.xmax, err2 = strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil {
		return s, bad
	}
	for _, p := range strings.FieldsFunc(parts[2], func(r rune) bool { return r == ',' }) {
		x, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return s, bad
		}
		s.running = append(s.running, x)
	}
	slices.Sort(s.running)
	return s, nil
}

// sees reports whether the reader sees what a committed transaction did. A
// transaction whose commit record is in the WAL can still be invisible: it waits for a standby, or was interrupted before it
// told the other sessions.
func (s *snapshot) sees(xid uint32) bool {
	x := s.widen(xid)
	if x < s.xmin {
		return true
	}
	if x >= s.xmax {
		return false
	}
	_, running := slices.BinarySearch(s.running, x)
	return !running
}

// widen is the transaction's full number: the one closest to xmax.
func (s *snapshot) widen(xid uint32) uint64 {
	return s.xmax + uint64(int64(int32(xid-uint32(s.xmax))))
}
