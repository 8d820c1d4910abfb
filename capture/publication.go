package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// publication is what Postgres says of it. A publication that walrill made
// carries a comment, and only from such a one are tables taken out.
type publication struct {
	exists    bool
	allTables bool
	viaRoot   bool
	events    string // the kinds of change that it leaves out, empty when it publishes all
	narrowed  int    // tables with a row filter or a column list
	generated bool   // it publishes generated columns that are stored
	comment   string
	tables    []string // qualified and quoted
}

// mark is the comment on a publication that walrill made.
func (s *Source) mark() string { return "made by walrill for pipeline " + s.opts.Pipeline }

// usedMark is that comment once a daemon has streamed from the slot. It is
// how a slot that was used is told from one that was made by hand when Redis
// knows neither.
func (s *Source) usedMark() string { return s.mark() + ", streaming from slot " + s.opts.Slot }

// made reports whether walrill made the publication, for this pipeline.
func (s *Source) made(p publication) bool {
	return p.comment == s.mark() || strings.HasPrefix(p.comment, s.mark()+", ")
}

func (s *Source) readPublication(ctx context.Context, conn *pgx.Conn) (publication, error) {
	var p publication
	var err error
	if p.generated, err = publishesGenerated(ctx, conn, s.opts.Publication); err != nil {
		return p, err
	}
	err = conn.QueryRow(ctx, `
		SELECT p.puballtables, p.pubviaroot,
		       concat_ws(', ', CASE WHEN NOT pubinsert THEN 'insert' END, CASE WHEN NOT pubupdate THEN 'update' END,
		                       CASE WHEN NOT pubdelete THEN 'delete' END, CASE WHEN NOT pubtruncate THEN 'truncate' END),
		       (SELECT count(*) FROM pg_publication_rel r WHERE r.prpubid = p.oid
		        AND coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NOT NULL),
		       coalesce(obj_description(p.oid, 'pg_publication'), ''),
		       ARRAY(SELECT '"' || replace(t.schemaname, '"', '""') || '"."' || replace(t.tablename, '"', '""') || '"' FROM pg_publication_tables t WHERE t.pubname = p.pubname)
		FROM pg_publication p WHERE p.pubname = $1`, s.opts.Publication).
		Scan(&p.allTables, &p.viaRoot, &p.events, &p.narrowed, &p.comment, &p.tables)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read publication %s: %w", s.opts.Publication, err)
	}
	p.exists = true
	return p, nil
}

// publishesGenerated reports whether the publication has generated columns that are stored, as from
// Postgres 18 on it can: one that is not there yet will then have them.
func publishesGenerated(ctx context.Context, conn *pgx.Conn, publication string) (bool, error) {
	var does bool
	err := conn.QueryRow(ctx, `
		SELECT coalesce((SELECT to_jsonb(p) ->> 'pubgencols' = 's' FROM pg_publication p WHERE pubname = $1),
		                current_setting('server_version_num')::int >= 180000)`, publication).Scan(&does)
	if err != nil {
		return false, fmt.Errorf("read whether publication %s has generated columns: %w", publication, err)
	}
	return does, nil
}

// publishedKinds are the values of attgenerated of columns that are published when none are chosen.
func publishedKinds(generated bool) []string {
	if generated {
		return []string{"", "s"}
	}
	return []string{""}
}

// ensurePublication creates the publication, or brings it in step with tables.
func (s *Source) ensurePublication(ctx context.Context, conn *pgx.Conn, tables []table) (publication, error) {
	if selection := s.selection(); selection.empty(tables) {
		return publication{}, errNoTables
	}
	pub, err := s.readPublication(ctx, conn)
	if err != nil {
		return pub, err
	}
	if err := s.checkPublication(pub, tables); err != nil {
		return pub, err
	}
	if pub.narrowed > 0 {
		s.opts.Log.Warn("the publication has row filters or column lists: what they leave out is not published", "publication", s.opts.Publication, "tables", pub.narrowed)
	}
	if err := s.checkRenamed(s.selection(), pub, tables); err != nil {
		return pub, err
	}
	return pub, s.execAll(ctx, conn, s.publicationSQL(pub, tables))
}

// checkRenamed refuses to take a table out of the publication that may be the one which the configuration
// has under the name that it had before: its changes would be missing from then on.
func (s *Source) checkRenamed(selection Selection, pub publication, tables []table) error {
	missing, extra := selection.missing(tables), s.surplus(pub, tables)
	if len(missing) == 0 || len(extra) == 0 {
		return nil
	}
	where := selection.Named[missing[0]]
	if where != "" {
		where += ": "
	}
	return &SetupError{
		Problem: fmt.Sprintf("%stable %s does not exist, and publication %s has table %s, which the configuration does not have: it may have been renamed", where, missing[0], s.opts.Publication, extra[0]),
		Fix: fmt.Sprintf("name %s in the configuration too, beside %s for as long as changes under that name are still to be read; "+
			"if it is not to be captured any more: ALTER PUBLICATION %s DROP TABLE %[1]s;", extra[0], missing[0], quote(s.opts.Publication))}
}

// surplus are the tables of a publication that walrill made and that are not wanted any more.
func (s *Source) surplus(pub publication, tables []table) []string {
	if !s.made(pub) {
		return nil
	}
	return without(pub.tables, sqlNames(tables))
}

func sqlNames(tables []table) []string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = pgx.Identifier{t.Namespace, t.Name}.Sanitize()
	}
	return names
}

// checkPublication refuses a publication, made by hand, that would leave changes out in silence.
func (s *Source) checkPublication(pub publication, tables []table) error {
	for _, problem := range s.publicationProblems(pub, tables) {
		return problem
	}
	return nil
}

