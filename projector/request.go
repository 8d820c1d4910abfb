package projector

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What can be asked of a view.
const (
	Rebuild  = "rebuild"
	Rollback = "rollback"
)

// Request is something that was asked of whoever keeps a view.
type Request struct {
	conn                 *pgx.Conn
	pipeline, view, text string
}

// Answer is what has become of a Request.
type Answer struct {
	Kept   bool   // somebody keeps the views
	Done   bool   // it is done, and Text says how much changed
	Text   string // such as "12 rows differed"
	Failed string // why it was not done
}

// Kept are the names of the views that a view store has, those of all pipelines and those that are kept no more; nil when walrill has never
// kept views there. The connection stays the caller's.
func Kept(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, "SELECT name FROM walrill.views ORDER BY name")
	if err == nil {
		var names []string
		if names, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return names, nil
		}
	}
	if noViewsYet(err) {
		return nil, nil
	}
	return nil, fmt.Errorf("read the names of the views: %w", err)
}

// Ask leaves a request for the projector of a pipeline: Rebuild or Rollback. The connection stays the caller's.
func Ask(ctx context.Context, conn *pgx.Conn, pipeline, view, action string) (*Request, error) {
	r := &Request{conn, pipeline, view, action + " " + rand.Text()}
	tag, err := conn.Exec(ctx, "UPDATE walrill.views SET request = $3 WHERE pipeline = ANY ($1) AND name = $2 AND state <> 'stopped'", Groups(pipeline), view, r.text)
	if noViewsYet(err) || err == nil && tag.RowsAffected() == 0 {
		return nil, fmt.Errorf("pipeline %s keeps no view %s in this store; `walrill status` lists its views", pipeline, view)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for a %s of view %s: %w", action, view, err)
	}
	return r, nil
}

// Answer looks what has become of the request.
func (r *Request) Answer(ctx context.Context) (Answer, error) {
	var a Answer
	var text, state string
	err := r.conn.QueryRow(ctx, `SELECT answer, state, EXISTS (SELECT FROM pg_locks o WHERE o.locktype = 'advisory' AND o.objsubid = 2 AND o.classid = $3 AND o.granted
			AND o.objid::bigint = (hashtext(v.pipeline)::bigint & 4294967295) AND o.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
		FROM walrill.views v WHERE pipeline = ANY ($1) AND name = $2`, Groups(r.pipeline), r.view, lockClass).Scan(&text, &state, &a.Kept)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, fmt.Errorf("view %s is gone", r.view)
	}
	if err != nil {
		return a, fmt.Errorf("look after view %s: %w", r.view, err)
	}
	if state == stateStopped { // a daemon that started meanwhile has found it so
		return a, fmt.Errorf("view %s is not kept any more: it has left the configuration that the daemon runs with", r.view)
	}
	if rest, ok := strings.CutPrefix(text, r.text+": "); ok {
		if failed, ok := strings.CutPrefix(rest, "failed: "); ok {
			a.Failed = failed
		} else {
			a.Done, a.Text = true, rest
		}
	}
	return a, nil
}

// refuseRequest answers a request that cannot be done.
func (s *session) refuseRequest(ctx context.Context, v *viewRow, why string) error {
	v.answer = v.request + ": failed: " + why
	_, err := s.conn.Exec(ctx, "UPDATE walrill.views SET answer = $2 WHERE name = $1", v.name, v.answer)
	return err
}

// answerRequests begins what is asked of views that are mirrors, and refuses what cannot be. Queries are built with the others.
func (s *session) answerRequests(ctx context.Context) error {
	for _, name := range sortedKeys(s.views) {
		v, def := s.views[name], s.wanted[name]
		kind, open := v.asked()
		switch {
		case !open || def == nil:
		case kind == Rollback && def.Kind == "mirror":
			if err := s.refuseRequest(ctx, v, "a mirror has one definition, in the configuration: change it there"); err != nil {
				return err
			}
		case kind == Rollback && v.previous == nil:
			if err := s.refuseRequest(ctx, v, "it had no other definition before"); err != nil {
				return err
			}
		case kind == Rollback && len(missingMirrors(v.previous, s.inUse())) > 0:
			if err := s.refuseRequest(ctx, v, "the mirrors lack columns that it needs: put the definition into the configuration"); err != nil {
				return err
			}
		case def.Kind == "mirror":
			if err := s.refill(ctx, v, def); err != nil {
				return err
			}
		}
	}
	return nil
}

// refill begins to fill a mirror that is a view anew, unless that is under way.
func (s *session) refill(ctx context.Context, v *viewRow, def *definition) error {
	for _, m := range s.mirrors {
		if m.filling && m.id() == def.Mirrors[0].id() {
			return nil
		}
	}
	m := newMirror(s.opts, def.Mirrors[0], true)
	var err error
	if m.request, err = s.opts.Backfills.Request(ctx, m.Source); err != nil {
		return err
	}
	if err := s.in(ctx, s.pos, func(tx pgx.Tx) error {
		if err := m.startFilling(ctx, tx, s.opts.Pipeline); err != nil {
			return err
		}
		return s.saveSeqs(ctx, tx)
	}); err != nil {
		return err
	}
	clear(s.dirty)
	return s.load(ctx)
}
