package capture

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/change"
)

// tableReader reads the chunks of one table over a connection of its own.
type tableReader struct {
	conn   *pgx.Conn
	core   *backfillCore
	target *target
	armed  *armed
	types  *typeCatalogue
	rel    *change.Relation // of the last chunk
	where  string
	span   int64       // blocks of the next chunk, when they are read by TID
	width  int         // bytes of a row, as the last chunk had them; 0 before the first
	spares chan *chunk // published, their memory is for the next ones
}

// piece is what one chunk is to hold: rows after a key, or the rows with some keys.
type piece struct {
	part  *part      // whose rows; nil with keys
	from  position   // where the piece before ended
	at    position   // the part, and the last key of the chunk before in it
	until []string   // the last key that may be in it; nil: as many rows as fit
	keys  [][]string // if set, these rows
	limit int
	bytes int
}

// read reads a piece between its marks and hands it to the core. It returns the chunk, whether
// it is the last, and its window, nil when the chunk is empty and nothing comes of it.
func (r *tableReader) read(ctx context.Context, number uint64, p piece) (c *chunk, last bool, w *window, err error) {
	pre, err := currentSnapshot(ctx, r.conn)
	if err != nil {
		return nil, false, nil, err
	}
	w = r.core.register(r.armed, number, pre)
	defer func() {
		if err != nil || c == nil || len(c.rows) == 0 {
			r.core.drop(w)
			w = nil
		}
	}()
	if err := r.mark(ctx, number, markLow); err != nil {
		return nil, false, w, err
	}
	// The lock keeps the table's definition as it is from the snapshot to high. It must come first: the
	// snapshot is taken by the first statement that needs one, and a table rewritten after that would look empty.
	if _, err := r.conn.PgConn().Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE "+r.locks(p)+" IN ACCESS SHARE MODE").ReadAll(); err != nil {
		return nil, false, w, fmt.Errorf("lock table: %w", r.rollback(ctx, r.gone(p, err)))
	}
	c, last, err = r.inside(ctx, p)
	if err != nil {
		return nil, false, w, r.rollback(ctx, err)
	}
	if len(c.rows) > 0 {
		r.core.fill(w, c)
		if err := r.mark(ctx, number, markHigh); err != nil {
			return nil, false, w, r.rollback(ctx, err)
		}
	}
	if _, err := r.conn.Exec(ctx, "COMMIT"); err != nil {
		return nil, false, w, fmt.Errorf("commit the chunk: %w", err)
	}
	return c, last, w, nil
}

// locks are the tables that a piece is of.
func (r *tableReader) locks(p piece) string {
	name := pgx.Identifier{r.target.namespace, r.target.name}.Sanitize()
	switch {
	case p.part == nil:
		return name
	case p.part.oid == r.target.oid:
		return "ONLY " + name
	}
	return "ONLY " + name + ", ONLY " + p.part.name
}

// gone tells a partition that was dropped, which is no trouble, from a table that was.
func (r *tableReader) gone(p piece, err error) error {
	var pgErr *pgconn.PgError
	if p.part != nil && p.part.oid != r.target.oid && errors.As(err, &pgErr) && pgErr.Code == "42P01" {
		return errPartGone
	}
	return err
}

func (r *tableReader) rollback(ctx context.Context, err error) error {
	if _, e := r.conn.Exec(ctx, "ROLLBACK"); e != nil {
		_ = r.conn.Close(context.WithoutCancel(ctx)) // the error that counts is at hand
	}
	return err
}

