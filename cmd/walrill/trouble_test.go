package main

import (
	"os"
	"testing"
	"time"
)

// trouble is the time in which a scenario makes trouble. It lasts as long as WALRILL_CHAOS says, such as 10m for a soak
// test, else some seconds; on a slow machine longer, until there was trouble a few times.
type trouble struct {
	t     *testing.T
	end   time.Time
	turns int // of the loop that makes it
}

// leastTurns makes sure of each kind of trouble where a scenario has several that take turns.
const leastTurns = 3

// newTrouble begins now.
func newTrouble(t *testing.T) trouble {
	t.Helper()
	length := 4 * time.Second
	if text := os.Getenv("WALRILL_CHAOS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("WALRILL_CHAOS: %v", err)
		}
	}
	return trouble{t: t, end: time.Now().Add(length)}
}

// goesOn reports whether it is time for more trouble. It is the condition of a loop.
func (o *trouble) goesOn() bool {
	o.turns++
	return (o.turns <= leastTurns || time.Now().Before(o.end)) && !o.t.Failed()
}
