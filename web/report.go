// Package web is what a running daemon answers over HTTP: health, metrics,
// status. It owns the shape of the status report and knows nothing of where its
// numbers come from.
package web

import "time"

// Report is a pipeline's state: GET /api/status and `walrill status --json`.
type Report struct {
	Pipeline string    `json:"pipeline"`
	Version  string    `json:"version"`
	State    string    `json:"state"` // connecting, standby, streaming, retrying, in_recovery, repairing, slot_lost, stopping, stopped, failed; not running
	Since    time.Time `json:"since,omitzero"`
	Error    string    `json:"error,omitempty"` // why it is not streaming
	Source   Source    `json:"source"`
	Sink     Sink      `json:"sink"`
	Backfill Backfill  `json:"backfill"`
	Views    *Views    `json:"views,omitempty"` // nil when this daemon keeps none
	Reload   Reload    `json:"reload"`
	// Retention is nil when this daemon trims nothing.
	Retention *Retention `json:"retention,omitempty"`
}

// Reload is what became of the configuration file since the daemon started.
type Reload struct {
	State string    `json:"state"` // none, pending, done; failed: an earlier file stays in force
	At    time.Time `json:"at,omitzero"`
	Error string    `json:"error,omitempty"` // why it failed, with file:line
	Count uint64    `json:"count"`           // reloads that came into force
}

// Backfill sums up the backfills that this daemon knows of; `walrill backfill status` has each.
type Backfill struct {
	Rows    int64 `json:"rows"` // of all tables, finished or not
	Waiting int   `json:"tables_waiting"`
	Running int   `json:"tables_running"`
	Failed  int   `json:"tables_failed"`
}

// Source is the Postgres side. LSNs are as Postgres prints them.
type Source struct {
	Slot          string  `json:"slot"`
	WALStatus     string  `json:"wal_status,omitempty"`
	ActivePID     int32   `json:"active_pid,omitempty"`
	Current       string  `json:"current_lsn,omitempty"`   // where Postgres writes
	Received      string  `json:"received_lsn,omitempty"`  // watermark that has been read
	Confirmed     string  `json:"confirmed_lsn,omitempty"` // Postgres was told that all before is safe
	LagBytes      int64   `json:"lag_bytes"`               // from the confirmed position to the current one
	LagSeconds    float64 `json:"lag_seconds"`
	RetainedBytes int64   `json:"retained_wal_bytes"`
	SafeBytes     int64   `json:"safe_wal_bytes"` // may still be written before the slot is in danger; -1: no limit
	// SecondsToLoss is when the slot is lost at the present rate, should it stand still; -1: unknown, or no limit.
	SecondsToLoss float64 `json:"wal_seconds_to_loss"`
	Changes       uint64  `json:"changes"` // since the daemon started
	Transactions  uint64  `json:"transactions"`
	Error         string  `json:"error,omitempty"` // why the slot cannot be looked at
}

// Sink is the Redis side.
type Sink struct {
	State        string            `json:"state"`                // connected, retrying, failed …
	ErrorKind    string            `json:"error_kind,omitempty"` // oom, readonly, loading, misconf, noperm, wrongtype, connection …
	Error        string            `json:"error,omitempty"`
	Since        time.Time         `json:"since,omitzero"` // of the error
	Watermark    string            `json:"watermark_lsn,omitempty"`
	Epoch        uint8             `json:"epoch"`
	Entries      uint64            `json:"entries"`       // published since the daemon started
	Duplicates   uint64            `json:"duplicates"`    // were there already
	ParkedKeys   int               `json:"parked_keys"`   // whose changes are set aside
	SchemaBreaks uint64            `json:"schema_breaks"` // versions that may break consumers, as tables changed
	Batches      uint64            `json:"batches"`
	Bytes        uint64            `json:"bytes"`
	BatchEntries Histogram         `json:"batch_entries"`
	AckSeconds   Histogram         `json:"ack_seconds"`        // from a batch's first attempt to its acknowledgement
	Rate         float64           `json:"entries_per_second"` // over the last seconds
	Errors       map[string]uint64 `json:"errors,omitempty"`   // by kind, since the daemon started
}

// Histogram counts values by upper bound; Counts has one more for values
// above all bounds.
type Histogram struct {
	Bounds []float64 `json:"bounds"`
	Counts []uint64  `json:"counts"`
	Sum    float64   `json:"sum"`
}
