package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/walrill/walrill/change"
)

// decoder turns pgoutput messages (protocol version 1, see "Logical
// Replication Message Formats" in Postgres's manual) into items. It is pure but for
// describe, which completes a new relation from the system catalogue.
type decoder struct {
	relations map[uint32]*change.Relation
	describe  func(rel *change.Relation, types []columnType) error
	// emptied returns the table that a message of a repair is about, nil when it is none of ours.
	repairs string // prefix of those messages
	emptied func(content []byte) (*change.Relation, error)
	tx      change.Tx
	inTx    bool

	outside func(prefix string) // is told of messages outside a transaction; may be nil

	changes []change.Change // reused; a truncate of several tables is several changes
	new     []change.Value  // reused
	old     []change.Value  // reused
}

func newDecoder(describe func(*change.Relation, []columnType) error) *decoder {
	return &decoder{relations: map[uint32]*change.Relation{}, describe: describe}
}

var errShort = errors.New("message ends early")

// decode reads one message into item. It reports false for a message that
// says nothing by itself: a relation, a type, an origin, a message outside a transaction.
// What item points to aliases data.
func (d *decoder) decode(data []byte, item *change.Item) (bool, error) {
	if len(data) == 0 {
		return false, errShort
	}
	kind := data[0]
	ok, err := d.dispatch(kind, &reader{buf: data[1:]}, item)
	if err != nil {
		return false, fmt.Errorf("decode pgoutput message %q: %w", kind, err)
	}
	return ok, nil
}

func (d *decoder) dispatch(kind byte, r *reader, item *change.Item) (bool, error) {
	switch kind {
	case 'I', 'U', 'D':
		return true, d.row(kind, r, item)
	case 'B':
		return true, d.begin(r, item)
	case 'C':
		return true, d.commit(r, item)
	case 'R':
		return false, d.relation(r)
	case 'T':
		return true, d.truncate(r, item)
	case 'M':
		return d.message(r, item)
	case 'O', 'Y':
		return false, nil // where a transaction came from, a type's name: not needed
	}
	return false, errors.New("unknown kind; protocol version 1 was asked for")
}

func (d *decoder) begin(r *reader, item *change.Item) error {
	if d.inTx {
		return errors.New("a transaction begins inside another")
	}
	d.tx = change.Tx{CommitLSN: change.LSN(r.uint64()), Time: r.time(), XID: r.uint32()}
	d.inTx = true
	item.Kind, item.Tx, item.Time = change.ItemBegin, d.tx, d.tx.Time
	return r.err
}

func (d *decoder) commit(r *reader, item *change.Item) error {
	r.skip(1)
	commit, end, at := change.LSN(r.uint64()), change.LSN(r.uint64()), r.time()
	if r.err != nil {
		return r.err
	}
	if !d.inTx || commit != d.tx.CommitLSN {
		return fmt.Errorf("commit at %s does not end the transaction of %s", commit, d.tx.CommitLSN)
	}
	d.inTx = false
	d.tx.EndLSN, d.tx.Time = end, at
	item.Kind, item.Tx, item.Watermark, item.Time = change.ItemCommit, d.tx, end, at
	return nil
}

func (d *decoder) relation(r *reader) error {
	rel := &change.Relation{OID: r.uint32(), Namespace: r.string(), Name: r.string(), Identity: change.Identity(r.byte())}
	if rel.Namespace == "" {
		rel.Namespace = "pg_catalog" // pgoutput sends the empty name for it
	}
	n := int(r.uint16())
	types := make([]columnType, 0, min(n, 1600))
	for range n {
		key := r.byte()&1 != 0
		rel.Columns = append(rel.Columns, change.Column{Key: key, Name: r.string()})
		types = append(types, columnType{oid: r.uint32(), modifier: int32(r.uint32())})
		if r.err != nil {
			return r.err
		}
	}
	if err := d.describe(rel, types); err != nil {
		return fmt.Errorf("describe table %s: %w", rel, err)
	}
	d.relations[rel.OID] = rel
	return r.err
}

