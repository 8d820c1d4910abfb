package event

import (
	"strings"
	"time"
)

// Backfill is a field of the hash :backfill, as JSON: how far a table's backfill is. Only the daemon
// that streams writes it.
type Backfill struct {
	State    string     `json:"state"`           // waiting, running, done, cancelled or failed
	Waits    string     `json:"waits,omitempty"` // for what, when it cannot go on at the moment
	Key      []string   `json:"key,omitempty"`   // the columns that After has the values of, or ctid
	Part     string     `json:"part,omitempty"`  // the partition that After is in: its OID; with ctid its OID and file
	After    []string   `json:"after,omitempty"` // the key of the last row that is published, its columns as text
	Read     []uint32   `json:"read,omitempty"`  // OIDs of the partitions that are read
	Moved    [][]string `json:"moved,omitempty"` // keys of rows to read again
	Rows     int64      `json:"rows"`            // read and published, or overtaken by a change of their own
	Bytes    int64      `json:"bytes"`
	Total    int64      `json:"total"` // rows, as Postgres estimates
	Started  time.Time  `json:"started,omitzero"`
	Updated  time.Time  `json:"updated,omitzero"`
	Finished time.Time  `json:"finished,omitzero"`
	Where    string     `json:"where,omitempty"`
	Rate     int        `json:"rate,omitempty"` // rows a second; 0: no limit
	Error    string     `json:"error,omitempty"`
	Request  string     `json:"request,omitempty"` // the last one that was seen to
	LSN      string     `json:"lsn,omitempty"`     // everything published for it is below
	Epoch    uint8      `json:"epoch,omitempty"`   // that LSN is of
	// End is where in the WAL the last backfill of all rows had read them, Complete the first one: from there on the streams have every
	// row of the table. Both are an epoch and an LSN, 0@0/16B3748.
	End      string `json:"end,omitempty"`
	Complete string `json:"complete,omitempty"`
}

// BackfillRequest is what a command asks of the daemon, as JSON. It is pending until the
// table's Backfill names its ID.
type BackfillRequest struct {
	ID     string    `json:"id"`
	Action string    `json:"action"` // start or cancel
	Where  string    `json:"where,omitempty"`
	Rate   int       `json:"rate,omitempty"`
	At     time.Time `json:"at"`
}

const backfillRequest = "request:"

// BackfillRequestField is the field of the hash that asks for something of a table.
func BackfillRequestField(table string) string { return backfillRequest + table }

// BackfillField tells the fields of the hash apart: which table one is of, and whether it is a request.
func BackfillField(field string) (table string, request bool) {
	return strings.CutPrefix(field, backfillRequest)
}
