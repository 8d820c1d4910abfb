package projector

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

//go:embed document.lua
var documentLua string

//go:embed document_claim.lua
var claimLua string

//go:embed document_release.lua
var releaseLua string

//go:embed document_retry.lua
var retryLua string

var (
	documentScript = redis.NewScript(documentLua)
	claimScript    = redis.NewScript(claimLua)
	releaseScript  = redis.NewScript(releaseLua)
	retryScript    = redis.NewScript(retryLua)
)

const (
	// docLease is for how long nobody else may write a view's documents after its owner was last heard of.
	docLease = 5 * time.Second
	// docRenew is how often an owner is heard of that has nothing to write.
	docRenew = time.Second
	// One call of the script holds no more than this; what is larger goes in parts, and the view is filling until it is through.
	maxDocuments  = 20_000
	maxDocumentKB = 16 << 10
	maxDocArgs    = 500_000
)

// The flags of a call.
const (
	docBegin    = "b" // a filling begins: nothing is fresh
	docNothing  = "n" // and nothing that is set aside is of use
	docFresh    = "f" // what is written is fresh
	docTruncate = "t" // all documents go before anything is written
	docEnd      = "e" // a filling ends
	docPart     = "k" // more of the same comes: what is there is torn
)

// docOp is what becomes of one document.
type docOp struct {
	kind   byte   // s set, c set and count when it differs, d delete, P and U: put a key on the parking place or take it off
	key    string // or the parked field
	value  []byte // a JSON object; of P the reason
	fields []string
}

// docStore is a view's documents in Redis. Each call moves the serial number, which nobody but the owner does: a call that
// was overtaken, by another owner or by a Redis that went back, is refused.
type docStore struct {
	client                      redis.UniversalClient
	state, index, fresh, parked string
	form                        string
	owner                       string
	serial                      uint64
	called                      time.Time
}

func newDocStore(client redis.UniversalClient, pipeline string, v *DocumentView) *docStore {
	key := v.StateKey(pipeline)
	return &docStore{client: client, state: key, index: key + ":keys", fresh: key + ":fresh", parked: key + ":parked", form: v.form()}
}

// errOvertaken says that somebody else has written since we looked, or Redis has lost what we wrote.
var errOvertaken = errors.New("the documents have another owner, or Redis has lost what was written")

// An olderError says that the documents are further on than what was to be written.
type olderError struct{ at string }

func (e *olderError) Error() string { return "the documents are further on, at " + e.at }

// claim makes the caller the owner, or says for how long another is.
func (d *docStore) claim(ctx context.Context, entitled bool) (wait time.Duration, err error) {
	flag := "0"
	if entitled {
		flag = "1"
	}
	n, err := claimScript.Run(ctx, d.client, []string{d.state}, d.owner, docLease.Milliseconds(), flag).Int64()
	switch {
	case err != nil:
		return 0, fmt.Errorf("claim the documents of %s: %w", d.state, err)
	case n < 0:
		return 0, errFenced
	}
	d.called = time.Now()
	return time.Duration(n) * time.Millisecond, nil
}

func (d *docStore) release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	releaseScript.Run(ctx, d.client, []string{d.state}, d.owner) // else its lease ends by itself
}

// load reads the state. The serial number is what the next call goes on from.
func (d *docStore) load(ctx context.Context) (map[string]string, error) {
	fields, err := d.client.HGetAll(ctx, d.state).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.state, err)
	}
	if d.serial, err = decimal(fields["serial"]); err != nil {
		return nil, fmt.Errorf("read %s: serial: %w", d.state, err)
	}
	return fields, nil
}

