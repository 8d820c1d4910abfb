package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Views is what keeps the views, as far as this daemon does.
type Views struct {
	State        string   `json:"state"` // connecting, standby, running, retrying, stopped, failed
	Error        string   `json:"error,omitempty"`
	Position     string   `json:"position_lsn,omitempty"` // every commit below is in the views
	*Behind               // nil without a position: the views are not complete yet, or another process keeps them, and says so
	Gap          string   `json:"gap,omitempty"` // why they stand still
	Events       uint64   `json:"events"`        // since the daemon started
	Transactions uint64   `json:"transactions"`  // of the store
	Parked       int      `json:"parked"`        // keys that are set aside
	Views        []View   `json:"views"`
	Verify       *Verify  `json:"verify,omitempty"`  // nil when the daemon does not compare them with the source
	Workers      *Workers `json:"workers,omitempty"` // nil when no view is kept key by key
}

// Workers are those that keep views key by key, over all processes together.
type Workers struct {
	Workers   int      `json:"workers"`        // 0 while one session keeps the views
	Processes int      `json:"processes"`      // that take part
	Halt      string   `json:"halt,omitempty"` // what the workers stopped for
	Here      []Worker `json:"here"`
}

// Worker is one that this process has.
type Worker struct {
	Worker       int      `json:"worker"`                 // from 1
	Position     string   `json:"position_lsn,omitempty"` // every event below, of its partitions, is in the views
	Events       uint64   `json:"events"`
	Transactions uint64   `json:"transactions"`
	Partitions   []string `json:"partitions"`
}

// Verify is how the last comparison of the views with the source ended, by `views.verify`.
type Verify struct {
	Every string     `json:"every"`
	At    time.Time  `json:"at,omitzero"` // when it ended
	Took  float64    `json:"seconds"`
	Error string     `json:"error,omitempty"` // why it could not be done
	Views []Verified `json:"views"`           // of the last one that could
}

// Verified is what a comparison found about a view, or about a mirror that views are computed from.
type Verified struct {
	View        string    `json:"view"` // or the mirror's table
	At          time.Time `json:"at"`
	Rows        int64     `json:"rows"`
	Differences int       `json:"differences"`
	Parked      int       `json:"parked"`
	Unjudged    int       `json:"unjudged"`
}

// View is one of them.
type View struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`  // mirror, query or document
	State  string `json:"state"` // filling or live
	Error  string `json:"error,omitempty"`
	Parked int    `json:"parked"`
	*Lag          // of documents, which have a position of their own
}

// Lag is how far a view is that has a position of its own.
type Lag struct {
	Position string `json:"position_lsn,omitempty"`
	*Behind         // nil without a position
	Running  bool   `json:"running"` // this daemon keeps it
}

// Behind is how far a position is behind the watermark in Redis.
type Behind struct {
	LagBytes   int64   `json:"lag_bytes"` // of WAL
	LagSeconds float64 `json:"lag_seconds"`
}

// A WaitError is a wait that has not come to its end.
type WaitError struct {
	Err    error
	Status int // of the answer
}

func (e *WaitError) Error() string { return e.Err.Error() }

// Waiter waits for a view to have what was committed up to an LSN and returns the view's position. Errors are *WaitError.
type Waiter func(ctx context.Context, view, lsn string, timeout time.Duration) (string, error)

const (
	defaultWait = 5 * time.Second
	longestWait = time.Minute
)

// waitHandler answers GET /api/views/<name>/wait?lsn=0/16B3748&timeout=5s.
func waitHandler(wait Waiter) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		timeout := defaultWait
		if text := r.FormValue("timeout"); text != "" {
			var err error
			if timeout, err = time.ParseDuration(text); err != nil || timeout < 0 || timeout > longestWait {
				http.Error(w, fmt.Sprintf("timeout: want a length of time up to %v, such as 5s", longestWait), http.StatusBadRequest)
				return
			}
		}
		position, err := wait(r.Context(), r.PathValue("name"), r.FormValue("lsn"), timeout)
		var failed *WaitError
		switch {
		case errors.As(err, &failed):
			http.Error(w, failed.Error(), failed.Status)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]string{"view": r.PathValue("name"), "position_lsn": position}) // who asked has gone away
		}
	}
}
