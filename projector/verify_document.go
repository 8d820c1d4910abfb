package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Documents are compared with the rows that they are made of, and the set of those that walrill has written with the rows there are. What
// differs is suspected, and looked at again in rounds.
//
// Those of a table are looked at as a mirror's keys are: the rows on the source between two markers, the documents once they have reached
// the second, and the streams say which keys had an event in all this time.
//
// Those of a view are a function of its rows in the store. A round leaves an empty key among those that the view's triggers note, and waits until
// Redis has what the keeper took together with that: then each document is of a row that is not older. Then the documents are read, and
// then the rows. One that is wrong three times alike, with the same version of its row, has had three chances to become right.

// docTarget is a view whose documents are compared.
type docTarget struct {
	*target
	v     *verifier
	view  *DocumentView
	store *docStore
	rows  *side // where the rows are. Of each row the pattern's columns as JSON, the row as the document has it, and what a document of a table is compared by

	box string // of a view: its outbox

	made  string // of a table: what a document is compared by, of t
	as    string // and how that is read from JSON
	parts []docColumn
}

// docSuspect is a document that differed at some moment.
type docSuspect struct {
	key   string   // of the document
	row   []string // the key of its row; nil when no row can have this document
	seen  string   // document and row's version, the last time
	times int      // so often in a row
	why   string   // it could not be judged
}

// document is one as it was read.
type document struct {
	there bool
	ours  bool              // walrill has written it
	kind  bool              // it is what it should be, a string or a hash
	text  string            // of a string
	hash  map[string]string // of a hash
}

// prepare finds what the documents are made of, or why they cannot be compared.
func (d *docTarget) prepare(ctx context.Context) error {
	_, problem, err := documentsAt(ctx, d.store.client, d.store.state)
	if err != nil {
		return err
	}
	if problem != "" {
		d.not = "it is " + problem + "; `walrill status` shows how far it is"
		return nil
	}
	if d.view.From == "" {
		return d.prepareTable(ctx)
	}
	return d.prepareView(ctx)
}

// fetchAtOnce is how many documents, and rows of them, are read in one round trip: they may be large.
const fetchAtOnce = 500

