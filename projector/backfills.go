package projector

import (
	"context"
	"strconv"
	"strings"
)

// Backfill is how far the backfill of a table is.
type Backfill struct {
	Known        bool   // there is or was one, or one is asked for
	Done         bool   // it has ended in order
	Whole        bool   // it was of all rows
	Request      string // that it was made for; "" for the first of a pipeline
	Pending      string // the last request, which may not have been seen to yet
	PendingWhole bool   // it is for all rows
	Clock        uint64 // all that it published is below
	End          uint64 // where in the WAL the last one of all rows had read them; 0 when that is not known
	Complete     uint64 // and the first one: from there on the streams have every row
	Error        string // why it failed
	Cancelled    bool   // somebody has ended it
}

// Backfills asks for backfills and knows how far they are.
type Backfills interface {
	Look(ctx context.Context, table string) (Backfill, error)
	// Request asks for a backfill of a whole table that has not begun, and names the request: a number, a dash, and what makes it
	// unique. Of two requests for a table the later one has the higher number.
	Request(ctx context.Context, table string) (id string, err error)
}

// RequestNumber is the number of a request for a backfill; 0 for one that a command has made.
func RequestNumber(id string) uint64 {
	number, _, _ := strings.Cut(id, "-")
	n, _ := strconv.ParseUint(number, 10, 64) // else another kind of name
	return n
}

// answers says what has become of a request, "" being the pipeline's first backfill. A later request for all rows does as
// well, whoever has made it: were each to insist on its own, several who fill from the same table would take it from each other without end. id is the
// request to wait for from now on; ours says that the backfill is the one of this request, asked that it is or will be.
func (b *Backfill) answers(request string) (id string, ours, asked bool) {
	later := func(other string) bool { return request != "" && RequestNumber(other) > RequestNumber(request) }
	switch {
	case request == "":
		return "", b.Whole, b.Whole || b.Pending == ""
	case b.Request == request:
		return request, true, true
	case b.Whole && !b.Cancelled && later(b.Request):
		return b.Request, true, true
	case b.Pending == request:
		return request, false, true
	case b.PendingWhole && later(b.Pending):
		return b.Pending, false, true
	}
	return request, false, false
}
