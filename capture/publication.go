package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// publication is what Postgres says of it. A publication that walrill made
// carries a comment, and only from such a one are tables taken out.
type publication struct {
	exists    bool
	allTables bool
	ours      bool
	tables    []string // qualified and quoted
}

func readPublication(ctx context.Context, conn *pgx.Conn, name, mark string) (publication, error) {
	var p publication
	err := conn.QueryRow(ctx, `
		SELECT p.puballtables, coalesce(obj_description(p.oid, 'pg_publication') = $2, false),
		       ARRAY(SELECT '"' || replace(t.schemaname, '"', '""') || '"."' || replace(t.tablename, '"', '""') || '"' FROM pg_publication_tables t WHERE t.pubname = p.pubname)
		FROM pg_publication p WHERE p.pubname = $1`, name, mark).Scan(&p.allTables, &p.ours, &p.tables)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read publication %s: %w", name, err)
	}
	p.exists = true
	return p, nil
}

// ensurePublication creates the publication, or brings it in step with tables.
func (s *Source) ensurePublication(ctx context.Context, conn *pgx.Conn, tables []*change.Relation) error {
	if len(tables) == 0 {
		return &SetupError{Problem: "no table of the database matches the streams of the configuration",
			Fix: "check the names under streams.<name>.tables (they are schema.table), or create the tables first"}
	}
	mark := s.publicationMark()
	pub, err := readPublication(ctx, conn, s.opts.Publication, mark)
	if err != nil {
		return err
	}
	wanted := make([]string, len(tables))
	for i, t := range tables {
		wanted[i] = pgx.Identifier{t.Namespace, t.Name}.Sanitize()
	}
	return s.execAll(ctx, conn, s.publicationSQL(pub, wanted, mark))
}

func (s *Source) publicationMark() string { return "made by walrill for pipeline " + s.opts.Pipeline }

// publicationSQL are the statements that are still needed.
func (s *Source) publicationSQL(pub publication, wanted []string, mark string) []string {
	name := quote(s.opts.Publication)
	if !pub.exists {
		return []string{
			fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish_via_partition_root = true)", name, strings.Join(wanted, ", ")),
			fmt.Sprintf("COMMENT ON PUBLICATION %s IS %s", name, literal(mark)),
		}
	}
	if pub.allTables {
		return nil
	}
	var sql []string
	if missing := without(wanted, pub.tables); len(missing) > 0 {
		sql = append(sql, fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", name, strings.Join(missing, ", ")))
	}
	if extra := without(pub.tables, wanted); len(extra) > 0 && pub.ours {
		sql = append(sql, fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", name, strings.Join(extra, ", ")))
	}
	return sql
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
			Fix: "as the owner of the tables: " + strings.Join(sql, "; ") + ";"}
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
