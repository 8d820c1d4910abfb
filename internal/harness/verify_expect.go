package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tableShape is what the catalogue says of a table.
type tableShape struct {
	name    string   // public.orders
	key     []string // primary key, in its order; without one those of a unique index
	full    bool     // REPLICA IDENTITY FULL
	types   map[string]string
	streams []StreamSpec // that it feeds, in the order of the configuration
}

// short is the name that event types begin with.
func (t *tableShape) short() string { return t.name[strings.IndexByte(t.name, '.')+1:] }

// readShapes describes the tables of the pipeline's streams.
func readShapes(ctx context.Context, p Pipeline) (map[string]*tableShape, error) {
	shapes := map[string]*tableShape{}
	for _, s := range p.Streams {
		for _, name := range s.Tables {
			if shapes[name] == nil {
				shapes[name] = &tableShape{name: name, types: map[string]string{}}
			}
			shapes[name].streams = append(shapes[name].streams, s)
		}
	}
	return shapes, withConn(ctx, p.DBURL, func(conn *pgx.Conn) error {
		for _, t := range shapes {
			if err := t.read(ctx, conn); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tableShape) read(ctx context.Context, conn *pgx.Conn) error {
	err := conn.QueryRow(ctx, `
		SELECT c.relreplident = 'f', ARRAY(
			SELECT a.attname::text FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
			JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
			WHERE i.indexrelid = (SELECT u.indexrelid FROM pg_index u WHERE u.indrelid = c.oid AND u.indisunique
				ORDER BY u.indisprimary DESC LIMIT 1) ORDER BY k.pos)
		FROM pg_class c WHERE c.oid = $1::text::regclass`, t.name).Scan(&t.full, &t.key)
	if err != nil {
		return err
	}
	rows, err := conn.Query(ctx, `
		SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
		WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`, t.name)
	if err != nil {
		return err
	}
	var name, typ string
	_, err = pgx.ForEachRow(rows, []any{&name, &typ}, func() error { t.types[name] = typ; return nil })
	return err
}

// keyOf is the ordering key of a row.
func (t *tableShape) keyOf(row map[string]*string) string {
	var parts []string
	for _, column := range t.key {
		text := ""
		if v := row[column]; v != nil {
			text = *v
		}
		if len(t.key) > 1 {
			text = strings.NewReplacer("%", "%25", "/", "%2F").Replace(text)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "/")
}

// expectedTx is a transaction with the entries that it should have, the i-th at
// ordinal i+1.
type expectedTx struct {
	OracleTx
	entries []expectedEntry
}

type expectedEntry struct {
	stream              string
	partition           int
	typ, key, op, table string
	data, old           *image // nil: absent
	unchanged           []string
}

// image is some columns of a row: as text, as Postgres sent it, and as to_jsonb
// has it.
type image struct {
	text map[string]*string
	json map[string]any
}

// expect makes of each transaction that touches the pipeline's tables what
// docs/design.md promises of it.
func (v *verifier) expect(ctx context.Context, history []OracleTx) ([]expectedTx, error) {
	var expected []expectedTx
	images := map[string][]*image{}
	for _, tx := range history {
		want := expectedTx{OracleTx: tx}
		for _, c := range tx.Changes {
			t := v.tables[c.Table]
			if t == nil {
				continue // a message, or a table that is not published
			}
			for _, e := range t.expect(c) {
				want.entries = append(want.entries, e)
				for _, m := range []*image{e.data, e.old} {
					if m != nil {
						images[t.name] = append(images[t.name], m)
					}
				}
			}
		}
		if len(want.entries) > 0 {
			expected = append(expected, want)
		}
	}
	return expected, withConn(ctx, v.pipeline.DBURL, func(conn *pgx.Conn) error {
		for name, m := range images {
			if err := v.tables[name].toJSON(ctx, conn, m); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// expect says what a change becomes in each stream of its table.
func (t *tableShape) expect(c OracleChange) (entries []expectedEntry) {
	before, after, unchanged := t.images(c)
	for _, s := range t.streams {
		add := func(what, op string, row *image) *expectedEntry {
			e := expectedEntry{stream: s.Name, typ: t.short() + "." + what, op: op, table: t.name, data: row}
			if row != nil {
				e.key = t.keyOf(row.text)
				e.partition = s.partition(e.key)
			}
			entries = append(entries, e)
			return &entries[len(entries)-1]
		}
		switch {
		case c.Op == OpTruncate: // every partition is told
			for i := range max(s.Partitions, 1) {
				add("truncated", OpTruncate, nil).partition = i
			}
		case c.Op == OpInsert:
			add("created", OpInsert, after)
		case c.Op == OpDelete:
			add("deleted", OpDelete, before)
		case before != nil && t.keyOf(before.text) != t.keyOf(after.text): // another key, perhaps another partition
			add("deleted", OpDelete, before)
			add("created", OpInsert, after).unchanged = unchanged
		default:
			e := add("updated", OpUpdate, after)
			e.old, e.unchanged = changedColumns(before, after), unchanged
		}
	}
	return entries
}

// images are the rows of a change as far as Postgres sends them. Under REPLICA
// IDENTITY FULL the row before is whole, and has what was not sent again.
func (t *tableShape) images(c OracleChange) (before, after *image, unchanged []string) {
	if c.Old != nil {
		before = &image{text: map[string]*string{}}
		for column := range t.types {
			if v, sent := c.Old[column]; sent || t.full {
				before.text[column] = v
			}
		}
	}
	if c.New != nil {
		after = &image{text: map[string]*string{}}
		for column, v := range c.New {
			after.text[column] = v
		}
	}
	for _, column := range c.Unchanged {
		if before != nil && before.text[column] != nil {
			after.text[column] = before.text[column]
		} else {
			unchanged = append(unchanged, column)
		}
	}
	slices.Sort(unchanged)
	return before, after, unchanged
}

// changedColumns are the old values that differ, nil when there are none.
func changedColumns(before, after *image) *image {
	if before == nil {
		return nil
	}
	changed := &image{text: map[string]*string{}}
	for column, old := range before.text {
		now, sent := after.text[column]
		if sent && (old == nil) == (now == nil) && (old == nil || *old == *now) {
			continue
		}
		changed.text[column] = old
	}
	if len(changed.text) == 0 {
		return nil
	}
	return changed
}

// toJSON has Postgres turn each column's text into JSON, by the type's input
// function and to_jsonb. A text is its own JSON, and bodies are long.
func (t *tableShape) toJSON(ctx context.Context, conn *pgx.Conn, images []*image) error {
	for chunk := range slices.Chunk(images, 2000) {
		rows := make([]map[string]any, len(chunk))
		for i, m := range chunk {
			rows[i] = t.askFor(m)
		}
		arg, err := json.Marshal(rows)
		if err != nil {
			return err
		}
		result, err := conn.Query(ctx, fmt.Sprintf(`
			SELECT to_jsonb(jsonb_populate_record(NULL::%s, v))::text
			FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY a(v, n) ORDER BY n`, t.name), string(arg))
		if err != nil {
			return err
		}
		texts, err := pgx.CollectRows(result, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for i, text := range texts {
			object, err := decodeObject([]byte(text))
			if err != nil {
				return err
			}
			for column := range rows[i] {
				chunk[i].json[column] = object[column]
			}
		}
	}
	return nil
}

// askFor fills in what needs no asking and returns the rest.
func (t *tableShape) askFor(m *image) map[string]any {
	m.json = map[string]any{}
	ask := map[string]any{}
	for column, text := range m.text {
		switch typ := t.types[column]; {
		case text == nil:
			m.json[column] = nil
		case typ == "text":
			m.json[column] = *text
		case typ == "json", typ == "jsonb":
			ask[column] = json.RawMessage(*text)
		default:
			ask[column] = *text
		}
	}
	return ask
}

// withConn connects in the time zone that walrill's JSON is in.
func withConn(ctx context.Context, dbURL string, f func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(dbURL)
	if err != nil {
		return err
	}
	config.RuntimeParams["timezone"] = "UTC"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return f(conn)
}
