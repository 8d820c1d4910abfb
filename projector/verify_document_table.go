package projector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Why documents cannot be compared.
const (
	notFilledYet  = "no daemon has made its documents yet: start `walrill run`"
	keptOtherwise = "its documents are kept by another definition than the configuration has now: restart the daemon"
)

// prepareTable finds the table that documents are made of.
func (d *docTarget) prepareTable(ctx context.Context) error {
	def, err := planDirect(d.view, d.v.tables)
	if err != nil {
		return err
	}
	st, err := d.store.load(ctx)
	if err != nil {
		return err
	}
	var kept docDefinition
	_ = json.Unmarshal([]byte(st["definition"]), &kept) // what cannot be read is another
	switch {
	case st["definition"] == "":
		d.not = notFilledYet
		return nil
	case !sameJSON(kept, def):
		d.not = keptOtherwise
		return nil
	}
	d.mirror = newMirror(&d.v.Options, def.Mirror, false)
	d.uses = []mirrorDef{def.Mirror}
	if err := d.v.prepareMirror(ctx, d.target); err != nil {
		return err
	}
	d.rows = &d.onSource
	d.rows.conn, d.rows.ordered = d.v.source, d.rows.key
	table := d.v.tables[slices.IndexFunc(d.v.tables, func(t Table) bool { return t.Name == def.Mirror.Source })]
	var object, columns, rows, made []string
	for _, c := range def.Mirror.Columns {
		col := table.Columns[slices.IndexFunc(table.Columns, func(x SourceColumn) bool { return x.Name == c.Name })]
		if contains(d.view.columns(), c.As) {
			object = append(object, literal(c.As)+", t."+quoteIdent(c.Name))
		}
		here, there := canonical(c.As, col.Type, col) // both are of the source's types
		rows, made, columns = append(rows, here), append(made, there), append(columns, quoteIdent(c.As)+" "+col.Type)
		d.parts = append(d.parts, docColumn{isJSON(col.Type), isJSON(col.Type) || strings.HasSuffix(col.Type, "[]") || strings.HasSuffix(col.made(), "[]") || isJSON(col.made())})
	}
	d.made, d.as = strings.Join(made, ", "), " AS t("+strings.Join(columns, ", ")+")"
	d.rows.values = append([]string{"json_build_object(" + strings.Join(object, ", ") + ")::text", "NULL"}, rows...)
	return nil
}

// docColumn is what a column is in a hash, where all are texts.
type docColumn struct {
	json bool // it is json or jsonb
	raw  bool // its text is JSON, and no value as Postgres reads it
}

// tableRound looks at documents of a table once.
func (d *docTarget) tableRound(ctx context.Context, open []*docSuspect, deadline time.Time) (certain []Difference, left []*docSuspect, err error) {
	from, err := d.v.mark(ctx)
	if err != nil {
		return nil, nil, err
	}
	if holder, err := d.v.awaitWriters(ctx, d.target, deadline); err != nil || holder != "" {
		for _, s := range open {
			s.why = holder
		}
		return nil, open, err
	}
	here, err := d.rows.rows(ctx, rowsOf(open), "''")
	if err != nil {
		return nil, nil, err
	}
	behind, err := d.v.mark(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := WaitForDocuments(ctx, d.store.client, d.v.Pipeline, d.view, behind, d.v.Patience); err != nil {
		return nil, nil, explainWait(err)
	}
	differ, err := d.look(ctx, open, func() (map[string]found, error) { return here, nil })
	if err != nil || len(differ) == 0 {
		return nil, nil, err
	}
	touched, all, err := d.v.touched(ctx, d.target, from)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range differ {
		if s := x.suspect; s.row != nil && (all || touched[joinKey(s.row)]) {
			s.why = "it kept changing"
			left = append(left, s)
			continue
		}
		certain = append(certain, x.difference)
	}
	return certain, left, nil
}

// valuesOf reads documents of a table with its types, into texts that are equal when the values are; nil for one that has no such values.
func (d *docTarget) valuesOf(ctx context.Context, suspects []*docSuspect, docs map[string]document) ([]*[]*string, error) {
	values := make([]*[]*string, len(suspects))
	if d.view.From != "" {
		return values, nil
	}
	var objects []string
	var places []int
	for i, s := range suspects {
		doc := docs[s.key]
		fields := d.fieldsOf(doc)
		if !doc.kind || !doc.ours || fields == nil {
			continue
		}
		object := map[string]json.RawMessage{}
		for j, name := range d.columns {
			if value, ok := fields[name]; ok {
				object[name] = d.jsonOf(value, d.parts[j])
			}
		}
		text, err := json.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("read document %s: %w", s.key, err)
		}
		objects, places = append(objects, string(text)), append(places, i)
	}
	err := d.convert(ctx, objects, func(i int, v []*string) { values[places[i]] = &v })
	return values, err
}

