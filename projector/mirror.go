package projector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// mirror is a table of the store that follows a table of the source.
type mirror struct {
	mirrorDef
	filling bool
	request string // the backfill that fills it
	table   string // quoted
	changed string // temporary table that takes the old and new versions of changed rows; "" when no query needs them
	dead    int    // rows that were deleted from it, about
	fold    *fold
	shape   int // version of the table's columns in the event before; 0 before the first

	stepped       bool   // it is brought from one source transaction to the next
	emits         bool   // what changes in it may be emitted
	parts         bool   // some of a source transaction is written
	partsFunction string // says what they come to

	complete bool // it is filled, and not in use yet
	pipeline string
}

// fillingName tells the mirror that fills a view from the one of a table that has the view's name.
func (m *mirrorDef) fillingName() string { return "view~" + m.Name + "~fill" }

// changedTable is the temporary table of a mirror from which views are computed, or are to be built; "" for others.
func (m *mirror) changedTable() string {
	switch {
	case m.View && m.filling:
		return changedTable(m.fillingName())
	case m.View || m.filling:
		return ""
	}
	return changedTable(m.Name)
}

// parkedAs is the name under which rows that the mirror refuses are set aside. A view may have the name of another table's mirror.
func (m *mirrorDef) parkedAs() string {
	if m.View {
		return m.Name
	}
	return "mirror " + m.Name
}

func newMirror(o *Options, def mirrorDef, filling bool) *mirror {
	m := &mirror{mirrorDef: def, filling: filling, table: tableOf(o, &def, filling), pipeline: o.Pipeline}
	m.fold = newFold(def.Columns, def.Key)
	m.partsFunction = partsFunction(o, def.Name)
	return m
}

// tableOf names a mirror's table. One that is being filled stands in the pipeline's schema, where no reader looks.
func tableOf(o *Options, def *mirrorDef, filling bool) string {
	schema := mirrorSchema(o.Pipeline)
	switch {
	case filling && def.View:
		return qualified(schema, def.fillingName())
	case filling:
		return qualified(schema, def.Name+"~fill")
	case def.View:
		return qualified(o.Schema, def.Name)
	}
	return qualified(schema, def.Name)
}

// statement is one statement to run in a transaction, with a check of how many rows it had.
type statement struct {
	sql  string
	args []any
	rows int64 // that it must have; -1 for any
	// of a mirror's rows, for when one of them is refused
	mirror *mirror
	values [][]byte
}

// statements are what brings the mirror to the state that the fold has gathered. With parked, some of its keys are set
// aside: what becomes of them here takes them off the parking place.
func (m *mirror) statements(parked bool) []statement {
	var list []statement
	if m.fold.truncated {
		list = append(list, m.truncate())
	}
	if keys := m.fold.deleted(); len(keys) > 0 {
		list = append(list, statement{sql: m.deleteSQL(), args: []any{string(array(keys))}, rows: -1, mirror: m, values: keys})
	}
	groups := m.fold.upserted()
	for _, set := range sortedKeys(groups) {
		rows := groups[set]
		st := statement{args: []any{string(array(rows))}, rows: -1, mirror: m, values: rows}
		if set != "" && !m.filling {
			check := st
			check.sql = fmt.Sprintf("WITH %s SELECT 1 FROM %s m JOIN input i ON %s", m.input(m.keyAs()), m.table, equal("m", "i", m.keyAs()))
			check.rows = int64(len(rows))
			list = append(list, check)
		}
		st.sql = m.upsertSQL(set)
		list = append(list, st)
	}
	if parked && len(m.fold.order) > 0 {
		list = append(list, m.unpark())
	}
	return list
}

