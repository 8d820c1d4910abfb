package bridge

import (
	"sync"
	"time"

	"github.com/walrill/walrill/change"
)

// State is what a pipeline is doing.
type State string

const (
	StateConnecting State = "connecting"
	StateStandby    State = "standby" // another instance streams
	StateStreaming  State = "streaming"
	StateRetrying   State = "retrying"    // Postgres cannot be reached, or the connection broke
	StateInRecovery State = "in_recovery" // Postgres is a standby: it is waited for a primary
	StateRepairing  State = "repairing"   // a lost slot is made anew; it streams soon
	StateSlotLost   State = "slot_lost"   // changes are missing from the streams and Postgres cannot send them again
	StateStopping   State = "stopping"
	StateStopped    State = "stopped"
	StateFailed     State = "failed"
)

// Status is what a bridge knows of itself.
type Status struct {
	State        State      `json:"state"`
	Since        time.Time  `json:"since"`
	Error        string     `json:"error,omitempty"` // why it is not streaming
	Received     change.LSN `json:"-"`               // watermark that Postgres has sent
	ReceivedAt   time.Time  `json:"-"`               // the server's time of it
	Changes      uint64     `json:"changes"`         // since the process started
	Transactions uint64     `json:"transactions"`
	Repeated     uint64     `json:"repeated"`      // changes that Postgres sent again though they were complete
	SchemaBreaks uint64     `json:"schema_breaks"` // versions that may break consumers, as tables changed
	ParkedKeys   int        `json:"parked_keys"`   // keys whose changes are set aside
	Publisher    Publisher  `json:"-"`             // of the present session; nil when there is none
}

// progress is counted by the run loop without locks and copied to the
// tracker when it waits anyway.
type progress struct {
	received     change.LSN
	time         time.Time
	changes      uint64
	transactions uint64
	repeated     uint64
	parked       int // keys
	breaks       uint64
}

type tracker struct {
	mu     sync.Mutex
	status Status
	before progress // counted by earlier sessions
	now    progress
}

// connecting is a new attempt, unless it waits for a primary: then nothing has changed.
func (t *tracker) connecting() {
	t.mu.Lock()
	waits := t.status.State == StateInRecovery
	t.mu.Unlock()
	if !waits {
		t.enter(StateConnecting, nil)
	}
}

// enter reports whether the state was another one before.
func (t *tracker) enter(state State, err error) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if changed = t.status.State != state; changed {
		t.status.Since = time.Now()
	}
	t.status.State, t.status.Error = state, ""
	if err != nil {
		t.status.Error = err.Error()
	}
	return changed
}

func (t *tracker) attach(p Publisher) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Publisher = p
}

// detach ends a session: what it counted is kept.
func (t *tracker) detach() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Publisher = nil
	t.before.changes += t.now.changes
	t.before.transactions += t.now.transactions
	t.before.repeated += t.now.repeated
	t.before.breaks += t.now.breaks
	t.now = progress{}
}

func (t *tracker) progress(p progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = p
	t.status.Received, t.status.ReceivedAt, t.status.ParkedKeys = p.received, p.time, p.parked
}

// Status is a snapshot; any goroutine may ask for it.
func (b *Bridge) Status() Status {
	t := &b.status
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status
	s.Changes = t.before.changes + t.now.changes
	s.Transactions = t.before.transactions + t.now.transactions
	s.Repeated = t.before.repeated + t.now.repeated
	s.SchemaBreaks = t.before.breaks + t.now.breaks
	return s
}
