package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// entryID is a stream entry's ID: commit LSN (with the epoch above) and ordinal.
type entryID struct{ commit, ordinal uint64 }

func (a entryID) compare(b entryID) int {
	return cmp.Or(cmp.Compare(a.commit, b.commit), cmp.Compare(a.ordinal, b.ordinal))
}

func (a entryID) String() string {
	return fmt.Sprintf("%d-%d (%X/%X)", a.commit, a.ordinal, a.commit>>32, uint32(a.commit))
}

func parseEntryID(id string) (at entryID, err error) {
	high, low, ok := strings.Cut(id, "-")
	var err1, err2 error
	at.commit, err1 = strconv.ParseUint(high, 10, 64)
	at.ordinal, err2 = strconv.ParseUint(low, 10, 64)
	if err := errors.Join(err1, err2); err != nil || !ok {
		return at, fmt.Errorf("read entry ID %q: %w", id, err)
	}
	return at, nil
}

// streamEntry is an entry as docs/design.md §3 describes it, read without any
// of walrill's own code.
type streamEntry struct {
	stream    string
	partition int
	at        entryID

	typ, key, op, table string
	tx                  uint32
	seq                 uint64
	schema              string
	data, old           map[string]any // decoded by decodeJSON; nil when absent
	unchanged           []string       // sorted
}

// fieldOrders are the orders of an entry's fields, one a format.
var fieldOrders = [][]string{
	{"type", "key", "op", "table", "time", "tx", "seq", "schema", "data", "old", "unchanged"},
	{"event"},
	{"key", "value", "type", "ordering_key", "seq", "schema", "unchanged"},
}

// readStream reads a Redis stream in chunks.
func readStream(ctx context.Context, client *redis.Client, key string) ([]streamEntry, error) {
	const chunk = 1000
	var entries []streamEntry
	for from := "-"; ; {
		// As it is and not by XRange, which loses the order of the fields.
		reply, err := client.Do(ctx, "XRANGE", key, from, "+", "COUNT", chunk).Slice()
		if err != nil {
			return nil, err
		}
		for _, item := range reply {
			e, err := parseEntry(item)
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
		}
		if len(reply) < chunk {
			return entries, nil
		}
		last := entries[len(entries)-1].at
		from = fmt.Sprintf("(%d-%d", last.commit, last.ordinal)
	}
}

// parseEntry reads an entry of XRANGE's reply: its ID and a flat list of fields.
func parseEntry(item any) (e streamEntry, err error) {
	pair, _ := item.([]any)
	if len(pair) != 2 {
		return e, fmt.Errorf("read entry %v: want an ID and fields", item)
	}
	id, _ := pair[0].(string)
	if e.at, err = parseEntryID(id); err != nil {
		return e, err
	}
	flat, _ := pair[1].([]any)
	fields := map[string]string{}
	var names []string
	for i := 0; i+1 < len(flat); i += 2 {
		name, _ := flat[i].(string)
		fields[name], _ = flat[i+1].(string)
		if fields[name] == "" {
			return e, fmt.Errorf("read entry %s: field %s is empty; it should be absent", id, name)
		}
		names = append(names, name)
	}
	if !slices.ContainsFunc(fieldOrders, func(order []string) bool { return inOrder(names, order) }) {
		return e, fmt.Errorf("read entry %s: one of the fields %s is unknown or out of order", id, names)
	}
	if fields, err = plainFields(names, fields); err != nil {
		return e, fmt.Errorf("read entry %s: %w", id, err)
	}
	if err := e.fill(fields); err != nil {
		return e, fmt.Errorf("read entry %s: %w", id, err)
	}
	return e, nil
}

// inOrder reports whether names are some of order, in its order.
func inOrder(names, order []string) bool {
	for _, name := range names {
		at := slices.Index(order, name)
		if at < 0 {
			return false
		}
		order = order[at+1:]
	}
	return true
}

func (e *streamEntry) fill(fields map[string]string) error {
	e.typ, e.key, e.op, e.table = fields["type"], fields["key"], fields["op"], fields["table"]
	tx, err1 := strconv.ParseUint(fields["tx"], 10, 32)
	seq, err2 := strconv.ParseUint(fields["seq"], 10, 64)
	e.tx, e.seq, e.schema = uint32(tx), seq, fields["schema"]
	var err3, err4, err5 error
	if text := fields["data"]; text != "" {
		e.data, err3 = decodeObject([]byte(text))
	}
	if text := fields["old"]; text != "" {
		e.old, err4 = decodeObject([]byte(text))
	}
	if text := fields["unchanged"]; text != "" {
		err5 = json.Unmarshal([]byte(text), &e.unchanged)
		slices.Sort(e.unchanged)
	}
	return errors.Join(err1, err2, err3, err4, err5)
}

// decodeObject decodes a JSON object so that equal values are deeply equal:
// numbers, of which JSON has one kind, become exact fractions.
func decodeObject(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("decode %s: %w", text, err)
	}
	for name, v := range object {
		object[name] = exact(v)
	}
	return object, nil
}

func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, ok := new(big.Rat).SetString(v.String()); ok {
			return number(n.RatString())
		}
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = exact(v[name])
		}
	}
	return v
}

// number is an exact fraction, apart from strings.
type number string