// unpark takes the keys of what was gathered off the parking place, but those that have just been put there.
func (m *mirror) unpark() statement {
	keys := make([][]byte, len(m.fold.order))
	for i, c := range m.fold.order {
		keys[i] = bytes.ToValidUTF8(c.key, []byte(replacement))
	}
	return statement{rows: -1, args: []any{string(array(keys))}, sql: fmt.Sprintf(
		"DELETE FROM walrill.parked p USING jsonb_array_elements($1::jsonb) r WHERE p.pipeline = %s AND p.view = %s AND p.key = %s AND p.parked_at < now()", literal(m.pipeline), literal(m.parkedAs()), m.jsonKey("r"))}
}

// jsonKey is the key's part of a row that is jsonb.
func (m *mirrorDef) jsonKey(r string) string {
	var parts []string
	for _, k := range m.keyAs() {
		parts = append(parts, fmt.Sprintf("%s, %s->%s", literal(k), r, literal(k)))
	}
	return "jsonb_build_object(" + strings.Join(parts, ", ") + ")"
}

// truncate empties the mirror. A row that is there again behind it has changed, and did not go and come, to who is told of it.
func (m *mirror) truncate() statement {
	var stay [][]byte
	for _, c := range m.fold.order {
		if c.row != nil && m.emits && m.View {
			stay = append(stay, c.key)
		}
	}
	if stay == nil {
		return statement{sql: m.recording("DELETE FROM "+m.table+" m", "RETURNING m.*", ""), rows: -1}
	}
	return statement{args: []any{string(array(stay))}, rows: -1,
		sql: fmt.Sprintf("WITH %s DELETE FROM %s m WHERE NOT EXISTS (SELECT FROM input i WHERE %s)", m.input(m.keyAs()), m.table, equal("m", "i", m.keyAs()))}
}

// size is about how many bytes the arguments of a statement have.
func (st *statement) size() (n int) {
	for _, a := range st.args {
		if text, ok := a.(string); ok {
			n += len(text)
		}
	}
	return n
}

// truncateAfter is how many dead rows the table of changed rows may hold, since each batch reads over them. TRUNCATE is the
// dearer way for a few rows: it makes new files, though only once in a transaction.
const truncateAfter = 2000

// noteDead counts the rows, old and new versions, that what is gathered puts into the table of changed rows.
func (m *mirror) noteDead() {
	m.dead += 2 * len(m.fold.order)
	if m.fold.truncated {
		m.dead += truncateAfter
	}
}

// empty empties the table of changed rows.
func (m *mirror) empty() statement {
	verb := "DELETE FROM "
	if m.dead > truncateAfter {
		verb, m.dead = "TRUNCATE ", 0
	}
	return statement{sql: verb + m.changed, rows: -1}
}

// input reads rows of a JSON array with the mirror's types.
func (m *mirror) input(columns []string) string {
	return fmt.Sprintf("input AS MATERIALIZED (SELECT %s FROM json_populate_recordset(NULL::%s, $1::json))", list("%s", columns), m.table)
}

// recording is a statement whose rows, as they were before, go to the table of changed rows.
func (m *mirror) recording(change, returning, with string) string {
	if m.changed == "" {
		if with != "" {
			with = "WITH " + with + " "
		}
		return with + change
	}
	if with != "" {
		with += ", "
	}
	return fmt.Sprintf("WITH %sgone AS (%s %s) INSERT INTO %s SELECT * FROM gone", with, change, returning, m.changed)
}

func (m *mirror) deleteSQL() string {
	key := m.keyAs()
	return m.recording(fmt.Sprintf("DELETE FROM %s m USING input i WHERE %s", m.table, equal("m", "i", key)), "RETURNING m.*", m.input(key))
}

