package capture

import (
	"context"
	"time"
)

// BackfillState is how far a table's backfill is: what a process that takes over has to know,
// and what is shown. Its fields are those of event.Backfill.
type BackfillState struct {
	State    string // one of the constants below
	Waits    string
	Key      []string
	Part     string
	After    []string
	Read     []uint32
	Moved    [][]string
	Rows     int64
	Bytes    int64
	Total    int64
	Started  time.Time
	Updated  time.Time
	Finished time.Time
	Where    string
	Rate     int
	Error    string
	Request  string
	LSN      string
	Epoch    uint8
	End      string // as Save was given it, without the epoch, or as Load read it
	Complete string
}

// The states of a backfill.
const (
	BackfillWaiting   = "waiting"
	BackfillRunning   = "running"
	BackfillDone      = "done"
	BackfillCancelled = "cancelled"
	BackfillFailed    = "failed"
)

// restart forgets where reading was: the table is read from its beginning.
func (s *BackfillState) restart() { s.setPosition(position{}) }

// position is where reading is.
type position struct {
	part  string
	after []string
	read  []uint32
}

func (s *BackfillState) position() position { return position{s.Part, s.After, s.Read} }

func (s *BackfillState) setPosition(p position) { s.Part, s.After, s.Read = p.part, p.after, p.read }

func (s *BackfillState) unfinished() bool {
	return s.State == BackfillWaiting || s.State == BackfillRunning
}

// BackfillRequest is what somebody asks of the daemon. One is new as long as no state names its ID.
type BackfillRequest struct {
	ID     string
	Action string // start or cancel
	Where  string
	Rate   int
	At     time.Time
}

// Precedes reports whether a request waits until the backfill has ended: one for some rows must not take the place of
// one that has all of them still to read.
func (s *BackfillState) Precedes(r BackfillRequest) bool {
	return s.unfinished() && s.Where == "" && r.Action == "start" && r.Where != ""
}

// BackfillRecord is a table's state and request; either may be nil.
type BackfillRecord struct {
	State   *BackfillState
	Request *BackfillRequest
	// Lost: rows that the state calls published are not in the sink any more.
	Lost bool
}

// BackfillStore keeps states where the next process finds them: in the sink, so
// that they are lost together with the rows that they speak of, if at all. A state is saved only after the rows are durable.
type BackfillStore interface {
	Load(context.Context) (map[string]BackfillRecord, error) // by table, such as public.orders
	Save(ctx context.Context, table string, state BackfillState) error
}

// BackfillOptions configure backfills; without a Store there are none.
type BackfillOptions struct {
	Store     BackfillStore
	Initial   bool // backfill tables that are new to the pipeline
	ChunkRows int  // default 10000
	Readers   int  // connections that read at the same time: tables, or two ranges of one; default 2
}

const (
	defaultChunkRows = 10000
	defaultReaders   = 2
	// chunkBytes is about how big a chunk is at most.
	chunkBytes = 4 << 20
)

// BackfillProgress is a table's state as the daemon has it in memory.
type BackfillProgress struct {
	Table string
	BackfillState
}
