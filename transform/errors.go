package transform

import (
	"errors"
	"fmt"
	"strings"
)

// Error says what is wrong with the mapping of a table, or with one of its
// values, and what to do about it. The mapper returns no other kind, and several joined.
type Error struct {
	Where   string   // file:line of the mapping, may be empty
	Stream  string   // may be empty
	Table   string   // the table's full name, or the pattern; empty when a whole stream is wrong
	Columns []string // the columns in question, may be empty
	Problem string
	Fix     string // what to do, as an instruction; may be empty
	Err     error  // what was found, may be nil
	ofRow   bool   // a rule failed on a row: it can be set aside
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Where != "" {
		fmt.Fprintf(&b, "%s: ", e.Where)
	}
	switch {
	case e.Table != "":
		fmt.Fprintf(&b, "table %s: ", e.Table)
	case e.Stream != "":
		fmt.Fprintf(&b, "stream %s: ", e.Stream)
	}
	b.WriteString(e.Problem)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Fix != "" {
		fmt.Fprintf(&b, "; fix: %s", e.Fix)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Stale reports whether the change may fit when its table is announced again.
func (e *Error) Stale() bool { return errors.Is(e.Err, errStale) }

// joinErrors is nil when there are none.
func joinErrors(list []*Error) error {
	errs := make([]error, len(list))
	for i := range list {
		errs[i] = list[i]
	}
	return errors.Join(errs...)
}

// nearest is the name that is the fewest edits from want, or "" when none is
// near enough to be what was meant.
func nearest(want string, names []string) string {
	best, limit := "", max(1, len(want)/3)+1
	for _, name := range names {
		if d := distance(strings.ToLower(want), strings.ToLower(name)); d < limit {
			best, limit = name, d
		}
	}
	return best
}

// distance is Levenshtein's: insertions, deletions and replacements, by bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
