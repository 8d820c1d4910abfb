package projector

import (
	"context"
	"crypto/rand"
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

// WaitForDocuments is WaitFor for a view whose rows are documents: it returns when every commit below lsn is in them. Who reads them
// from the same Redis afterwards has that commit. Past the timeout it is a *WaitError.
func WaitForDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView, lsn uint64, timeout time.Duration) (uint64, error) {
	deadline := time.Now().Add(timeout)
	for {
		reached, problem, err := documentsAt(ctx, client, v.StateKey(pipeline))
		if err != nil {
			return 0, err
		}
		if problem == "" && reached >= lsn {
			return reached, nil
		}
		if !time.Now().Before(deadline) {
			if problem == "" {
				problem = "at " + clock(reached)
			}
			return 0, &WaitError{View: v.Name, Known: true, Problem: fmt.Sprintf("view %s has not reached %s within %v: it is %s", v.Name, clock(lsn), timeout, problem)}
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// documentsAt is the LSN of documents' position, or why they have none.
func documentsAt(ctx context.Context, client redis.UniversalClient, key string) (lsn uint64, problem string, err error) {
	fields, err := client.HMGet(ctx, key, "state", "position", "gap", "epoch").Result()
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", key, err)
	}
	text := func(i int) string { s, _ := fields[i].(string); return s }
	at, err := decimal(text(1))
	if err != nil {
		return 0, "", fmt.Errorf("read %s: position: %w", key, err)
	}
	_, lsn = event.SplitClock(at)
	epoch, err := strconv.ParseUint("0"+text(3), 10, 8)
	if err != nil {
		return 0, "", fmt.Errorf("read %s: epoch: %w", key, err)
	}
	switch {
	case text(2) != "":
		return lsn, "being filled anew: " + text(2), nil
	case text(0) != stateLive:
		return lsn, stateFilling, nil
	}
	return lsn, behind(at, uint8(epoch)), nil
}

// DocumentRequest is a rebuild of documents that was asked of whoever keeps them.
type DocumentRequest struct {
	client redis.UniversalClient
	key    string
	id     string
}

// AskDocuments asks for documents to be read anew.
func AskDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView) (*DocumentRequest, error) {
	r := &DocumentRequest{client, v.StateKey(pipeline), rand.Text()}
	n, err := client.Exists(ctx, r.key).Result()
	if err == nil && n == 0 {
		return nil, fmt.Errorf("pipeline %s has no documents of view %s yet; `walrill status` lists its views", pipeline, v.Name)
	}
	if err == nil {
		err = client.HSet(ctx, r.key, "asked", r.id).Err()
	}
	if err != nil {
		return nil, fmt.Errorf("ask for a rebuild of view %s: %w", v.Name, err)
	}
	return r, nil
}

// Answer looks what has become of the request.
func (r *DocumentRequest) Answer(ctx context.Context) (Answer, error) {
	fields, err := r.client.HMGet(ctx, r.key, "answer", "until").Result()
	if err != nil {
		return Answer{}, fmt.Errorf("read %s: %w", r.key, err)
	}
	var a Answer
	answer, _ := fields[0].(string)
	if rest, ok := strings.CutPrefix(answer, r.id+": "); ok {
		a.Done, a.Text = true, rest
	}
	if text, ok := fields[1].(string); ok {
		until, _ := strconv.ParseInt(text, 10, 64)
		now, err := r.client.Time(ctx).Result()
		if err != nil {
			return a, fmt.Errorf("ask Redis for the time: %w", err)
		}
		a.Kept = until > now.UnixMilli()
	}
	return a, nil
}

// ListParkedDocuments lists what a view has set aside. The key is that of a document, as JSON text, or that of a row that can have none.
func ListParkedDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView) ([]Parked, error) {
	fields, err := client.HGetAll(ctx, v.StateKey(pipeline)+":parked").Result()
	if err != nil {
		return nil, fmt.Errorf("list what view %s has set aside: %w", v.Name, err)
	}
	var list []Parked
	for _, field := range sortedKeys(fields) {
		var p parkedDocument
		if err := json.Unmarshal([]byte(fields[field]), &p); err != nil {
			return nil, fmt.Errorf("list what view %s has set aside: %w", v.Name, err)
		}
		list = append(list, Parked{View: v.Name, Key: parkedKey(field), Error: p.Error, Row: p.row(v.Hash), At: time.Unix(p.At, 0)})
	}
	return list, nil
}

// parkedKey makes JSON of what a script calls a key.
func parkedKey(field string) json.RawMessage {
	if strings.HasPrefix(field, "{") && json.Valid([]byte(field)) {
		return json.RawMessage(field)
	}
	text, _ := json.Marshal(field) // of a string: never fails
	return text
}

// row is the document that was set aside.
func (p *parkedDocument) row(hash bool) json.RawMessage {
	switch {
	case len(p.Values) == 0:
		return nil
	case !hash:
		return json.RawMessage(p.Values[0])
	}
	fields := map[string]string{}
	for i := 0; i+1 < len(p.Values); i += 2 {
		fields[p.Values[i]] = p.Values[i+1]
	}
	text, _ := json.Marshal(fields) // of strings: never fails
	return text
}