func decimal(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// docCall is one call of the script.
type docCall struct {
	ops      []docOp
	fields   []string // of the state, names and values; "" removes one
	position uint64   // 0 leaves it as it is
	flags    string
	serial   uint64 // to be; 0 for one more than there is
}

// docReply is what a call has done.
type docReply struct{ changed, parked int64 }

// write makes a call. An error leaves it open whether it was done: load tells.
func (d *docStore) write(ctx context.Context, c docCall) (docReply, error) {
	to := c.serial
	if to == 0 {
		to = d.serial + 1
	}
	position := ""
	if c.position > 0 {
		position = strconv.FormatUint(c.position, 10)
		_, lsn := event.SplitClock(c.position)
		c.fields = append(c.fields, "lsn", clock(lsn))
	}
	keys := make([]string, 4, 4+len(c.ops))
	keys[0], keys[1], keys[2], keys[3] = d.state, d.index, d.fresh, d.parked
	args := []any{d.owner, strconv.FormatUint(d.serial, 10), strconv.FormatUint(to, 10), docLease.Milliseconds(), position, d.form, c.flags, len(c.fields)}
	for _, f := range c.fields {
		args = append(args, f)
	}
	keys, args = d.operations(c.ops, keys, args)
	reply, err := documentScript.Run(ctx, d.client, keys, args...).Slice()
	if err != nil {
		return docReply{}, fmt.Errorf("write documents of %s: %w", d.state, err)
	}
	switch reply[0].(int64) {
	case 0:
		return docReply{}, errOvertaken
	case -1:
		at, _ := reply[1].(string)
		return docReply{}, &olderError{at}
	}
	d.serial, d.called = to, time.Now()
	changed, _ := reply[1].(int64)
	parked, _ := reply[2].(int64)
	return docReply{changed, parked}, nil
}

// operations appends what the script is to do. What has no document comes last.
func (d *docStore) operations(ops []docOp, keys []string, args []any) ([]string, []any) {
	var places []any
	for i := range ops {
		op := &ops[i]
		kind := string(op.kind)
		switch op.kind {
		case 'P':
			places = append(places, kind, op.key, op.value)
			continue
		case 'U':
			places = append(places, kind, op.key)
			continue
		}
		keys = append(keys, op.key)
		args = append(args, kind)
		switch {
		case op.kind == 'd':
		case op.fields != nil:
			args = append(args, len(op.fields))
			for _, f := range op.fields {
				args = append(args, f)
			}
		default:
			args = append(args, op.value)
		}
	}
	return keys, append(args, places...)
}

// set makes the operation that writes a row's document.
func (d *docStore) set(kind byte, key string, object []byte) (docOp, error) {
	op := docOp{kind: kind, key: key, value: object}
	if d.form == "hash" {
		var err error
		if op.fields, err = fieldsOf(object); err != nil {
			return op, fmt.Errorf("read a row of %s: %w", d.state, err)
		}
		op.value = nil
	}
	return op, nil
}

// size is what an operation takes of a call.
func (op *docOp) size() (bytes, args int) {
	bytes, args = len(op.key)+len(op.value)+64, 2+len(op.fields)
	for _, f := range op.fields {
		bytes += len(f)
	}
	return bytes, args
}

// part is how many of the operations fit into one call.
func part(ops []docOp) int {
	bytes, args := 0, 0
	for i := range ops {
		b, a := ops[i].size()
		bytes, args = bytes+b, args+a
		if i > 0 && (i >= maxDocuments || bytes > maxDocumentKB<<10 || args > maxDocArgs) {
			return i
		}
	}
	return len(ops)
}

// writeAll makes as many calls as it takes, all but the last of them leaving the view torn and filling. c says which state comes then.
func (d *docStore) writeAll(ctx context.Context, c docCall) (total docReply, err error) {
	for {
		n := part(c.ops)
		if n == len(c.ops) {
			reply, err := d.write(ctx, c)
			return docReply{total.changed + reply.changed, reply.parked}, err
		}
		first := docCall{ops: c.ops[:n], flags: c.flags + docPart, fields: []string{"state", stateFilling}}
		reply, err := d.write(ctx, first)
		if err != nil {
			return total, err
		}
		total.changed += reply.changed
		c.ops, c.flags = c.ops[n:], strings.ReplaceAll(c.flags, docTruncate, "")
	}
}

// sweep deletes the documents that a filling has not brought, and says how many.
func (d *docStore) sweep(ctx context.Context, flags string) (int64, error) {
	var total int64
	var cursor uint64
	for {
		keys, next, err := d.client.SScan(ctx, d.index, cursor, "", 1000).Result()
		if err != nil {
			return total, fmt.Errorf("read %s: %w", d.index, err)
		}
		if len(keys) > 0 {
			members := make([]any, len(keys))
			for i, k := range keys {
				members[i] = k
			}
			has, err := d.client.SMIsMember(ctx, d.fresh, members...).Result()
			if err != nil {
				return total, fmt.Errorf("read %s: %w", d.fresh, err)
			}
			var ops []docOp
			for i, k := range keys {
				if !has[i] {
					ops = append(ops, docOp{kind: 'd', key: k})
				}
			}
			if len(ops) > 0 {
				reply, err := d.write(ctx, docCall{ops: ops, flags: flags})
				if err != nil {
					return total, err
				}
				total += reply.changed
			}
		}
		if cursor = next; cursor == 0 {
			return total, nil
		}
	}
}

// read reads a document as a row of these columns, or what is set aside of it; nil when it is not among the known ones, or has become
// something else. Of a hash all values are strings, which set writes back as they are.
func (d *docStore) read(ctx context.Context, known, key string, columns []Column) (row, error) {
	member, err := d.client.SIsMember(ctx, known, key).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", known, err)
	}
	var list []string // names and values, or the JSON
	switch {
	case !member:
		list, err = d.aside(ctx, key)
	case d.form == "hash":
		var fields map[string]string
		fields, err = d.client.HGetAll(ctx, key).Result()
		for name, value := range fields {
			list = append(list, name, value)
		}
	default:
		var text string
		if text, err = d.client.Get(ctx, key).Result(); err == nil {
			list = []string{text}
		}
	}
	if errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE") || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read document %s: %w", key, err)
	}
	return d.rowOf(list, columns), nil
}

