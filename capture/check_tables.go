package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// tables looks at the tables that the mapping wants and returns those that fit.
func (c *checker) tables(ctx context.Context) []table {
	all, err := readTables(ctx, c.conn, c.opts.Publication)
	if err != nil {
		c.found("tables", err)
		return nil
	}
	c.out.Existing = relations(all)
	before := len(c.out.Findings)
	for _, t := range all { // one by one, so that each has its finding
		if _, err := c.opts.Wanted(t.Relation); err != nil {
			for _, e := range each(err) {
				c.found("table "+t.String(), e)
			}
		}
	}
	tables, _, err := c.wantedTables(ctx, c.conn)
	if err != nil {
		c.found("tables", err)
		return nil
	}
	c.out.Info.Tables = relations(tables)
	unlogged, err := c.uncaptured(ctx)
	if err == nil {
		err = c.readable(ctx, tables)
	}
	if err == nil {
		var problems []*SetupError
		problems, err = c.sweepProblems(ctx, c.conn, c.opts.Selection, tables)
		for _, problem := range problems {
			subject, _, _ := strings.Cut(problem.Problem, ": ")
			c.found(subject, problem)
		}
	}
	if err != nil {
		c.found("tables", err)
		return nil
	}
	for _, name := range c.missing(all) {
		if !slices.Contains(unlogged, name) {
			c.out.Missing = append(c.out.Missing, name)
		}
	}
	switch {
	case c.opts.empty(tables) && len(c.out.Findings) == before:
		c.found("tables", errNoTables)
	case len(tables) > 0:
		c.ok("tables", "%d of %d in the database are captured", len(tables), len(all))
	}
	return tables
}

// each takes joined errors apart.
func each(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, each(e)...)
	}
	return all
}

