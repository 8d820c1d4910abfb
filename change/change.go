// Package change says what Postgres said: transactions, relations and row
// changes, in Postgres's own terms and text. It knows nothing of events,
// streams or Redis, and imports the standard library only.
package change

import "time"

// Op is what happened to a row or a table. Its byte is the `op` of an event.
type Op byte

const (
	Insert   Op = 'c'
	Update   Op = 'u'
	Delete   Op = 'd'
	Truncate Op = 't'
	Read     Op = 'r' // a row read by a backfill
	Message  Op = 'm' // a logical message
)

// Tx is a committed transaction. Logical decoding delivers transactions in
// the order of CommitLSN.
type Tx struct {
	CommitLSN LSN       // where the commit record starts; known from Begin on
	EndLSN    LSN       // where the commit record ends; zero until the commit arrives
	Time      time.Time // when it was committed, UTC, microseconds
	XID       uint32
}

// ValueKind tells a NULL from a value and from one that was not sent.
type ValueKind byte

const (
	Null      ValueKind = 'n' // NULL
	Text      ValueKind = 't' // Postgres's text output, UTF-8
	Unchanged ValueKind = 'u' // a toasted value that the update did not touch and Postgres did not send
	Absent    ValueKind = 'a' // not part of this tuple: a column outside the replica identity
)

// Value is one column's value. Data is Postgres's text output and set for
// Text only. It aliases the buffer that the change was decoded from.
type Value struct {
	Kind ValueKind
	Data []byte
}

// Change is one row change, truncate or logical message. It and everything
// it points to, Relation apart, belong to the decoder and are valid until the
// next message is decoded.
type Change struct {
	Op       Op
	Relation *Relation // nil for a logical message

	// New is the row after an Insert, Update or Read, one value a column of
	// the relation; otherwise nil.
	New []Value
	// Old is what Postgres sent of the row before an Update or Delete, one
	// value a column: the whole row under REPLICA IDENTITY FULL, otherwise
	// the identity's columns with the rest Absent. Nil when nothing was sent:
	// an update that left the identity alone.
	Old []Value

	// Prefix and Content are a logical message's.
	Prefix  string
	Content []byte
}