// aside is the document of a key that is set aside.
func (d *docStore) aside(ctx context.Context, key string) ([]string, error) {
	text, err := d.client.HGet(ctx, d.parked, key).Bytes()
	if err != nil {
		return nil, err
	}
	var p parkedDocument
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("read %s: %w", d.parked, err)
	}
	return p.Values, nil
}

// parkedDocument is how a script notes what it has set aside.
type parkedDocument struct {
	Error  string   `json:"error"`
	At     int64    `json:"at"`     // seconds
	Values []string `json:"values"` // the document; none of a row without a key
}

// rowOf is nil for what is not a document with these columns.
func (d *docStore) rowOf(list []string, columns []Column) row {
	values := make(row, len(columns))
	index := func(name string) int {
		return slices.IndexFunc(columns, func(c Column) bool { return c.As == name })
	}
	if d.form != "hash" {
		err := eachField([]byte(list[0]), func(name, value []byte) {
			if i := index(string(name)); i >= 0 {
				values[i] = value
			}
		})
		if err != nil || !values.complete() {
			return nil
		}
		return values
	}
	for i := range values {
		values[i] = []byte("null")
	}
	for i := 0; i+1 < len(list); i += 2 {
		if at := index(list[i]); at >= 0 {
			values[at], _ = json.Marshal(list[i+1]) // of a string: never fails
		}
	}
	return values
}

// asked reads which rebuild is asked for, and which was answered last, and a JSON list of documents that are to be deleted.
func (d *docStore) asked(ctx context.Context) (asked, answered, doomed string, err error) {
	fields, err := d.client.HMGet(ctx, d.state, "asked", "answer", "delete").Result()
	if err != nil {
		return "", "", "", fmt.Errorf("read %s: %w", d.state, err)
	}
	doomed, _ = fields[2].(string)
	asked, _ = fields[0].(string)
	answer, _ := fields[1].(string)
	answered, _, _ = strings.Cut(answer, ": ")
	return asked, answered, doomed, nil
}