// RetryParkedDocuments writes documents that were set aside because something else had their keys, where that is over; all when key is "". It
// returns how many it has written.
func RetryParkedDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView, key string) (int64, error) {
	fields, err := parkedFields(ctx, client, pipeline, v, key)
	if err != nil || len(fields) == 0 {
		return 0, err
	}
	state := v.StateKey(pipeline)
	fields = slices.DeleteFunc(fields, func(f string) bool { return strings.HasPrefix(f, "{") && json.Valid([]byte(f)) })
	var total int64
	for _, f := range fields {
		n, err := retryScript.Run(ctx, client, []string{state + ":fresh", state + ":keys", state + ":parked", f}, v.form()).Int64()
		if err != nil {
			return total, fmt.Errorf("try documents of view %s again: %w", v.Name, err)
		}
		total += n
	}
	if total == 0 {
		return 0, fmt.Errorf("nothing of view %s can be written now; `walrill parked list` says why, remove what stands in the way", v.Name)
	}
	return total, nil
}

// DropParkedDocuments forgets what was set aside: there is no document until the row changes.
func DropParkedDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView, key string) (int64, error) {
	fields, err := parkedFields(ctx, client, pipeline, v, key)
	if err != nil || len(fields) == 0 {
		return 0, err
	}
	n, err := client.HDel(ctx, v.StateKey(pipeline)+":parked", fields...).Result()
	if err != nil {
		return 0, fmt.Errorf("forget documents of view %s: %w", v.Name, err)
	}
	return n, nil
}

// parkedFields are what the scripts call the keys that are meant: one, as ListParkedDocuments has it, or all.
func parkedFields(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView, key string) ([]string, error) {
	list, err := client.HKeys(ctx, v.StateKey(pipeline)+":parked").Result()
	if err != nil {
		return nil, fmt.Errorf("list what view %s has set aside: %w", v.Name, err)
	}
	if key == "" {
		return list, nil
	}
	return slices.DeleteFunc(list, func(f string) bool { return string(parkedKey(f)) != key }), nil
}

// DocumentExplanation says of what documents are made.
type DocumentExplanation struct {
	View    string   `json:"view"`
	Kind    string   `json:"kind"` // document
	Pattern string   `json:"pattern"`
	As      string   `json:"as"`
	State   string   `json:"state_key"` // the hash with state and position
	From    string   `json:"from,omitempty"`
	Table   string   `json:"table,omitempty"`
	Stream  string   `json:"stream,omitempty"`
	Columns []Column `json:"columns"` // of the documents
}

// ExplainDocuments plans documents. Those of a view in the store need its options. Errors about the view are *SetupError.
func ExplainDocuments(ctx context.Context, o Options, v *DocumentView) (DocumentExplanation, error) {
	e := DocumentExplanation{View: v.Name, Kind: "document", Pattern: v.pattern(), As: v.form(), State: v.StateKey(o.Pipeline), From: v.From}
	if v.From != "" {
		of, err := Explain(ctx, o, v.From)
		if err != nil {
			return e, err
		}
		e.Columns = of.Columns
		var names []string
		for _, c := range of.Columns {
			names = append(names, c.As)
		}
		return e, v.check(names, of.Key)
	}
	tables, err := o.Tables(ctx)
	if err != nil {
		return e, err
	}
	def, err := planDirect(v, tables)
	if err != nil {
		return e, err
	}
	e.Table, e.Stream, e.Columns = def.Mirror.Source, def.Mirror.Stream, def.Mirror.Columns
	return e, nil
}

// CheckDocuments looks whether documents can be made: at the view, the kind of Redis, and the rights of its user. It changes nothing.
func CheckDocuments(ctx context.Context, o Options, client redis.UniversalClient, v *DocumentView) Finding {
	f := Finding{Subject: "view " + v.Name}
	e, err := ExplainDocuments(ctx, o, v)
	if _, cluster := client.(*redis.ClusterClient); cluster && err == nil {
		err = v.checkCluster()
	}
	var setup *SetupError
	switch {
	case errors.As(err, &setup):
		f.Finding, f.Fix = setup.Problem, setup.Fix
		return f
	case err != nil:
		f.Finding = err.Error()
		return f
	}
	// One script with all kinds of keys, which only reads.
	key := strings.Builder{}
	for _, p := range v.Pattern {
		key.WriteString(p.Text)
	}
	state := v.StateKey(o.Pipeline)
	err = client.Eval(ctx, "redis.call('HMGET', KEYS[1], 'owner'); redis.call('SISMEMBER', KEYS[2], KEYS[3]); return redis.call('EXISTS', KEYS[3])",
		[]string{state, state + ":keys", key.String()}).Err()
	if err != nil {
		f.Finding = "its documents cannot be written: " + err.Error()
		f.Fix = "start that Redis, or grant the rights that docs/operations.md lists for documents"
		return f
	}
	f.OK, f.Finding = true, fmt.Sprintf("documents %s, as %s, in Redis", e.Pattern, e.As)
	return f
}

// DropDocuments removes a view's documents and what walrill keeps of them, or with dry only counts them. There is -1 when nothing is there.
func DropDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView, dry bool) (int64, error) {
	d := newDocStore(client, pipeline, v)
	st, err := d.load(ctx)
	if err != nil || len(st) == 0 {
		return -1, err
	}
	count, err := client.SCard(ctx, d.index).Result()
	if err != nil || dry {
		return count, err
	}
	for cursor := uint64(0); ; {
		keys, next, err := client.SScan(ctx, d.index, cursor, "", 1000).Result()
		if err == nil && len(keys) > 0 {
			err = client.Unlink(ctx, keys...).Err()
		}
		if err != nil {
			return count, fmt.Errorf("remove the documents of view %s: %w", v.Name, err)
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	if err := client.Unlink(ctx, d.index, d.fresh, d.parked, d.state).Err(); err != nil {
		return count, fmt.Errorf("remove the documents of view %s: %w", v.Name, err)
	}
	return count, nil
}
