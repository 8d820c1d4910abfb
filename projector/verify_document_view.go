package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// prepareView finds the view that documents are made of, and who notes its changes.
func (d *docTarget) prepareView(ctx context.Context) error {
	s := &session{opts: &d.v.Options, conn: d.v.store}
	if err := s.loadViews(ctx); err != nil && !noViewsYet(err) {
		return err
	}
	of := s.views[d.view.From]
	if of == nil || of.state != stateLive {
		d.not = "view " + d.view.From + " is not complete; `walrill status` shows how far it is"
		return nil
	}
	var text *string
	err := d.v.store.QueryRow(ctx, "SELECT id, definition::text FROM walrill.documents WHERE pipeline = $1 AND name = $2", d.v.Pipeline, d.name).Scan(&d.box, &text)
	if noViewsYet(err) || err == pgx.ErrNoRows {
		d.not = notFilledYet
		return nil
	}
	var kept docDefinition
	if err == nil && text != nil {
		err = json.Unmarshal([]byte(*text), &kept)
	}
	if err != nil {
		return fmt.Errorf("read the documents of %s: %w", d.name, err)
	}
	if kept.Pattern != d.view.pattern() || kept.As != d.view.form() || kept.From != d.view.From {
		d.not = keptOtherwise
		return nil
	}
	d.query, d.def, d.wait = newQuery(&d.v.Options, of.name, of.def), of.def, of.name
	d.key, d.columns = of.def.Key, of.def.Columns
	d.rows = &side{conn: d.v.store, from: d.table() + " t", values: []string{jsonObject("t", d.view.columns()) + "::text", "row_to_json(t.*)::text"}}
	for _, k := range d.key {
		d.rows.key, d.rows.keyTypes = append(d.rows.key, "t."+quoteIdent(k)), append(d.rows.keyTypes, d.query.keyType(k))
	}
	d.rows.ordered = d.rows.key
	return nil
}

// viewRound looks at documents of a view once, when Redis has what was in the store before.
func (d *docTarget) viewRound(ctx context.Context, open []*docSuspect) (certain []Difference, left []*docSuspect, err error) {
	if err := d.note(ctx, []string{"{}"}); err != nil {
		return nil, nil, err
	}
	differ, err := d.look(ctx, open, func() (map[string]found, error) {
		return d.rows.rows(ctx, rowsOf(open), "t.xmin::text || t.ctid::text")
	})
	if err != nil {
		return nil, nil, err
	}
	for _, x := range differ {
		s := x.suspect
		if s.seen != x.seen {
			s.seen, s.times = x.seen, 0
		}
		if s.times++; s.times < stableRounds {
			s.why = "it kept changing"
			left = append(left, s)
			continue
		}
		certain = append(certain, x.difference)
	}
	return certain, left, nil
}

// rowsOf are the keys of the rows of suspects, each once.
func rowsOf(open []*docSuspect) [][]string {
	var keys [][]string
	for _, s := range open {
		if s.row != nil {
			keys = append(keys, s.row)
		}
	}
	slices.SortFunc(keys, slices.Compare[[]string])
	return slices.CompactFunc(keys, slices.Equal[[]string])
}

// note leaves keys, as the triggers of the view do, and waits until Redis has acknowledged what they are about, and all that was noted
// before. The key {} is of no row.
func (d *docTarget) note(ctx context.Context, keys []string) error {
	var tx string
	err := pgx.BeginFunc(ctx, d.v.store, func(pgx.Tx) error {
		if _, err := d.v.store.Exec(ctx, "INSERT INTO walrill.document_keys (document, key) SELECT $1, k::jsonb FROM unnest($2::text[]) k", d.box, keys); err != nil {
			return err
		}
		return d.v.store.QueryRow(ctx, "SELECT pg_current_xact_id()::text").Scan(&tx)
	})
	if err != nil {
		return fmt.Errorf("note keys of documents: %w", err)
	}
	for deadline := time.Now().Add(d.v.Patience); ; {
		var taken bool
		var sent int64
		err := d.v.store.QueryRow(ctx, "SELECT state = 'live' AND coalesce(pg_visible_in_snapshot($2::text::xid8, snapshot::pg_snapshot), false), sent FROM walrill.documents WHERE id = $1",
			d.box, tx).Scan(&taken, &sent)
		if err != nil {
			return fmt.Errorf("look after keys of documents: %w", err)
		}
		if taken {
			if _, err := d.store.load(ctx); err != nil {
				return err
			}
			if d.store.serial >= uint64(sent) {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("its documents have not been brought up to the view within %v; they can be compared when a daemon keeps them: see `walrill status`", d.v.Patience)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// columnsOfView compares the fields of a document with the row as it should be in it.
func (d *docTarget) columnsOfView(fields map[string]string, row []byte) (list []ColumnValues) {
	_ = eachField(row, func(name, value []byte) { // of Postgres
		is, there := fields[string(name)]
		should, wanted := string(value), true
		if d.view.Hash {
			should, wanted = jsonText(value), string(value) != "null"
		}
		if there == wanted && (!there || is == should) {
			return
		}
		v := ColumnValues{Column: string(name)}
		if there {
			v.View = d.shown(is)
		}
		if wanted {
			v.Source = d.shown(should)
		}
		if v.View != nil && v.Source != nil && *v.View == *v.Source {
			v.View, v.Source = &is, &should // 1 is not "1"
		}
		list = append(list, v)
	})
	return list
}

// shown is the text of a value of a document; nil for NULL.
func (d *docTarget) shown(value string) *string {
	if !d.view.Hash {
		if value == "null" {
			return nil
		}
		value = jsonText([]byte(value))
	}
	return &value
}

// repairView notes the keys of documents, so that whoever keeps them writes them from their rows. Those that can be of no row go when all
// are written anew.
func (d *docTarget) repairView(ctx context.Context, list []Difference) error {
	var keys []string
	all := false
	for _, x := range list {
		values, _ := d.view.valuesOf(documentKey(x))
		if x.key == nil || values == nil {
			all = true
			continue
		}
		text, err := json.Marshal(values)
		if err != nil {
			return err
		}
		keys = append(keys, string(text))
	}
	if len(keys) > 0 {
		if err := d.note(ctx, keys); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	request, err := AskDocuments(ctx, d.store.client, d.v.Pipeline, d.view)
	if err != nil {
		return err
	}
	return d.v.awaitAnswer(ctx, request.Answer)
}