var errNoTables = &SetupError{Problem: "no table of the database matches the streams of the configuration",
	Fix: "check the names under streams.<name>.tables (they are schema.table), or create the tables first"}

func (s *Source) publicationProblems(pub publication, tables []table) (problems []error) {
	if !pub.exists {
		return nil
	}
	if pub.events != "" {
		problems = append(problems, &SetupError{Problem: fmt.Sprintf("publication %s leaves changes out: %s", s.opts.Publication, pub.events),
			Fix: fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate');", quote(s.opts.Publication))})
	}
	for _, t := range tables {
		if t.partitioned && !pub.viaRoot {
			return append(problems, &SetupError{Problem: fmt.Sprintf("publication %s publishes changes of the partitioned table %s under the names of its partitions", s.opts.Publication, t),
				Fix: fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = true);", quote(s.opts.Publication))})
		}
	}
	return problems
}

// publicationSQL are the statements that are still needed. ONLY keeps children of
// an inherited table out, which the mapping may not want; it means nothing for partitions.
func (s *Source) publicationSQL(pub publication, tables []table) []string {
	name := quote(s.opts.Publication)
	wanted := sqlNames(tables)
	only := func(tables []string) string { return "ONLY " + strings.Join(tables, ", ONLY ") }
	if !pub.exists {
		tables := ""
		if len(wanted) > 0 {
			tables = " FOR TABLE " + only(wanted)
		}
		with := "publish_via_partition_root = true"
		if pub.generated {
			// Without it, Postgres refuses updates of a table that has such columns and REPLICA IDENTITY FULL.
			with += ", publish_generated_columns = stored"
		}
		return []string{
			fmt.Sprintf("CREATE PUBLICATION %s%s WITH (%s)", name, tables, with),
			fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", name, literal(s.mark())),
		}
	}
	if pub.allTables {
		return nil
	}
	var sql []string
	if missing := without(wanted, pub.tables); len(missing) > 0 {
		sql = append(sql, fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", name, only(missing)))
	}
	if extra := s.surplus(pub, tables); len(extra) > 0 {
		sql = append(sql, fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", name, only(extra)))
	}
	return sql
}

// MarkUsed notes on the publication, if walrill made it, that a daemon streams from the slot.
func (s *Source) MarkUsed(ctx context.Context) error {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	pub, err := s.readPublication(ctx, conn)
	if err != nil || pub.comment == s.usedMark() || !s.made(pub) {
		return err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", quote(s.opts.Publication), literal(s.usedMark())))
	if err != nil && pgCode(err) != codeInsufficientPrivilege { // it belongs to somebody else after all
		return fmt.Errorf("mark publication %s: %w", s.opts.Publication, err)
	}
	return nil
}

// Refresh looks for tables that the mapping wants and that have come since,
// and adds them to the publication. It does not touch anything else, but after Select: an
// instance with another configuration may be taking over.
func (s *Source) Refresh(ctx context.Context) error {
	conn, err := s.connectCancelling(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	pub, err := s.readPublication(ctx, conn)
	if err != nil {
		return err
	}
	if !pub.exists {
		return &SetupError{Problem: fmt.Sprintf("publication %s was dropped while it was streamed from: changes since then are missing", s.opts.Publication),
			Fix: "start walrill again, which makes it anew; what changed meanwhile has to be published by other means"}
	}
	if err := s.addNew(ctx, conn, pub); err != nil {
		// What keeps a new table out does not stop the others, so this is not permanent.
		return errors.New(err.Error())
	}
	return s.warnAttached(ctx, conn)
}

func (s *Source) addNew(ctx context.Context, conn *pgx.Conn, pub publication) error {
	selection := s.selections() // asked first: the tables are those of this selection, or of a later one
	tables, unfit, err := s.wantedTables(ctx, conn)
	if err != nil {
		return err
	}
	if err := s.checkPublication(pub, tables); err != nil {
		return err
	}
	reselected := selection > s.applied && unfit == nil
	if reselected {
		unfit = s.checkRenamed(s.selection(), pub, tables)
		reselected = unfit == nil
	}
	if !reselected {
		pub.comment = "" // add only
	}
	if err := s.planBackfills(ctx, conn, tables, Known{}); err != nil {
		return err
	}
	sql := s.publicationSQL(pub, tables)
	if len(sql) > 0 && !s.opts.Backfill.Initial {
		s.opts.Log.Warn("the tables of the publication change; rows of new ones that were committed before are not published", "sql", sql[0])
	}
	if err := s.execAll(ctx, conn, sql); err != nil {
		return err
	}
	s.setPrepared(tables)
	if reselected {
		s.applied = selection
	}
	return unfit
}

// execAll runs the statements in one transaction. An instance that starts at
// the same time may be quicker: then there is nothing left to do.
func (s *Source) execAll(ctx context.Context, conn *pgx.Conn, sql []string) error {
	if len(sql) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, statement := range sql {
			s.opts.Log.Info("changing the publication", "sql", statement)
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	switch pgCode(err) {
	case "":
		if err != nil {
			return fmt.Errorf("change publication %s: %w", s.opts.Publication, err)
		}
		return nil
	case codeDuplicateObject:
		return nil
	case codeInsufficientPrivilege:
		return &SetupError{Problem: fmt.Sprintf("the role in source.url may not change publication %s", s.opts.Publication), Err: err,
			Fix: "as the owner of the tables: " + sql[0] + ";"}
	}
	return fmt.Errorf("change publication %s: %w", s.opts.Publication, err)
}

// without is a less b.
func without(a, b []string) []string {
	in := make(map[string]bool, len(b))
	for _, s := range b {
		in[s] = true
	}
	var rest []string
	for _, s := range a {
		if !in[s] {
			rest = append(rest, s)
		}
	}
	return rest
}