func (r *tableReader) mark(ctx context.Context, number uint64, at string) error {
	content, err := json.Marshal(mark{Run: r.core.run, Table: r.target.String(), Chunk: number, At: at})
	if err != nil {
		return err
	}
	if _, err := r.conn.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, $2)`, r.core.prefix, string(content)); err != nil {
		return fmt.Errorf("write %s mark: %w", at, err)
	}
	return nil
}

// inside is the part in the chunk's snapshot. What reads is read-only, since `where` is
// somebody's text; the transaction is not, it writes high.
func (r *tableReader) inside(ctx context.Context, p piece) (*chunk, bool, error) {
	c := r.blank()
	var err error
	if c.snap, err = currentSnapshot(ctx, r.conn); err != nil {
		return nil, false, err
	}
	if c.rel, err = r.target.relation(ctx, r.conn, r.types); err != nil {
		return nil, false, err
	}
	if r.rel != nil && sameShape(r.rel, c.rel) {
		c.rel = r.rel
	}
	r.rel = c.rel
	if columnsOf(c.rel, r.target.key) == nil || c.rel.Identity != r.target.identity {
		return nil, false, errKeyAltered
	}
	if p.part != nil {
		if err := r.target.check(ctx, r.conn, p.part); err != nil {
			return nil, false, err
		}
	}
	if _, err := r.conn.PgConn().Exec(ctx, "SAVEPOINT rows; SET TRANSACTION READ ONLY").ReadAll(); err != nil {
		return nil, false, fmt.Errorf("begin reading: %w", err)
	}
	last, err := r.rows(ctx, c, p)
	if err != nil {
		return nil, false, err
	}
	if _, err := r.conn.Exec(ctx, "RELEASE SAVEPOINT rows"); err != nil {
		return nil, false, fmt.Errorf("end reading: %w", err)
	}
	return c, last, nil
}

// blank is a chunk without rows. They take turns: new memory for each would keep the collector busy.
func (r *tableReader) blank() *chunk {
	select {
	case c := <-r.spares:
		return &chunk{buf: c.buf[:0], rows: c.rows[:0]}
	default:
		return &chunk{}
	}
}

var errKeyAltered = fmt.Errorf("the table's key was altered while it was read")

// rows reads the rows of a piece, in order, and says where the next one comes after.
func (r *tableReader) rows(ctx context.Context, c *chunk, p piece) (last bool, err error) {
	if r.target.whole {
		return r.rowsByTID(ctx, c, p)
	}
	var conditions []string
	var q params
	if p.at.after != nil {
		conditions = append(conditions, fmt.Sprintf("(%s) > %s", r.target.keyList(), q.row(p.at.after, r.target.keyTypes)))
	}
	if p.until != nil {
		conditions = append(conditions, fmt.Sprintf("(%s) <= %s", r.target.keyList(), q.row(p.until, r.target.keyTypes)))
	}
	if p.keys != nil {
		rows := make([]string, len(p.keys))
		for i, key := range p.keys {
			rows[i] = q.row(key, r.target.keyTypes)
		}
		conditions = append(conditions, fmt.Sprintf("(%s) IN (%s)", r.target.keyList(), strings.Join(rows, ", ")))
	}
	if err := r.declare(ctx, c.rel, p, conditions, &q); err != nil {
		return false, err
	}
	whole, err := r.fetch(ctx, c, p)
	if err != nil {
		return false, err
	}
	key := columnsOf(c.rel, r.target.key)
	if n := len(c.rows); n > 0 && p.keys == nil {
		c.next = c.texts(n-1, key)
	}
	if p.keys != nil && !whole {
		r.putBack(c, p.keys, key)
	}
	return whole && len(c.rows) < p.limit, nil
}

// putBack notes the rows again that were too big to be read together with the others.
func (r *tableReader) putBack(c *chunk, keys [][]string, columns []int) {
	read := map[string]bool{}
	for i := range c.rows {
		read[joinKey(c.texts(i, columns))] = true
	}
	for _, texts := range keys {
		if key := joinKey(texts); !read[key] {
			r.core.noteAgain(r.armed, key)
		}
	}
}

const (
	firstSpan = 64
	maxSpan   = 16384
	lastTID   = 65535 // above the offset of any row in a block
)

// rowsByTID reads the rows in some blocks, as many as hold about the rows that are asked for. They are put in order:
// a condition of the user's may have Postgres take an index, and a cursor may end in the middle.
func (r *tableReader) rowsByTID(ctx context.Context, c *chunk, p piece) (last bool, err error) {
	block, offset := int64(0), 0
	if p.at.after != nil {
		if _, err := fmt.Sscanf(p.at.after[0], "(%d,%d)", &block, &offset); err != nil {
			return false, fmt.Errorf("position %q in table %s: %w", p.at.after[0], r.target, err)
		}
	}
	r.span = max(1, min(cmp.Or(r.span, firstSpan), maxSpan))
	end := block + r.span
	var q params
	from, to := q.tid(block, offset), q.tid(end, 0)
	if err := r.declare(ctx, c.rel, p, []string{"ctid > " + from, "ctid < " + to}, &q); err != nil {
		return false, err
	}
	whole, err := r.fetch(ctx, c, p)
	if err != nil {
		return false, err
	}
	if !whole || len(c.rows) >= p.limit {
		r.span /= 2
		c.next = []string{c.tid}
		return false, nil
	}
	if len(c.rows) < p.limit/2 {
		r.span *= 2
	}
	c.next = []string{fmt.Sprintf("(%d,%d)", end-1, lastTID)}
	return end >= p.part.blocks, nil
}

// declare opens the cursor. Key values go and come as text and are compared by Postgres only.
func (r *tableReader) declare(ctx context.Context, rel *change.Relation, p piece, conditions []string, q *params) error {
	columns := make([]string, len(rel.Columns))
	for i := range rel.Columns {
		columns[i] = quote(rel.Columns[i].Name)
	}
	order := r.target.keyList()
	if r.target.whole {
		columns, order = append(columns, "ctid"), "ctid"
	}
	from := r.target.sqlName()
	if p.part != nil {
		from = "ONLY " + p.part.name
	}
	for _, condition := range []string{r.target.filter, r.where} {
		if condition != "" {
			conditions = append(conditions, "("+condition+"\n)")
		}
	}
	sql := "DECLARE rows NO SCROLL CURSOR FOR SELECT " + strings.Join(columns, ", ") + " FROM " + from
	if len(conditions) > 0 {
		sql += " WHERE " + strings.Join(conditions, " AND ")
	}
	sql += " ORDER BY " + order + " LIMIT " + strconv.Itoa(p.limit)
	if _, err := r.conn.PgConn().ExecParams(ctx, sql, q.values, q.types, nil, nil).Close(); err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	return nil
}

// boundary is the key of the row that comes so many rows after the beginning of a piece; nil when there are not as many.
// It only cuts the table: who reads what it bounds sees what is there then.
func (r *tableReader) boundary(ctx context.Context, p piece, rows int) ([]string, error) {
	var q params
	sql := "SELECT " + r.target.keyList() + " FROM ONLY " + p.part.name
	if p.at.after != nil {
		sql += fmt.Sprintf(" WHERE (%s) > %s", r.target.keyList(), q.row(p.at.after, r.target.keyTypes))
	}
	sql += fmt.Sprintf(" ORDER BY %s OFFSET %d LIMIT 1", r.target.keyList(), rows)
	result := r.conn.PgConn().ExecParams(ctx, sql, q.values, q.types, nil, nil).Read()
	var pgErr *pgconn.PgError
	if errors.As(result.Err, &pgErr) && strings.HasPrefix(pgErr.Code, "42") { // of a name or a type that is another by now
		return nil, fmt.Errorf("%w: %v", errKeyAltered, pgErr)
	}
	if result.Err != nil {
		return nil, fmt.Errorf("look for the end of a chunk: %w", result.Err)
	}
	if len(result.Rows) == 0 {
		return nil, nil
	}
	key := make([]string, len(r.target.key))
	for i, v := range result.Rows[0] {
		key[i] = string(v)
	}
	return key, nil
}

// params gathers parameters in text form.
type params struct {
	values [][]byte
	types  []uint32
}

func (q *params) row(texts []string, types []uint32) string {
	names := make([]string, len(texts))
	for i, text := range texts {
		q.values, q.types = append(q.values, []byte(text)), append(q.types, types[i])
		names[i] = "$" + strconv.Itoa(len(q.values))
	}
	return "(" + strings.Join(names, ", ") + ")"
}

const tidOID = 27

func (q *params) tid(block int64, offset int) string {
	q.values, q.types = append(q.values, fmt.Appendf(nil, "(%d,%d)", block, offset)), append(q.types, tidOID)
	return "$" + strconv.Itoa(len(q.values))
}

// firstFetch is when nothing is known of the size of rows.
const firstFetch = 50

// fetch reads the cursor until it is at its end, and then reports true, or there is enough. Each
// fetch asks for what fits by the size of the rows so far: few of them, since between two both sides wait.
func (r *tableReader) fetch(ctx context.Context, c *chunk, p piece) (whole bool, err error) {
	n := firstFetch
	if r.width > 0 {
		n = min(20*firstFetch, max(1, p.bytes/r.width))
	}
	for {
		got, err := c.take(r.conn.PgConn().Exec(ctx, fmt.Sprintf("FETCH %d FROM rows", n)), p.bytes)
		if len(c.rows) > 0 {
			r.width = c.width()
		}
		switch {
		case err != nil:
			return false, fmt.Errorf("read rows: %w", err)
		case len(c.buf) >= p.bytes:
			return false, nil
		case got < n:
			return true, nil
		case len(c.rows) >= p.limit:
			return false, nil
		}
		n = min(20*n, max(1, (p.bytes-len(c.buf))/r.width))
	}
}

// take adds the rows of a result, as many as make so many bytes, and returns how many there were.
func (c *chunk) take(result *pgconn.MultiResultReader, bytes int) (got int, err error) {
	for result.NextResult() {
		rows := result.ResultReader()
		for rows.NextRow() {
			if got++; len(c.buf) >= bytes {
				continue
			}
			values := rows.Values()
			if n := len(c.rel.Columns); n < len(values) {
				c.tid, values = string(values[n]), values[:n]
			}
			c.add(values)
		}
	}
	return got, result.Close()
}

func currentSnapshot(ctx context.Context, conn *pgx.Conn) (snapshot, error) {
	var text string
	if err := conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&text); err != nil {
		return snapshot{}, fmt.Errorf("read snapshot: %w", err)
	}
	return parseSnapshot(text)
}