// uncaptured looks for relations that the mapping wants and that have no WAL to decode. It
// returns the names that are not tables of ours.
func (c *checker) uncaptured(ctx context.Context) ([]string, error) {
	rows, err := c.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text,
		       CASE WHEN n.nspname IN ('pg_catalog', 'information_schema') THEN 'it is one of Postgres''s own, which are never captured'
		            WHEN n.nspname = 'walrill' OR n.nspname LIKE 'walrill\_%' THEN 'it is one of walrill''s own, which are never captured'
		            WHEN c.relkind = 'f' THEN 'it is a foreign table: its changes are in another server''s WAL'
		            WHEN c.relkind IN ('v', 'm') THEN 'it is a view: name the tables that it reads'
		            WHEN c.relpersistence = 't' THEN 'it is temporary'
		            ELSE 'it is unlogged: its changes are not in the WAL' END,
		       CASE WHEN c.relpersistence = 'u' AND c.relkind IN ('r', 'p') THEN format('ALTER TABLE %I.%I SET LOGGED;', n.nspname, c.relname) ELSE '' END,
		       c.relkind IN ('r', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'walrill') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT LIKE 'walrill\_%'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE (c.relkind IN ('f', 'v', 'm') OR c.relkind IN ('r', 'p') AND (c.relpersistence <> 'p' OR n.nspname IN ('pg_catalog', 'information_schema', 'walrill') OR n.nspname LIKE 'walrill\_%'))
		ORDER BY 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("look for tables without WAL: %w", err)
	}
	var names []string
	var rel change.Relation
	var why, fix string
	var matchable bool
	_, err = pgx.ForEachRow(rows, []any{&rel.Namespace, &rel.Name, &why, &fix, &matchable}, func() error {
		name := rel.String()
		if _, named := c.opts.Named[name]; named {
			c.fail("table "+name, fix, "cannot be captured: %s", why)
			names = append(names, name)
			return nil
		}
		if matchable {
			if wanted, err := c.opts.Wanted(&rel); wanted || err != nil { // without columns it may not fit, which is beside the point
				c.warn("table "+name, fix, "is not captured: %s", why)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for tables without WAL: %w", err)
	}
	return names, nil
}

// readable looks at what a backfill needs: SELECT, and to see every row.
func (c *checker) readable(ctx context.Context, tables []table) error {
	report := c.warn // nobody has asked for a backfill yet
	if c.opts.Backfill.Initial {
		report = c.fail
	}
	rows, err := c.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, has_table_privilege(c.oid, 'SELECT'), has_schema_privilege(n.oid, 'USAGE'), row_security_active(c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1) ORDER BY 1, 2`, oids(tables))
	if err != nil {
		return fmt.Errorf("look at the rights on tables: %w", err)
	}
	var rel change.Relation
	var selects, usage, hidden bool
	_, err = pgx.ForEachRow(rows, []any{&rel.Namespace, &rel.Name, &selects, &usage, &hidden}, func() error {
		name := pgx.Identifier{rel.Namespace, rel.Name}.Sanitize()
		fix := ""
		if !usage {
			fix = fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; ", quote(rel.Namespace), quote(c.role))
		}
		if !selects {
			fix += fmt.Sprintf("GRANT SELECT ON %s TO %s;", name, quote(c.role))
		}
		if fix != "" {
			report("table "+rel.String(), fix, "role %s may not read it: a backfill cannot publish the rows that are there", c.role)
		}
		if hidden {
			report("table "+rel.String(), fmt.Sprintf("ALTER ROLE %s BYPASSRLS; -- or ALTER TABLE %s DISABLE ROW LEVEL SECURITY", quote(c.role), name),
				"row level security hides rows from role %s: a backfill refuses the table, since it would leave them out", c.role)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at the rights on tables: %w", err)
	}
	return nil
}

func oids(tables []table) []uint32 {
	list := make([]uint32, len(tables))
	for i, t := range tables {
		list[i] = t.OID
	}
	return list
}

// publication looks at the publication and at whether the role can make of it what it has to be.
func (c *checker) publication(ctx context.Context, tables []table) publication {
	subject := "publication " + c.opts.Publication
	pub, err := c.readPublication(ctx, c.conn)
	if err != nil {
		c.found(subject, err)
		return pub
	}
	before := len(c.out.Findings)
	for _, problem := range c.publicationProblems(pub, tables) {
		c.found(subject, problem)
	}
	if pub.narrowed > 0 {
		c.warn(subject, `\dRp+ `+quote(c.opts.Publication), "has row filters or column lists on %d tables: what they leave out is not published", pub.narrowed)
	}
	if sql := c.publicationSQL(pub, tables); len(sql) > 0 && len(tables) > 0 {
		if err := c.mayChange(ctx, pub, tables, sql); err != nil {
			c.found(subject, err)
			return pub
		}
	}
	switch {
	case len(c.out.Findings) > before || len(tables) == 0:
	case !pub.exists:
		c.ok(subject, "walrill makes it when it starts")
	case c.made(pub):
		c.ok(subject, "made by walrill, %d tables", len(pub.tables))
	default:
		c.ok(subject, "made by hand, %d tables", len(pub.tables))
	}
	return pub
}

// mayChange says what the role lacks for the statements that Prepare would run.
func (c *checker) mayChange(ctx context.Context, pub publication, tables []table, sql []string) error {
	var create, owns bool
	var owners []string
	err := c.conn.QueryRow(ctx, `
		SELECT has_database_privilege(current_database(), 'CREATE'),
		       coalesce((SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $1), true),
		       ARRAY(SELECT DISTINCT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = ANY ($2) AND NOT pg_has_role(relowner, 'USAGE') ORDER BY 1)`,
		c.opts.Publication, oids(tables)).Scan(&create, &owns, &owners)
	if err != nil {
		return fmt.Errorf("look at the rights for the publication: %w", err)
	}
	lacks := ""
	switch {
	case !pub.exists && !create:
		lacks = "lacks CREATE on the database"
	case !owns:
		lacks = "does not own it"
	case len(owners) > 0:
		lacks = fmt.Sprintf("does not own the tables (%v does)", owners[0])
	default:
		return nil
	}
	verb := "be brought in step with the configuration"
	if !pub.exists {
		verb = "be made"
	}
	return &SetupError{Problem: fmt.Sprintf("cannot %s by role %s, which %s", verb, c.role, lacks),
		Fix: sql[0] + "; -- as the owner of the tables"}
}
