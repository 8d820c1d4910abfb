package change

import "time"

// ItemKind says what an Item is.
type ItemKind byte

const (
	// ItemIdle: nothing more is buffered; the next call waits for the network.
	ItemIdle ItemKind = iota
	// ItemBegin: a transaction starts; Tx is set but for its EndLSN.
	ItemBegin
	// ItemChanges: changes of the transaction that was begun last.
	ItemChanges
	// ItemCommit: the transaction is complete; Tx and Watermark are set.
	ItemCommit
	// ItemWatermark: everything that committed before Watermark was delivered.
	ItemWatermark
)

// Item is one thing that a replication stream says. It belongs to the stream
// and is valid until the next one is asked for.
type Item struct {
	Kind    ItemKind
	Tx      Tx
	Changes []Change
	// Watermark: every transaction whose commit LSN is below it has been
	// delivered. Set with ItemCommit and ItemWatermark.
	Watermark LSN
	// Time is the server's clock: the commit time, or when a keepalive was sent.
	Time time.Time
	// Busy says with ItemIdle that the stream is working off a backlog, so
	// that small batches are not worth sending yet.
	Busy bool
}
