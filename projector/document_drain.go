package projector

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// storeKeeper keeps the documents of a view's rows. It runs where the view is kept, with a connection of its own.
type storeKeeper struct {
	documents *Documents
	opts      *DocumentOptions
	view      *DocumentView
	store     *docStore
	box       *outbox

	position uint64 // of the documents
	parked   int64
	tend     time.Time
}

func clockOf(epoch uint8, lsn int64) uint64 { return event.Clock(epoch, uint64(lsn)) }

func (k *storeKeeper) run(ctx context.Context) error {
	if err := k.await(ctx); err != nil {
		return err
	}
	conn, err := connect(ctx, k.opts.StoreURL, k.opts.Pipeline)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	if _, err := conn.Exec(ctx, "SET enable_hashjoin = off; SET enable_mergejoin = off", pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("set up a session of the view store: %w", err)
	}
	if err := lockDocuments(ctx, conn, k.opts.Pipeline+"/"+k.view.Name, k.leads); err != nil {
		return err
	}
	for {
		var ok bool
		if k.box, ok, err = openOutbox(ctx, conn, k.opts.Pipeline, k.view); err != nil {
			return err
		}
		if ok {
			break
		}
		k.wait("view " + k.view.From + " is not complete")
		if err := pause(ctx, poll); err != nil {
			return err
		}
		if !k.leads() {
			return errAgain
		}
	}
	k.store.owner = fmt.Sprintf("%s:%d:%s", k.box.id, k.box.fence, rand.Text())
	if err := k.documents.lead(ctx, k.view, k.store, true); err != nil {
		return err
	}
	lost, err := k.compare(ctx)
	if err != nil {
		return err
	}
	k.documents.note(k.view.Name, func(s *DocumentStatus) { s.Running = true })
	k.opts.Log.Info("keeping documents", "view", k.view.Name, "from", k.view.From, "position", clock(k.position), "why", lost)
	if lost != "" {
		if err := k.refill(ctx, false, ""); err != nil {
			return err
		}
	}
	k.tell(stateLive, "")
	return k.follow(ctx)
}

// leads reports whether the views of the store are kept by this process.
func (k *storeKeeper) leads() bool { return k.opts.Store.Status().State == StateRunning }

