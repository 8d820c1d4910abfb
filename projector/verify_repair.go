package projector

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A repair goes the way that rows go anyway. Keys of a query are computed anew by whoever keeps the view. Rows of a mirror
// are read again from the source by a backfill of these keys, which brings them in order with all other changes; those that
// the source does not have are deleted first by whoever keeps the view, and read again too, so that one that has come
// back meanwhile is there in the end. A fold is folded anew.
// Documents are written again by whoever keeps them: those of a view when their keys are noted, those of a table when their rows are read again.

// repairBatch is how many keys are repaired together.
const repairBatch = 500

// repair mends what was found and looks again. What is wrong still, or again, stays in c.
func (v *verifier) repair(ctx context.Context, t *target, c *Comparison) error {
	switch {
	case t.doc != nil:
		return t.doc.repair(ctx, c)
	case t.folds():
		return v.repairFold(ctx, t, c)
	}
	listed := c.Differences
	for len(listed) > 0 {
		n := min(len(listed), repairBatch)
		if err := v.repairSome(ctx, t, listed[:n]); err != nil {
			return err
		}
		listed = listed[n:]
	}
	var keys [][]string
	for _, d := range c.Differences {
		keys = append(keys, d.key)
	}
	again := &Comparison{}
	for len(keys) > 0 {
		n := min(len(keys), maxSuspects)
		if err := v.settle(ctx, t, again, keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	c.Repaired = len(c.Differences) - again.Found - len(again.Unjudged)
	return nil
}

func (v *verifier) repairSome(ctx context.Context, t *target, found []Difference) error {
	var ask []Difference
	for _, d := range found {
		if t.query != nil || d.Kind == Extra {
			ask = append(ask, d)
		}
	}
	if err := v.askRepair(ctx, t, ask); err != nil || t.query != nil {
		return err
	}
	keys := make([][]string, len(found))
	for i, d := range found {
		keys[i] = d.key
	}
	return v.Refresh(ctx, t.mirror.Source, keyCondition(&t.onSource, t.mirror.Key, keys))
}

// keyCondition is true of rows with these keys, of columns that a side has the types of.
func keyCondition(s *side, columns []string, keys [][]string) string {
	rows := make([]string, len(keys))
	for i, key := range keys {
		parts := make([]string, len(key))
		for j, text := range key {
			parts[j] = literal(text) // of text it may be that the store does not know the column's type
			if s.keyTypes[j] != "text" {
				parts[j] += "::" + s.keyTypes[j]
			}
		}
		rows[i] = "(" + strings.Join(parts, ", ") + ")"
	}
	return fmt.Sprintf("(%s) IN (%s)", list("%s", columns), strings.Join(rows, ", "))
}

// askRepair leaves keys for whoever keeps the view, and waits until they are seen to.
func (v *verifier) askRepair(ctx context.Context, t *target, list []Difference) error {
	if len(list) == 0 {
		return nil
	}
	id := t.name
	if t.mirror != nil {
		id = t.mirror.id()
	}
	keys := make([]string, len(list))
	for i, d := range list {
		keys[i] = string(d.Key)
	}
	_, err := v.store.Exec(ctx, "INSERT INTO walrill.repairs (pipeline, view, key) SELECT $1, $2, k::jsonb FROM unnest($3::text[]) k ON CONFLICT DO NOTHING", v.Pipeline, id, keys)
	if err != nil {
		return fmt.Errorf("ask for keys to be repaired: %w", err)
	}
	for deadline := time.Now().Add(v.Patience); ; {
		var left int
		if err := v.store.QueryRow(ctx, "SELECT count(*) FROM walrill.repairs WHERE pipeline = $1 AND view = $2", v.Pipeline, id).Scan(&left); err != nil {
			return fmt.Errorf("look after the keys to be repaired: %w", err)
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no daemon has seen to them within %v; they are asked for, and the next one that keeps the views does it", v.Patience)
		}
		if err := pause(ctx, betweenRounds); err != nil {
			return err
		}
	}
}

// repairKeys does what `walrill verify --repair` asks for: it computes keys of a query anew, and takes
// rows out of a mirror, with all that follows for the views.
func (s *session) repairKeys(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT view, key::text FROM walrill.repairs WHERE pipeline = $1", s.opts.Pipeline)
	if err != nil {
		return fmt.Errorf("look for what is to be repaired: %w", err)
	}
	type repair struct{ View, Key string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[repair])
	if err != nil || len(list) == 0 {
		return err
	}
	s.careful = true
	if err := s.begin(ctx); err != nil {
		return err
	}
	if err := s.setPlace(ctx); err != nil {
		return err
	}
	for _, r := range list {
		if _, err := s.conn.Exec(ctx, "DELETE FROM walrill.repairs WHERE pipeline = $1 AND view = $2 AND key = $3::jsonb", s.opts.Pipeline, r.View, r.Key); err != nil {
			return fmt.Errorf("note what is repaired: %w", err)
		}
		for _, q := range s.queries {
			if q.name == r.View {
				if err := s.recomputeKeys(ctx, q, []string{r.Key}); err != nil {
					return err
				}
			}
		}
		for _, m := range s.mirrors {
			if m.id() == r.View && !m.filling {
				m.fold.delete([]byte(r.Key))
			}
		}
	}
	s.opts.Log.Info("keys of views were repaired", "keys", len(list))
	return s.commit(ctx, s.pos.read)
}
