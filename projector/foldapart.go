package projector

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// apart is what a fold leaves out that is folded again beside the view: the events that the view is kept without. What it
// refuses itself is noted here, and nowhere in the store. Nil leaves out nothing.
type apart struct {
	waiting map[string]event.Position // by ordering key: the event that was refused, behind which all others of the key wait
	left    map[leftOut]bool          // somebody has dropped them
	refused map[string]string         // ordering keys that were refused here, and why
	stopped map[string]bool           // ordering keys that wait, and have come to where they do
}

func newApart() *apart {
	return &apart{map[string]event.Position{}, map[leftOut]bool{}, map[string]string{}, map[string]bool{}}
}

type leftOut struct {
	key string
	at  event.Position
}

// loadApart reads what a view is kept without, as a snapshot has it.
func loadApart(ctx context.Context, q *pgx.Conn, pipeline, view string) (*apart, error) {
	rows, err := q.Query(ctx, `SELECT key, commit::text, ordinal::text, true FROM
			(SELECT DISTINCT ON (key) * FROM walrill.parked_events WHERE pipeline = $1 AND view = $2 ORDER BY key, commit, ordinal) w
		UNION ALL SELECT key, commit::text, ordinal::text, false FROM walrill.left_out WHERE pipeline = $1 AND view = $2`, pipeline, view)
	if err != nil {
		return nil, fmt.Errorf("read what view %s is kept without: %w", view, err)
	}
	a := newApart()
	var key, commit, ordinal string
	var waits bool
	if _, err := pgx.ForEachRow(rows, []any{&key, &commit, &ordinal, &waits}, func() (err error) {
		var at event.Position
		if at.Commit, err = strconv.ParseUint(commit, 10, 64); err == nil {
			at.Ordinal, err = strconv.ParseUint(ordinal, 10, 64)
		}
		if waits {
			a.waiting[key] = at
		} else {
			a.left[leftOut{key, at}] = true
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("read what view %s is kept without: %w", view, err)
	}
	return a, nil
}

func (a *apart) leavesOut(e *event.Event) bool {
	if a == nil || len(a.waiting)+len(a.left) == 0 {
		return false
	}
	key := string(e.Key)
	if first, waits := a.waiting[key]; waits && e.Position.Compare(first) >= 0 {
		a.stopped[key] = true
		return true
	}
	return a.left[leftOut{key, e.Position}]
}

// same reports whether both leave out the same events below a position.
func (a *apart) same(b *apart, pos uint64) bool {
	below := func(x *apart) (map[string]event.Position, map[leftOut]bool) {
		waiting, left := maps.Clone(x.waiting), maps.Clone(x.left)
		maps.DeleteFunc(waiting, func(_ string, at event.Position) bool { return at.Commit >= pos })
		maps.DeleteFunc(left, func(l leftOut, _ bool) bool { return l.at.Commit >= pos })
		return waiting, left
	}
	w1, l1 := below(a)
	w2, l2 := below(b)
	return maps.Equal(w1, w2) && maps.Equal(l1, l2)
}
