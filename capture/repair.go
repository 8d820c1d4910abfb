package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// Repair puts a pipeline right whose slot was lost: the slot is made anew, a message in the WAL for each table
// says that what the streams have of it no longer holds, and every table is backfilled. The stream
// makes a truncate of each message, at its commit LSN: a position that is the same however often it is
// replayed, and that all rows read afterwards come behind.
//
// It may be broken off anywhere and done again from its beginning: a table that is emptied
// twice, with its rows read after the second time, is right all the same. One instance repairs at a time.
type Repair struct {
	source *Source
	conn   *pgx.Conn // holds the lock
	tables []table
}

// BeginRepair takes the lock of the pipeline's repairs and makes sure that all its tables can be backfilled;
// nothing is touched yet. It returns a *SlotBusyError while another instance repairs, and a
// *SetupError that names the tables that cannot be repaired. The caller closes the Repair once it streams.
func (s *Source) BeginRepair(ctx context.Context) (*Repair, error) {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return nil, err
	}
	r := &Repair{source: s, conn: conn}
	if err := r.begin(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Repair) begin(ctx context.Context) error {
	s := r.source
	// Should we be killed while the slot is made, which can take as long as the longest transaction, the server is to
	// notice and give up the lock. Where it cannot, it does so afterwards.
	_, _ = r.conn.Exec(ctx, `SET client_connection_check_interval = '1s'`)
	var free bool
	err := r.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('walrill repairs slot ' || $1, 0))`, s.opts.Slot).Scan(&free)
	if err != nil {
		return fmt.Errorf("lock the repair of slot %s: %w", s.opts.Slot, err)
	}
	if !free {
		return &SlotBusyError{s.opts.Slot, errors.New("another instance repairs it")}
	}
	tables, unfit, err := s.wantedTables(ctx, r.conn)
	if err = errors.Join(err, unfit); err != nil {
		return err
	}
	if _, err := s.ensurePublication(ctx, r.conn, tables); err != nil {
		return err
	}
	r.tables = tables
	problems, err := s.unrepairable(ctx, r.conn, tables)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return &SetupError{Problem: fmt.Sprintf("slot %s is lost and source.on_slot_loss cannot repair that: %d of the tables cannot be read again; nothing was changed", s.opts.Slot, len(problems)),
			Err: errors.Join(problems...), Fix: "mend these tables or take them out of the configuration; or run `walrill adopt` to go on from now with a gap"}
	}
	return nil
}

// Close ends the lock.
func (r *Repair) Close() { _ = r.conn.Close(context.Background()) } // the server drops the lock with the session

// unrepairable says of each table that cannot be backfilled why.
func (s *Source) unrepairable(ctx context.Context, conn *pgx.Conn, tables []table) (problems []error, err error) {
	for _, t := range tables {
		target, err := s.readTarget(ctx, conn, t.Namespace, t.Name)
		if err == nil {
			err = mayRead(ctx, conn, target)
		}
		var setup *SetupError
		if errors.As(err, &setup) {
			problems = append(problems, err)
		} else if err != nil {
			return nil, err
		}
	}
	return problems, nil
}

func mayRead(ctx context.Context, conn *pgx.Conn, t *target) error {
	var may bool
	err := conn.QueryRow(ctx, `SELECT has_table_privilege($1::oid, 'SELECT') OR has_any_column_privilege($1::oid, 'SELECT')`, t.oid).Scan(&may)
	if err == nil && !may {
		return &SetupError{Problem: fmt.Sprintf("the role in source.url may not read table %s", t),
			Fix: fmt.Sprintf("GRANT SELECT ON %s TO %s;", pgx.Identifier{t.namespace, t.name}.Sanitize(), quote(conn.Config().User))}
	}
	return err
}

// warnUnrepairable says while all is well what a repair would stop at.
func (s *Source) warnUnrepairable(ctx context.Context, conn *pgx.Conn, tables []table) {
	if !s.opts.Repairs {
		return
	}
	problems, err := s.unrepairable(ctx, conn, tables)
	if err != nil {
		problems = []error{err}
	}
	for _, err := range problems {
		s.opts.Log.Warn("should the slot be lost, source.on_slot_loss could not repair the pipeline because of this table", "error", err)
	}
}

// Run repairs. The id is new with each repair and is recorded in the sink, as under way, before Run is called and
// until the stream has begun: should this process end, the next one comes here again.
func (r *Repair) Run(ctx context.Context, id string) (Info, error) {
	var info Info
	s := r.source
	if err := s.identify(ctx, &info); err != nil {
		return info, err
	}
	if err := onTimeline(ctx, r.conn, info.Timeline); err != nil {
		return info, err
	}
	s.opts.Log.Warn("repairing: the slot was lost, so every table is emptied in the streams and read again", "slot", s.opts.Slot, "tables", len(r.tables))
	for _, step := range []func(context.Context) error{r.plan, r.renewSlot, func(ctx context.Context) error { return r.tell(ctx, id) }} {
		if err := step(ctx); err != nil {
			return info, err
		}
	}
	state, err := readSlot(ctx, r.conn, s.opts.Slot)
	if err != nil {
		return info, err
	}
	info.Tables, info.Confirmed, info.SlotUsed = relations(r.tables), state.Confirmed, true
	s.setPrepared(r.tables)
	s.setIdentity(&info, id)
	return info, nil
}

// plan records that every table is to be read, from its beginning and whole. Requests that were made
// before are answered by that.
func (r *Repair) plan(ctx context.Context) error {
	store := r.source.opts.Backfill.Store
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	records, err := store.Load(ctx)
	if err != nil {
		return fmt.Errorf("look for backfills: %w", err)
	}
	for _, t := range r.tables {
		state := BackfillState{State: BackfillWaiting}
		if request := records[t.String()].Request; request != nil {
			state.Request = request.ID
		}
		if err := store.Save(ctx, t.String(), state); err != nil {
			return fmt.Errorf("record the backfill of %s: %w", t, err)
		}
	}
	return nil
}

// renewSlot drops a slot that is lost and makes one when there is none.
func (r *Repair) renewSlot(ctx context.Context) error {
	s := r.source
	state, err := readSlot(ctx, r.conn, s.opts.Slot)
	if err == nil && state.WALStatus == "lost" {
		if err := s.dropSlot(ctx, r.conn); err != nil {
			return err
		}
		err = ErrNoSlot
	}
	switch {
	case errors.Is(err, ErrNoSlot):
		_, err = s.createSlot(ctx, r.conn)
	case err == nil && state.ActivePID != 0:
		err = &SlotBusyError{s.opts.Slot, fmt.Errorf("process %d of Postgres streams from it", state.ActivePID)}
	}
	return err
}

// emptied is the content of a repair's message.
type emptied struct {
	ID     string `json:"id"`
	Schema string `json:"schema"`
	Table  string `json:"table"`
}

func (s *Source) repairPrefix() string { return "walrill.repair." + s.opts.Pipeline }

// tell writes a message for each table, in a transaction of its own: so what becomes of a table that is dropped
// before the message is delivered changes nothing in the positions of the others.
func (r *Repair) tell(ctx context.Context, id string) error {
	for _, t := range r.tables {
		content, err := json.Marshal(emptied{ID: id, Schema: t.Namespace, Table: t.Name})
		if err != nil {
			return err
		}
		if _, err := r.conn.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, $2)`, r.source.repairPrefix(), string(content)); err != nil {
			return setupError(fmt.Errorf("write the message that empties table %s: %w", t, err), &r.source.opts)
		}
	}
	return nil
}

// emptied returns the table of a repair's message, as it is now. It is nil for messages that are not of the last
// repair, which anybody may write, and for a table that is gone.
func (s *Source) emptied(ctx context.Context, stream *Stream, types *typeCatalogue, content []byte) (*change.Relation, error) {
	var m emptied
	s.mu.Lock()
	id := s.repair
	s.mu.Unlock()
	if id == "" || json.Unmarshal(content, &m) != nil || m.ID != id {
		return nil, nil
	}
	t, err := s.findTarget(ctx, stream.catalog, m.Schema, m.Table)
	var gone *SetupError
	if errors.As(err, &gone) {
		s.opts.Log.Warn("a table that a repair was to empty is gone; what the streams have of it stays", "table", m.Schema+"."+m.Table, "reason", gone.Problem)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rel, err := t.relation(ctx, stream.catalog, types)
	if err != nil {
		return nil, fmt.Errorf("look up table %s: %w", t, err)
	}
	if known := stream.decoder.relations[rel.OID]; known != nil && sameShape(known, rel) {
		return known, nil // one pointer, so that the mapping is compiled once
	}
	return rel, nil
}