func (d *decoder) row(kind byte, r *reader, item *change.Item) error {
	rel, err := d.known(r.uint32())
	if err != nil {
		return err
	}
	c := d.start(item, rel)
	tuple := r.byte()
	switch kind {
	case 'I':
		c.Op = change.Insert
	case 'U':
		c.Op = change.Update
	case 'D':
		c.Op = change.Delete
	}
	if tuple == 'K' || tuple == 'O' {
		if d.old, err = r.tuple(d.old, rel, tuple == 'K'); err != nil {
			return err
		}
		c.Old = d.old
		if kind == 'D' {
			return r.err
		}
		tuple = r.byte()
	}
	if tuple != 'N' || kind == 'D' {
		return fmt.Errorf("table %s: unexpected tuple %q", rel, tuple)
	}
	if d.new, err = r.tuple(d.new, rel, false); err != nil {
		return err
	}
	c.New = d.new
	return r.err
}

// start begins item's only change.
func (d *decoder) start(item *change.Item, rel *change.Relation) *change.Change {
	d.changes = append(d.changes[:0], change.Change{Relation: rel})
	item.Kind, item.Tx, item.Changes = change.ItemChanges, d.tx, d.changes
	return &d.changes[0]
}

func (d *decoder) truncate(r *reader, item *change.Item) error {
	n := int(r.uint32())
	r.skip(1) // CASCADE and RESTART IDENTITY: the tables that they reach are listed
	d.changes = d.changes[:0]
	for range n {
		rel, err := d.known(r.uint32())
		if err != nil {
			return err
		}
		d.changes = append(d.changes, change.Change{Op: change.Truncate, Relation: rel})
	}
	item.Kind, item.Tx, item.Changes = change.ItemChanges, d.tx, d.changes
	return r.err
}

// message reads a logical message. One outside a transaction has no commit
// LSN of its own, so it can have no position and says nothing, but to outside.
func (d *decoder) message(r *reader, item *change.Item) (bool, error) {
	transactional := r.byte()&1 != 0
	r.skip(8)
	prefix := r.string()
	content := r.bytes(int(r.uint32()))
	if r.err == nil && !transactional && d.outside != nil {
		d.outside(prefix)
	}
	if r.err != nil || !transactional {
		return false, r.err
	}
	if d.emptied != nil && prefix == d.repairs {
		rel, err := d.emptied(content)
		if err != nil || rel == nil {
			return false, err
		}
		d.start(item, rel).Op = change.Truncate
		return true, nil
	}
	c := d.start(item, nil)
	c.Op, c.Prefix, c.Content = change.Message, prefix, content
	return true, nil
}

func (d *decoder) known(oid uint32) (*change.Relation, error) {
	if !d.inTx {
		return nil, errors.New("a change outside a transaction")
	}
	rel := d.relations[oid]
	if rel == nil {
		return nil, fmt.Errorf("relation %d was not announced", oid)
	}
	return rel, nil
}

// reader reads a message's fields; the first one that is missing sets err.
type reader struct {
	buf []byte
	err error
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.buf) {
		r.err, r.buf = errShort, nil
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

func (r *reader) skip(n int) { r.bytes(n) }

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() string {
	for i, c := range r.buf {
		if c == 0 {
			s := string(r.buf[:i])
			r.buf = r.buf[i+1:]
			return s
		}
	}
	r.err, r.buf = errShort, nil
	return ""
}

// time reads microseconds since 2000-01-01 UTC.
func (r *reader) time() time.Time { return postgresTime(int64(r.uint64())) }

func postgresTime(µs int64) time.Time {
	const epoch = 946684800 // 2000-01-01 in Unix time
	return time.Unix(epoch+µs/1e6, µs%1e6*1e3).UTC()
}

// tuple reads one row's values into dst, which is reused. In a tuple of the
// identity's columns only, Postgres sends the others as NULL: they are Absent.
func (r *reader) tuple(dst []change.Value, rel *change.Relation, keyOnly bool) ([]change.Value, error) {
	n := int(r.uint16())
	if n != len(rel.Columns) {
		return dst, fmt.Errorf("table %s: a row of %d columns, %d were announced", rel, n, len(rel.Columns))
	}
	dst = dst[:0]
	for i := range n {
		v := change.Value{Kind: change.ValueKind(r.byte())}
		switch v.Kind {
		case change.Null, change.Unchanged:
		case change.Text:
			v.Data = r.bytes(int(int32(r.uint32())))
		default:
			return dst, fmt.Errorf("table %s, column %s: unexpected value of kind %q", rel, rel.Columns[i].Name, byte(v.Kind))
		}
		if keyOnly && !rel.Columns[i].Key {
			v = change.Value{Kind: change.Absent}
		}
		dst = append(dst, v)
	}
	return dst, r.err
}