// compare compares all documents of the view.
func (d *docTarget) compare(ctx context.Context, c *Comparison) error {
	known := map[uint64]struct{}{}
	seed := maphash.MakeSeed()
	var open []*docSuspect
	var after []string
	limit := min(d.v.ChunkRows, fetchAtOnce)
	for {
		page, err := d.rows.page(ctx, after, limit)
		if err != nil {
			return err
		}
		var suspects []*docSuspect
		rows := map[string]found{}
		for _, r := range page {
			key, null, err := d.view.keyOf([]byte(*r.values[0]))
			if err != nil {
				return err
			}
			if null == "" {
				known[maphash.String(seed, key)] = struct{}{}
				suspects = append(suspects, &docSuspect{key: key, row: r.key})
				rows[joinKey(r.key)] = r.found
			}
		}
		differ, err := d.look(ctx, suspects, func() (map[string]found, error) { return rows, nil })
		if err != nil {
			return err
		}
		for _, x := range differ {
			open = append(open, x.suspect)
		}
		if open, err = d.settleSome(ctx, c, open); err != nil {
			return err
		}
		c.Rows += int64(len(page))
		d.v.Progress(d.name, c.Rows, c.Rows+1)
		if len(page) < limit {
			break
		}
		after = page[len(page)-1].key
	}
	if err := d.written(ctx, func(key string) error {
		if _, ok := known[maphash.String(seed, key)]; ok {
			return nil
		}
		row, err := d.rowOf(ctx, key)
		if err == nil {
			open, err = d.settleSome(ctx, c, append(open, &docSuspect{key: key, row: row}))
		}
		return err
	}); err != nil {
		return err
	}
	d.v.Progress(d.name, c.Rows, c.Rows)
	if err := d.settle(ctx, c, open); err != nil {
		return err
	}
	slices.SortFunc(c.Differences, func(a, b Difference) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return d.sortParked(ctx, c)
}

// written hands out the keys of the documents that walrill has written; one may come twice.
func (d *docTarget) written(ctx context.Context, f func(key string) error) error {
	for cursor := uint64(0); ; {
		keys, next, err := d.store.client.SScan(ctx, d.store.index, cursor, "", fetchAtOnce).Result()
		if err != nil {
			return fmt.Errorf("read %s: %w", d.store.index, err)
		}
		for _, key := range keys {
			if err := f(key); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// settleSome settles suspects when they have become many.
func (d *docTarget) settleSome(ctx context.Context, c *Comparison, open []*docSuspect) ([]*docSuspect, error) {
	for len(open) >= maxSuspects {
		if err := d.settle(ctx, c, open[:maxSuspects]); err != nil {
			return nil, err
		}
		open = open[maxSuspects:]
	}
	return open, nil
}

// settle looks at suspects again until each is judged or the patience is at its end.
func (d *docTarget) settle(ctx context.Context, c *Comparison, open []*docSuspect) error {
	for deadline := time.Now().Add(d.v.Patience); len(open) > 0; {
		certain, left, err := d.round(ctx, open, deadline)
		if err != nil {
			return err
		}
		for _, x := range certain {
			c.Found++
			if len(c.Differences) < maxListed {
				c.Differences = append(c.Differences, x)
			}
		}
		if open = left; len(open) == 0 {
			break
		}
		if time.Now().After(deadline) {
			for _, s := range open {
				c.Unjudged = append(c.Unjudged, Unjudged{parkedKey(s.key), s.why})
			}
			break
		}
		if err := pause(ctx, betweenRounds); err != nil {
			return err
		}
	}
	return nil
}

func (d *docTarget) round(ctx context.Context, open []*docSuspect, deadline time.Time) (certain []Difference, left []*docSuspect, err error) {
	if d.view.From == "" {
		return d.tableRound(ctx, open, deadline)
	}
	return d.viewRound(ctx, open)
}

// differing is a suspect that differs.
type differing struct {
	suspect    *docSuspect
	difference Difference
	seen       string // document, and version of the row
}

// look reads documents, and then the rows, and says which differ.
func (d *docTarget) look(ctx context.Context, suspects []*docSuspect, rows func() (map[string]found, error)) ([]differing, error) {
	docs := map[string]document{}
	for list := range slices.Chunk(suspects, fetchAtOnce) {
		if err := d.fetch(ctx, list, docs); err != nil {
			return nil, err
		}
	}
	list, err := rows()
	if err != nil {
		return nil, err
	}
	values, err := d.valuesOf(ctx, suspects, docs)
	if err != nil {
		return nil, err
	}
	var differ []differing
	for i, s := range suspects {
		row, there := list[joinKey(s.row)]
		if there = there && s.row != nil; there {
			key, null, err := d.view.keyOf([]byte(*row.values[0]))
			if err != nil {
				return nil, err
			}
			there = null == "" && key == s.key
		}
		doc := docs[s.key]
		if x := d.difference(s.key, doc, row, there, values[i]); x != nil {
			x.key = s.row
			differ = append(differ, differing{s, *x, fmt.Sprint(row.version, there, doc)})
		}
	}
	return differ, nil
}

// fetch reads documents.
func (d *docTarget) fetch(ctx context.Context, list []*docSuspect, docs map[string]document) error {
	if len(list) == 0 {
		return nil
	}
	keys := make([]any, len(list))
	texts, hashes := make([]*redis.StringCmd, len(list)), make([]*redis.MapStringStringCmd, len(list))
	var ours *redis.BoolSliceCmd
	_, _ = d.store.client.Pipelined(ctx, func(p redis.Pipeliner) error { // each command has its own error
		for i, s := range list {
			keys[i] = s.key
			if d.view.Hash {
				hashes[i] = p.HGetAll(ctx, s.key)
			} else {
				texts[i] = p.Get(ctx, s.key)
			}
		}
		ours = p.SMIsMember(ctx, d.store.index, keys...)
		return nil
	})
	if err := ours.Err(); err != nil {
		return fmt.Errorf("read %s: %w", d.store.index, err)
	}
	for i, s := range list {
		doc := document{ours: ours.Val()[i]}
		var err error
		if d.view.Hash {
			doc.hash, err = hashes[i].Result()
			doc.there = len(doc.hash) > 0
		} else {
			doc.text, err = texts[i].Result()
			doc.there = err == nil
		}
		doc.kind = doc.there
		switch {
		case redis.HasErrorPrefix(err, "WRONGTYPE"):
			doc.there = true
		case err != nil && !errors.Is(err, redis.Nil):
			return fmt.Errorf("read document %s: %w", s.key, err)
		}
		docs[s.key] = doc
	}
	return nil
}

// fieldsOf are the names and values of a document: of a hash its texts, else JSON. Nil when it is no document.
func (d *docTarget) fieldsOf(doc document) map[string]string {
	if !doc.kind || d.view.Hash {
		return doc.hash
	}
	fields := map[string]string{}
	twice := false
	err := eachField([]byte(doc.text), func(name, value []byte) {
		_, before := fields[string(name)]
		twice = twice || before
		fields[string(name)] = string(value)
	})
	if err != nil || twice || !json.Valid([]byte(doc.text)) {
		return nil
	}
	return fields
}

// difference compares a document with its row, or with none; nil when it is what it should be.
func (d *docTarget) difference(key string, doc document, row found, there bool, values *[]*string) *Difference {
	x := &Difference{Key: parkedKey(key)}
	switch {
	case !there && (!doc.there || !doc.ours):
		return nil // a key that others have is theirs
	case !there:
		x.Kind = Extra
		return x
	case !doc.there:
		x.Kind = Missing
		return x
	case !doc.ours:
		x.Kind, x.Why = Missing, "the key is in use, and not among those that walrill has written"
		return x
	}
	x.Kind = Differs
	fields := d.fieldsOf(doc)
	if fields == nil || d.view.From == "" && values == nil {
		text := doc.text
		if !doc.kind {
			text = "another type of key"
		}
		should := "the row of " + d.uses[0].Source
		if d.view.From != "" {
			should = *row.values[1]
		}
		x.Columns = []ColumnValues{{Column: "(all)", View: &text, Source: &should}}
		return x
	}
	if d.view.From == "" {
		x.Columns = d.columnsOfTable(fields, row.values[2:], *values)
	} else {
		x.Columns = d.columnsOfView(fields, []byte(*row.values[1]))
	}
	for _, name := range sortedKeys(fields) {
		if value := fields[name]; !slices.Contains(d.columns, name) {
			x.Columns = append(x.Columns, ColumnValues{Column: name, View: &value})
		}
	}
	if len(x.Columns) == 0 {
		return nil
	}
	return x
}

// sortParked takes the documents that are set aside out of the differences.
func (d *docTarget) sortParked(ctx context.Context, c *Comparison) error {
	parked, err := ListParkedDocuments(ctx, d.store.client, d.v.Pipeline, d.view)
	if err != nil {
		return err
	}
	c.Parked = append([]Parked{}, parked...)
	before := len(c.Differences)
	c.Differences = slices.DeleteFunc(c.Differences, func(x Difference) bool {
		return slices.ContainsFunc(parked, func(p Parked) bool { return string(p.Key) == string(x.Key) })
	})
	c.Found -= before - len(c.Differences)
	return nil
}

// rowOf is the key of the row that a document of this key is of; nil when none can be.
func (d *docTarget) rowOf(ctx context.Context, key string) ([]string, error) {
	values, ok := d.view.valuesOf(key)
	if !ok {
		return nil, nil
	}
	object, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	from := "json_to_record($1::text::json)" + d.as
	if d.view.From != "" {
		from = fmt.Sprintf("jsonb_populate_record(NULL::%s, $1::text::jsonb) t", d.table())
	}
	texts := make([]string, len(d.key))
	for i, k := range d.key {
		texts[i] = "t." + quoteIdent(k) + "::text"
	}
	// All columns of the pattern are read: the keeper does so, too.
	var row []string
	var whole string
	err = d.rows.conn.QueryRow(ctx, fmt.Sprintf("SELECT ARRAY[%s], %s::text FROM %s", strings.Join(texts, ", "), jsonObject("t", d.view.columns()), from), string(object)).Scan(&row, &whole)
	if isDataError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", key, err)
	}
	return row, nil
}

// repair has what differs brought right by whoever keeps the documents, and looks again.
func (d *docTarget) repair(ctx context.Context, c *Comparison) error {
	listed := slices.Clone(c.Differences)
	for list := range slices.Chunk(listed, repairBatch) {
		var err error
		if d.view.From == "" {
			err = d.repairTable(ctx, list)
		} else {
			err = d.repairView(ctx, list)
		}
		if err != nil {
			return err
		}
	}
	again := &Comparison{}
	var open []*docSuspect
	for _, x := range listed {
		open = append(open, &docSuspect{key: documentKey(x), row: x.key})
	}
	if err := d.settle(ctx, again, open); err != nil {
		return err
	}
	c.Repaired = len(listed) - again.Found - len(again.Unjudged)
	return nil
}

// documentKey is the key of the document that a difference is about.
func documentKey(x Difference) string { return jsonText(x.Key) }