// upsertSQL writes rows that differ from what is there. set says which columns keep the
// value that the mirror has ('0'); "" for none. Such rows must be there, but in a mirror that is being filled,
// where the backfill is still to bring them.
func (m *mirror) upsertSQL(set string) string {
	var columns []string
	for i, c := range m.Columns {
		if set == "" || set[i] == '1' {
			columns = append(columns, c.As)
		}
	}
	key := m.keyAs()
	rest := slices.DeleteFunc(slices.Clone(columns), func(c string) bool { return slices.Contains(key, c) })
	do := "DO NOTHING"
	if len(rest) > 0 {
		do = fmt.Sprintf("DO UPDATE SET %s WHERE %s", assign("excluded", rest), differs("m", "excluded", rest))
	}
	insert := fmt.Sprintf("INSERT INTO %s AS m (%s) SELECT %s FROM input i ON CONFLICT (%s) %s", m.table, list("%s", columns), list("i.%s", columns), list("%s", key), do)
	if m.changed == "" {
		return "WITH " + m.input(columns) + " " + insert
	}
	old := "SELECT m.* FROM " + m.table + " m JOIN input i ON " + equal("m", "i", key)
	if len(rest) > 0 {
		old += " WHERE " + differs("m", "i", rest)
	} else {
		old += " WHERE false"
	}
	return fmt.Sprintf("WITH %s, old AS (%s), new AS (%s RETURNING m.*) INSERT INTO %s SELECT * FROM old UNION ALL SELECT * FROM new",
		m.input(columns), old, insert, m.changed)
}

func assign(from string, names []string) string {
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = quoteIdent(n) + " = " + from + "." + quoteIdent(n)
	}
	return strings.Join(parts, ", ")
}

// stored reads the mirror's row of a key, for a fold.
func (m *mirror) stored(ctx context.Context, conn *pgx.Conn) lookup {
	return func(key []byte) (row, error) {
		var text string
		err := conn.QueryRow(ctx, fmt.Sprintf("WITH %s SELECT to_json(r.*)::text FROM (SELECT m.* FROM %s m JOIN input i ON %s) r",
			m.input(m.keyAs()), m.table, equal("m", "i", m.keyAs())), "["+string(key)+"]").Scan(&text)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read a row of mirror %s: %w", m.Name, err)
		}
		return m.rowOf([]byte(text))
	}
}

// again gathers a row that was refused, a JSON object with the mirror's names.
func (m *mirror) again(text []byte) error {
	values, err := m.rowOf(text)
	if err != nil {
		return err
	}
	m.fold.upsert(m.fold.keyOf(values), values)
	return nil
}

// rowOf reads a JSON object with the mirror's names.
func (m *mirror) rowOf(text []byte) (row, error) {
	values := make(row, len(m.Columns))
	names := m.columnNames()
	if err := eachField(text, func(name, value []byte) {
		if i := slices.Index(names, string(name)); i >= 0 {
			values[i] = value
		}
	}); err != nil {
		return nil, fmt.Errorf("read a row of mirror %s: %w", m.Name, err)
	}
	return values, nil
}

// fillParked completes changes that do not carry all columns from the rows of the same keys that are set aside.
func (m *mirror) fillParked(ctx context.Context, conn *pgx.Conn, pipeline string) error {
	var changes []*change
	var keys [][]byte
	for _, c := range m.fold.order {
		if c.row != nil && !c.row.complete() {
			changes, keys = append(changes, c), append(keys, c.key)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT k.n::int, p.row::text FROM jsonb_array_elements($3::jsonb) WITH ORDINALITY k(key, n)
		JOIN walrill.parked p ON p.pipeline = $1 AND p.view = $2 AND p.key = k.key AND p.row IS NOT NULL`, pipeline, m.parkedAs(), string(array(keys)))
	if err != nil {
		return fmt.Errorf("read parked rows of mirror %s: %w", m.Name, err)
	}
	var n int
	var text string
	if _, err := pgx.ForEachRow(rows, []any{&n, &text}, func() error {
		values, err := m.rowOf([]byte(text))
		if err == nil {
			changes[n-1].row.fill(values)
		}
		return err
	}); err != nil {
		return fmt.Errorf("read parked rows of mirror %s: %w", m.Name, err)
	}
	return nil
}
