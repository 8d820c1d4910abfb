package transform

import (
	"encoding/json"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// maxGathered is how many bytes of gathered changes are kept until their transaction ends. When there are more, what is
// there becomes events at once: memory stays bounded, and since only the changes count, a replay does it at the same one.
const maxGathered = 8 << 20

// gathering is the changes of a transaction to aggregates, as far as they are not events yet. Its memory is used again.
type gathering struct {
	limit   int // bytes
	groups  []group
	parts   []groupPart
	entries []entry
	arena   []byte // keys, and rows as JSON
	reader  jsonReader
	scratch []byte
}

// group is what was done to one root row and its children.
type group struct {
	agg     *aggregate
	stream  *event.Stream
	key     span // text
	keyData span // JSON object, {"id":7}
	first   int  // of parts: the root, then each child
}

// groupPart is what was done to one row, or to the rows of one child table.
type groupPart struct {
	first, last    change.Op // of one row; 0 when nothing was
	row, unchanged span      // of one row: JSON object and array
	old            span      // JSON object: what is known of the row before the transaction
	head, tail     int       // of the entries of a child table, counted from 1; 0 when there are none
}

// entry is a change of a child's row.
type entry struct {
	json span // JSON object
	next int  // of the same list, 0 at the end
}

// span is a part of the arena.
type span struct{ from, to int }

func (s span) empty() bool { return s.from == s.to }

func (g *gathering) bytes(s span) []byte { return g.arena[s.from:s.to:s.to] }

func (g *gathering) add(b []byte) span {
	start := len(g.arena)
	g.arena = append(g.arena, b...)
	return span{start, len(g.arena)}
}

// put writes over a span when there is room, so that a row which changes again and again takes none.
func (g *gathering) put(s span, b []byte) span {
	if len(b) > s.to-s.from {
		return g.add(b)
	}
	return span{s.from, s.from + copy(g.arena[s.from:], b)}
}

// size is how much memory is in use, about; the same for the same changes.
func (g *gathering) size() int {
	return len(g.arena) + 160*len(g.groups) + 80*len(g.parts) + 24*len(g.entries)
}

// clear forgets everything.
func (g *gathering) clear() {
	for i := range g.groups {
		if a := g.groups[i].agg; len(a.groups) > 0 { // each map once: that takes as long as it ever was
			clear(a.groups)
		}
	}
	g.groups, g.parts, g.entries, g.arena = g.groups[:0], g.parts[:0], g.entries[:0], g.arena[:0]
	if cap(g.arena) > maxSpare {
		*g = gathering{limit: g.limit}
	}
}

// take keeps a change. It copies what it is given.
func (g *gathering) take(r *route, op change.Op, key, keyData, data, old, unchanged []byte) {
	at := g.group(r, key, keyData)
	p := &g.parts[g.groups[at].first+r.part.child]
	if r.part.child == 0 || r.part.agg.mapping.Children[r.part.child-1].One {
		g.note(p, op, data, old, unchanged)
		return
	}
	g.scratch = appendChange(g.scratch[:0], op, data, old, unchanged)
	g.entries = append(g.entries, entry{json: g.add(g.scratch)})
	if p.head == 0 {
		p.head = len(g.entries)
	} else {
		g.entries[p.tail-1].next = len(g.entries)
	}
	p.tail = len(g.entries)
}

// group finds a root's group by its key, or begins it.
func (g *gathering) group(r *route, key, keyData []byte) int {
	a := r.part.agg
	if i, ok := a.groups[string(key)]; ok {
		return i
	}
	i := len(g.groups)
	a.groups[string(key)] = i
	g.groups = append(g.groups, group{agg: a, stream: r.stream, key: g.add(key), keyData: g.add(keyData), first: len(g.parts)})
	for range 1 + len(a.children) {
		g.parts = append(g.parts, groupPart{})
	}
	return i
}

// note brings what is known of one row up to date.
func (g *gathering) note(p *groupPart, op change.Op, data, old, unchanged []byte) {
	if p.first == 0 {
		p.first = op
	}
	if op == change.Delete {
		old = data
	}
	if len(old) > 0 && p.first != change.Insert {
		p.old = g.put(p.old, g.merged(old, g.bytes(p.old))) // what was there first counts
	}
	if op == change.Update && len(unchanged) > 0 && !p.row.empty() {
		data = g.merged(g.bytes(p.row), data)
		unchanged = stillUnknown(unchanged, data)
	}
	p.row, p.unchanged, p.last = g.put(p.row, data), g.put(p.unchanged, unchanged), op
}

// merged is an object with the members of two; those of b count. It is valid until the next call.
func (g *gathering) merged(a, b []byte) []byte {
	if len(a) <= 2 || len(b) == 0 {
		return append(a[:0:0], orElse(b, a)...)
	}
	if len(b) <= 2 {
		return append(a[:0:0], a...)
	}
	both := append(append(append([]byte{}, a[:len(a)-1]...), ','), b[1:]...)
	out, err := g.reader.append(nil, both)
	if err != nil { // not JSON: a value that Postgres calls JSON, and is none
		return append(a[:0:0], b...)
	}
	return out
}

func orElse(b, a []byte) []byte {
	if len(b) == 0 {
		return a
	}
	return b
}

// stillUnknown are the names of an array that are no members of an object.
func stillUnknown(names, object []byte) []byte {
	var all []string
	if json.Unmarshal(names, &all) != nil {
		return names
	}
	var out []byte
	for _, name := range all {
		if !hasMember(object, name) {
			out = appendString(append(out, ','), []byte(name))
		}
	}
	if len(out) == 0 {
		return nil
	}
	out[0] = '['
	return append(out, ']')
}

// op is what came of the row in the end. A row that was not touched is the root of others that were.
func (p *groupPart) op() change.Op {
	switch {
	case p.first != 0 && p.last == change.Delete:
		return change.Delete
	case p.first == change.Insert:
		return change.Insert
	}
	return change.Update
}

// appendData appends the root's row, or its key when it was not touched, with what was done to its children.
func (g *gathering) appendData(dst []byte, gr *group) []byte {
	row := g.bytes(gr.keyData)
	if root := &g.parts[gr.first]; root.first != 0 {
		row = g.bytes(root.row)
	}
	start := len(dst)
	dst = append(dst, row[:len(row)-1]...)
	for i := range gr.agg.children {
		p := &g.parts[gr.first+1+i]
		if p.first == 0 && p.head == 0 {
			continue
		}
		name := gr.agg.children[i].name
		if len(dst) == start+1 { // the row has no members
			name = name[1:]
		}
		dst = append(dst, name...)
		if p.head == 0 {
			dst = g.appendOne(dst, p)
			continue
		}
		dst = append(dst, '[')
		for at := p.head; at > 0; at = g.entries[at-1].next {
			if at != p.head {
				dst = append(dst, ',')
			}
			dst = append(dst, g.bytes(g.entries[at-1].json)...)
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func (g *gathering) appendOne(dst []byte, p *groupPart) []byte {
	op := p.op()
	var old, unchanged []byte
	if op == change.Update {
		old = g.bytes(p.old)
	}
	if op != change.Delete {
		unchanged = g.bytes(p.unchanged)
	}
	return appendChange(dst, op, g.bytes(p.row), old, unchanged)
}

// appendChange appends a change of a child's row as a JSON object.
func appendChange(dst []byte, op change.Op, row, old, unchanged []byte) []byte {
	dst = append(append(append(dst, `{"op":"`...), byte(op)), `","row":`...)
	dst = append(dst, row...)
	if len(old) > 0 {
		dst = append(append(dst, `,"old":`...), old...)
	}
	if len(unchanged) > 0 {
		dst = append(append(dst, `,"unchanged":`...), unchanged...)
	}
	return append(dst, '}')
}
