package capture

import (
	"encoding/binary"
	"slices"

	"github.com/walrill/walrill/change"
)

// chunk is rows that were read in one snapshot, in one piece of memory: each
// value its length, -1 for NULL, and its text.
type chunk struct {
	rel  *change.Relation
	snap snapshot
	buf  []byte
	rows []int    // where each row starts in buf
	next []string // what the next chunk comes after; nil: as this one
	tid  string   // of the last row, when rows have no key
}

// add appends a row as Postgres sent it, in its text.
func (c *chunk) add(values [][]byte) {
	c.rows = append(c.rows, len(c.buf))
	for _, v := range values {
		n := int32(len(v))
		if v == nil {
			n = -1
		}
		c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(n))
		c.buf = append(c.buf, v...)
	}
}

// row appends row i's values to dst. They point into the chunk.
func (c *chunk) row(i int, dst []change.Value) []change.Value {
	b := c.buf[c.rows[i]:]
	for range c.rel.Columns {
		n := int32(binary.LittleEndian.Uint32(b))
		b = b[4:]
		if n < 0 {
			dst = append(dst, change.Value{Kind: change.Null})
			continue
		}
		dst = append(dst, change.Value{Kind: change.Text, Data: b[:n:n]})
		b = b[n:]
	}
	return dst
}

// size is the bytes of all values.
func (c *chunk) size() int64 { return int64(len(c.buf) - 4*len(c.rel.Columns)*len(c.rows)) }

// width is about how many bytes a row takes, 0 without rows.
func (c *chunk) width() int {
	if len(c.rows) == 0 {
		return 0
	}
	return len(c.buf)/len(c.rows) + 1
}

// texts are some columns' values of row i, copied.
func (c *chunk) texts(i int, columns []int) []string {
	var texts []string
	row := c.row(i, nil)
	for _, column := range columns {
		texts = append(texts, string(row[column].Data))
	}
	return texts
}

// columnsOf are the places of the named columns in a relation; nil when one of them is not there.
func columnsOf(rel *change.Relation, names []string) []int {
	places := make([]int, 0, len(names))
	for _, name := range names {
		i := rel.Column(name)
		if i < 0 {
			return nil
		}
		places = append(places, i)
	}
	return places
}

// sameShape reports whether rows of one relation are rows of the other.
func sameShape(a, b *change.Relation) bool {
	if a == b {
		return true
	}
	if a.OID != b.OID || a.Namespace != b.Namespace || a.Name != b.Name || a.Identity != b.Identity || !slices.Equal(a.PrimaryKey, b.PrimaryKey) || len(a.Columns) != len(b.Columns) {
		return false
	}
	for i := range a.Columns {
		x, y := &a.Columns[i], &b.Columns[i]
		if x.Name != y.Name || x.Key != y.Key || x.Type.OID != y.Type.OID || x.TypeName != y.TypeName {
			return false
		}
	}
	return true
}

// appendKey appends the key of a row, in a form in which no two keys are the same.
// A value that was not sent is taken from before. It reports false when a value is not known.
func appendKey(dst []byte, row, before []change.Value, columns []int) ([]byte, bool) {
	for _, i := range columns {
		if i >= len(row) {
			return dst, false
		}
		v := &row[i]
		if v.Kind == change.Unchanged && before != nil {
			v = &before[i]
		}
		if v.Kind != change.Text {
			return dst, false
		}
		dst = binary.AppendUvarint(dst, uint64(len(v.Data)))
		dst = append(dst, v.Data...)
	}
	return dst, true
}

// appendRow is appendKey for a row that has no key but all its columns, which may be NULL.
func appendRow(dst []byte, row, before []change.Value) ([]byte, bool) {
	for i := range row {
		v := &row[i]
		if v.Kind == change.Unchanged && before != nil {
			v = &before[i]
		}
		switch v.Kind {
		case change.Null:
			dst = append(dst, 0)
		case change.Text:
			dst = binary.AppendUvarint(dst, uint64(len(v.Data))+1)
			dst = append(dst, v.Data...)
		default:
			return dst, false
		}
	}
	return dst, true
}

// keyTexts is the inverse of appendKey.
func keyTexts(key string) []string {
	var texts []string
	b := []byte(key)
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		b = b[w:]
		texts = append(texts, string(b[:n]))
		b = b[n:]
	}
	return texts
}

// joinKey is appendKey for texts.
func joinKey(texts []string) string {
	var b []byte
	for _, text := range texts {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	return string(b)
}