// jsonOf is a value of a document as JSON.
func (d *docTarget) jsonOf(value string, c docColumn) json.RawMessage {
	if !d.view.Hash || c.raw && json.Valid([]byte(value)) {
		return json.RawMessage(value)
	}
	text, _ := json.Marshal(value) // of a string: never fails
	return text
}

// convert has Postgres read objects, in halves when it refuses some.
func (d *docTarget) convert(ctx context.Context, objects []string, f func(i int, values []*string)) error {
	if len(objects) == 0 {
		return nil
	}
	rows, err := d.v.source.Query(ctx, fmt.Sprintf("SELECT (SELECT ARRAY[%s]::text[] FROM json_to_record(u.doc::json)%s) FROM unnest($1::text[]) WITH ORDINALITY u(doc, n) ORDER BY n", d.made, d.as), objects)
	var list [][]*string
	if err == nil {
		list, err = pgx.CollectRows(rows, pgx.RowTo[[]*string])
	}
	switch half := len(objects) / 2; {
	case err == nil:
		for i, values := range list {
			f(i, values)
		}
		return nil
	case !isDataError(err):
		return fmt.Errorf("read documents of %s: %w", d.name, err)
	case half == 0:
		return nil
	default:
		if err := d.convert(ctx, objects[:half], f); err != nil {
			return err
		}
		return d.convert(ctx, objects[half:], func(i int, values []*string) { f(half+i, values) })
	}
}

// columnsOfTable compares the fields of a document, read as values, with those of the row.
func (d *docTarget) columnsOfTable(fields map[string]string, row, values []*string) (list []ColumnValues) {
	for i, name := range d.columns {
		is, should := values[i], row[i]
		text, there := fields[name]
		same := is == should || is != nil && should != nil && *is == *should
		// A text in a hash may be that of a JSON string.
		same = same || d.view.Hash && d.parts[i].json && should != nil && jsonText([]byte(*should)) == text
		if same && (there || d.view.Hash) {
			continue
		}
		v := ColumnValues{Column: name, View: is, Source: should}
		if d.hidden[i] {
			v = ColumnValues{Column: name, Hidden: true}
		}
		list = append(list, v)
	}
	return list
}

// repairTable has documents that are too many deleted by whoever keeps them, and all that differ read again from the source.
func (d *docTarget) repairTable(ctx context.Context, list []Difference) error {
	var extra []string
	var rows [][]string
	for _, x := range list {
		if x.Kind == Extra {
			extra = append(extra, documentKey(x))
		}
		if x.key != nil {
			rows = append(rows, x.key)
		}
	}
	if len(extra) > 0 {
		if err := d.askDelete(ctx, extra); err != nil {
			return err
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return d.v.Refresh(ctx, d.mirror.Source, keyCondition(&d.onSource, d.mirror.Key, rows))
}

// askDelete leaves keys of documents for whoever keeps them, and waits until they are seen to.
func (d *docTarget) askDelete(ctx context.Context, keys []string) error {
	text, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	if err := d.store.client.HSet(ctx, d.store.state, "delete", text).Err(); err != nil {
		return fmt.Errorf("ask for documents of %s to be deleted: %w", d.name, err)
	}
	for deadline := time.Now().Add(d.v.Patience); ; {
		st, err := d.store.load(ctx)
		if err != nil {
			return err
		}
		if st["delete"] == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no daemon has deleted them within %v; that is asked for, and the next one that keeps the documents does it", d.v.Patience)
		}
		if err := pause(ctx, betweenRounds); err != nil {
			return err
		}
	}
}