// await waits until this process keeps the views of the store.
func (k *storeKeeper) await(ctx context.Context) error {
	for {
		st, moved := k.opts.Store.watch()
		if st.State == StateRunning {
			return nil
		}
		k.wait("the views in the store are not kept by this daemon now")
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch is the status, and a channel that is closed when it changes.
func (p *Projector) watch() (Status, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, p.moved
}

func (k *storeKeeper) wait(why string) {
	k.documents.note(k.view.Name, func(s *DocumentStatus) { s.Error = why })
}

func (k *storeKeeper) tell(state, problem string) {
	k.documents.note(k.view.Name, func(s *DocumentStatus) {
		s.State, s.Error, s.Clock, s.Parked = state, problem, k.position, int(k.parked)
	})
}

// compare reads what Redis has, and says why that is not what the store has written, if it is not.
func (k *storeKeeper) compare(ctx context.Context) (lost string, err error) {
	st, err := k.store.load(ctx)
	if err != nil {
		return "", err
	}
	if k.position, err = decimal(st["position"]); err != nil {
		return "", fmt.Errorf("read %s: position: %w", k.store.state, err)
	}
	if k.parked, err = k.opts.Client.HLen(ctx, k.store.parked).Result(); err != nil {
		return "", fmt.Errorf("read %s: %w", k.store.parked, err)
	}
	switch {
	case k.box.state != stateLive:
		return "they are new", nil
	case st["id"] != k.box.id:
		return "Redis has others", nil
	case k.store.serial < k.box.acked:
		return "Redis has lost what was written", nil
	case k.store.serial > k.box.sent:
		return "the view store has lost what was written", nil
	}
	return "", nil
}

// follow writes what is noted whenever the views have moved on.
func (k *storeKeeper) follow(ctx context.Context) error {
	for {
		// The status before the snapshot: what it says is then in the rows.
		st, moved := k.opts.Store.watch()
		if st.State != StateRunning {
			return errAgain
		}
		if time.Now().After(k.tend) {
			if err := k.lookAfter(ctx); err != nil {
				return err
			}
			k.tend = time.Now().Add(tendEvery)
		}
		if err := k.drain(ctx, st.Clock); err != nil {
			return err
		}
		timer := time.NewTimer(tendEvery)
		select {
		case <-moved:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// lookAfter answers a rebuild that somebody asks for.
func (k *storeKeeper) lookAfter(ctx context.Context) error {
	asked, answered, _, err := k.store.asked(ctx)
	if err != nil || asked == answered {
		return err
	}
	return k.refill(ctx, true, asked)
}

// drain writes the documents of all rows that are noted, with the position of the snapshot that has them. shown is how far the views are
// at least.
func (k *storeKeeper) drain(ctx context.Context, shown uint64) error {
	st, err := k.box.look(ctx, k.box.conn)
	if err != nil {
		return err
	}
	switch {
	case st.live && st.change:
		return errAgain
	case !st.live:
		k.tell(stateFilling, "view "+k.view.From+" is not complete")
		return nil
	}
	now := max(st.clock, shown)
	switch {
	case now < k.position:
		// What was only shown and not written before a restart comes again at once.
		k.tell(stateLive, "waiting until the view store has caught up with the documents")
	case st.keys:
		return k.writeNoted(ctx, shown)
	case now > k.position || time.Since(k.store.called) > docRenew:
		reply, err := k.store.write(ctx, docCall{position: now, serial: k.store.serial})
		if err != nil {
			return err
		}
		k.position, k.parked = now, reply.parked
		k.tell(stateLive, "")
	}
	return nil
}

// writeNoted takes the noted keys and the rows from one snapshot, promises the serial numbers that it needs, and only then writes to Redis.
func (k *storeKeeper) writeNoted(ctx context.Context, shown uint64) error {
	var ops []docOp
	var all bool
	var st storeState
	var snapshot, xmin string
	err := pgx.BeginTxFunc(ctx, k.box.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		var err error
		if snapshot, xmin, err = k.box.snapshot(ctx, tx); err != nil {
			return err
		}
		if st, err = k.box.look(ctx, tx); err != nil || !st.live || st.change {
			return err
		}
		// Acknowledged keys go first, so that they are not read again.
		if err := k.box.forget(ctx, tx); err != nil {
			return err
		}
		var rows []noted
		if rows, all, err = k.box.read(ctx, tx, k.view); err != nil || all {
			return err
		}
		if ops, err = k.operations(rows); err != nil {
			return err
		}
		return k.box.promise(ctx, tx, stateLive, k.store.serial+uint64(parts(ops)), k.store.serial, snapshot)
	})
	if err != nil {
		return err
	}
	if !st.live || st.change {
		return nil // look says so again
	}
	if all {
		return k.refill(ctx, false, "")
	}
	position := max(st.clock, shown)
	reply, err := k.store.writeAll(ctx, docCall{ops: ops, position: position, fields: []string{"state", stateLive}})
	if err != nil {
		return err
	}
	k.box.acknowledge(snapshot, xmin)
	k.position, k.parked = position, reply.parked
	k.tell(stateLive, "")
	return nil
}

// parts is how many calls operations take.
func parts(ops []docOp) int {
	for n := 1; ; n++ {
		i := part(ops)
		if i == len(ops) {
			return n
		}
		ops = ops[i:]
	}
}

// operations are what brings the documents of the noted keys to the rows as they are.
func (k *storeKeeper) operations(rows []noted) ([]docOp, error) {
	var ops []docOp
	written := map[string]bool{}
	for _, n := range rows {
		if n.row == nil {
			continue
		}
		op, err := k.operation('s', n.now, n.row)
		if err != nil {
			return nil, err
		}
		if !written[op.key] {
			ops = append(ops, op)
			written[op.key] = true
		}
		if op.kind != 'P' && k.parked > 0 {
			ops = append(ops, docOp{kind: 'U', key: k.rowKey(n.now)})
		}
	}
	for _, n := range rows {
		key, null, err := k.view.keyOf(n.key)
		if err != nil {
			return nil, err
		}
		if n.row == nil && k.parked > 0 {
			ops = append(ops, docOp{kind: 'U', key: k.rowKey(n.key)})
		}
		if null == "" && !written[key] {
			ops = append(ops, docOp{kind: 'd', key: key})
			written[key] = true
		}
	}
	return ops, nil
}

// operation writes a row's document, or sets the row aside when it can have none.
func (k *storeKeeper) operation(kind byte, now, row []byte) (docOp, error) {
	key, null, err := k.view.keyOf(now)
	if err != nil {
		return docOp{}, err
	}
	if null != "" {
		return docOp{kind: 'P', key: k.rowKey(now), value: []byte("its column " + null + ", which the pattern of keys names, is NULL")}, nil
	}
	return k.store.set(kind, key, row)
}

// rowKey is the key of a row as a JSON object, of an object that has it.
func (k *storeKeeper) rowKey(object []byte) string {
	b := []byte{'{'}
	_ = eachField(object, func(name, value []byte) { // keyOf has read it
		if contains(k.box.key, string(name)) {
			if len(b) > 1 {
				b = append(b, ", "...)
			}
			quoted, _ := json.Marshal(string(name)) // of a string: never fails
			b = append(append(append(b, quoted...), ": "...), value...)
		}
	})
	return string(append(b, '}'))
}

var errBehind = errors.New("the view store is behind the documents")

// refill writes all documents, as one snapshot of the view has them, and deletes those that have no row. A rebuild finds them right, mostly:
// the view stays live. Else it is filling until all are there.
func (k *storeKeeper) refill(ctx context.Context, live bool, asked string) error {
	state := stateFilling
	if live {
		state = stateLive
	}
	start := max(k.store.serial, k.box.sent) + 1
	if err := k.box.promise(ctx, k.box.conn, state, start+1<<32, k.box.acked, ""); err != nil {
		return err
	}
	if _, err := k.store.write(ctx, docCall{flags: docBegin + docNothing, serial: start, fields: []string{"state", state, "id", k.box.id}}); err != nil {
		return err
	}
	if !live {
		k.tell(stateFilling, "")
	}
	var total int64
	for {
		changed, err := k.copy(ctx)
		total += changed
		if err == nil {
			break
		}
		if !errors.Is(err, errBehind) {
			return err
		}
		k.wait("waiting until the view store has caught up with the documents")
		if err := pause(ctx, poll); err != nil {
			return err
		}
		if !k.leads() {
			return errAgain
		}
	}
	gone, err := k.store.sweep(ctx, "")
	if err != nil {
		return err
	}
	fields := []string{"state", stateLive}
	if asked != "" {
		fields = append(fields, "answer", fmt.Sprintf("%s: %d documents differed", asked, total+gone))
	}
	reply, err := k.store.write(ctx, docCall{fields: fields, flags: docEnd, position: k.position})
	if err != nil {
		return err
	}
	k.parked = reply.parked
	if err := k.box.promise(ctx, k.box.conn, stateLive, k.store.serial, k.store.serial, k.box.seen); err != nil {
		return err
	}
	k.opts.Log.Info("documents are complete", "view", k.view.Name, "position", clock(k.position))
	k.tell(stateLive, "")
	return nil
}

// copy writes the documents of all rows that a snapshot has, and says how many were others before.
func (k *storeKeeper) copy(ctx context.Context) (changed int64, err error) {
	shown, _ := k.opts.Store.watch()
	err = pgx.BeginTxFunc(ctx, k.box.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		snapshot, xmin, err := k.box.snapshot(ctx, tx)
		if err != nil {
			return err
		}
		st, err := k.box.look(ctx, tx)
		if err != nil {
			return err
		}
		position := max(st.clock, shown.Clock)
		if st.change {
			return errAgain
		}
		if !st.live || position < k.position {
			return errBehind
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("DECLARE documents NO SCROLL CURSOR FOR SELECT %s::text, row_to_json(v.*)::text FROM %s v", jsonObject("v", k.view.columns()), k.box.table)); err != nil {
			return fmt.Errorf("read the rows of %s: %w", k.box.table, err)
		}
		for {
			n, more, err := k.copySome(ctx, tx)
			changed += n
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
		k.box.acknowledge(snapshot, xmin)
		k.position = position
		return nil
	})
	return changed, err
}

const copyRows = 2000

func (k *storeKeeper) copySome(ctx context.Context, tx pgx.Tx) (changed int64, more bool, err error) {
	rows, err := tx.Query(ctx, fmt.Sprintf("FETCH %d FROM documents", copyRows))
	if err != nil {
		return 0, false, fmt.Errorf("read the rows of %s: %w", k.box.table, err)
	}
	var ops []docOp
	var now, row []byte
	n := 0
	if _, err = pgx.ForEachRow(rows, []any{&now, &row}, func() error {
		n++
		op, err := k.operation('c', now, append([]byte(nil), row...))
		ops = append(ops, op)
		return err
	}); err != nil {
		return 0, false, fmt.Errorf("read the rows of %s: %w", k.box.table, err)
	}
	for len(ops) > 0 {
		i := part(ops)
		reply, err := k.store.write(ctx, docCall{ops: ops[:i], flags: docFresh})
		if err != nil {
			return changed, false, err
		}
		changed, ops = changed+reply.changed, ops[i:]
	}
	return changed, n == copyRows, nil
}
