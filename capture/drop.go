package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// What became of a thing that was to be removed.
const (
	Removed     = "removed"
	WouldRemove = "would remove"
	NotThere    = "not there"
	Left        = "left"   // on purpose; Reason says why
	NotRemoved  = "failed" // Reason says why
)

// Removal is what Drop did with one thing. Fix removes what is left, ready to be pasted.
type Removal struct{ Outcome, What, Name, Reason, Fix string }

// Holder describes the process of Postgres that streams from the slot.
func (s *Source) Holder(ctx context.Context, pid int32) string {
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Sprintf("process %d of Postgres", pid)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	return holder(ctx, conn, pid)
}

// Drop removes the slot, and the publication if walrill made it; with dry it only says what it would do. It can be
// repeated. An error means that Postgres was not reached and nothing was done.
func (s *Source) Drop(ctx context.Context, dry bool) ([]Removal, error) {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	return []Removal{s.removeSlot(ctx, conn, dry), s.removePublication(ctx, conn, dry)}, nil
}

func (s *Source) removeSlot(ctx context.Context, conn *pgx.Conn, dry bool) Removal {
	r := Removal{Outcome: Removed, What: "slot", Name: s.opts.Slot, Fix: fmt.Sprintf("SELECT pg_drop_replication_slot(%s);", literal(s.opts.Slot))}
	state, err := readSlot(ctx, conn, s.opts.Slot)
	if err == nil {
		err = s.checkSlot(ctx, conn, state)
	}
	var foreign *SetupError
	switch {
	case errors.Is(err, ErrNoSlot):
		return Removal{Outcome: NotThere, What: r.What, Name: r.Name}
	case errors.As(err, &foreign):
		r.Outcome, r.Reason, r.Fix = Left, foreign.Problem, ""
		return r
	case err == nil && dry:
		return Removal{Outcome: WouldRemove, What: r.What, Name: r.Name}
	case err == nil:
		err = s.dropSlot(ctx, conn)
	}
	return r.ended(err)
}

func (s *Source) removePublication(ctx context.Context, conn *pgx.Conn, dry bool) Removal {
	r := Removal{Outcome: Removed, What: "publication", Name: s.opts.Publication, Fix: fmt.Sprintf("DROP PUBLICATION %s;", quote(s.opts.Publication))}
	pub, err := s.readPublication(ctx, conn)
	switch {
	case err == nil && !pub.exists:
		return Removal{Outcome: NotThere, What: r.What, Name: r.Name}
	case err == nil && !s.made(pub):
		r.Outcome, r.Reason = Left, "walrill has not made it for this pipeline"
		return r
	case err == nil && dry:
		return Removal{Outcome: WouldRemove, What: r.What, Name: r.Name}
	case err == nil:
		_, err = conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+quote(s.opts.Publication))
	}
	return r.ended(err)
}

// ended notes an error, or that there is nothing left to do.
func (r Removal) ended(err error) Removal {
	if err != nil {
		r.Outcome, r.Reason = NotRemoved, err.Error()
		return r
	}
	r.Fix = ""
	return r
}
