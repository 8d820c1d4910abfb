package capture

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walrill/walrill/change"
)

// Watch streams the changes of the publication that are committed from now on, beside whoever has the slot. It goes by a temporary slot,
// which is gone with the connection, so it touches nothing: the pipeline's slot, publication and streams stay as they are. It waits for
// transactions that are open. Confirm lets Postgres forget what was seen. The error is a *SetupError for what is missing.
func (s *Source) Watch(ctx context.Context) (*Stream, error) {
	catalog, err := s.connectCancelling(ctx)
	if err != nil {
		return nil, err
	}
	stream := &Stream{endangered: &s.endangered, catalog: catalog, heard: time.Now()}
	if err := s.watch(ctx, stream); err != nil {
		_ = catalog.Close(context.WithoutCancel(ctx)) // the error that counts is at hand
		return nil, err
	}
	return stream, nil
}

func (s *Source) watch(ctx context.Context, stream *Stream) error {
	pub, err := s.readPublication(ctx, stream.catalog)
	switch {
	case err != nil:
		return err
	case !pub.exists:
		return &SetupError{Problem: fmt.Sprintf("publication %s does not exist yet, so Postgres has nothing to send", s.opts.Publication), Fix: "walrill run   # makes it when it starts"}
	}
	if err := s.dial(ctx, stream); err != nil {
		return err
	}
	stream.ledger.window = 0
	stream.decoder.emptied = func([]byte) (*change.Relation, error) { return nil, nil } // a repair's messages are the daemon's
	slot := fmt.Sprintf("walrill_watch_%d", stream.conn.PID())
	_, err = pglogrepl.CreateReplicationSlot(ctx, stream.conn, slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{Temporary: true, SnapshotAction: "NOEXPORT_SNAPSHOT", Mode: pglogrepl.LogicalReplication})
	if err == nil {
		err = s.replicate(ctx, stream, slot)
	}
	if err != nil {
		_ = stream.conn.Close(context.WithoutCancel(ctx)) // the error that counts is at hand
		if pgCode(err) == codeConfigurationLimit {
			return &SetupError{Problem: "there is no slot left to watch with", Err: err, Fix: "raise max_replication_slots in postgresql.conf and restart Postgres, or drop slots that nobody uses"}
		}
		return setupError(fmt.Errorf("watch the changes: %w", err), &s.opts)
	}
	return nil
}
