package capture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/change"
)

// table is a relation as the catalogue shows it now.
type table struct {
	*change.Relation
	root        uint32 // of a partition: the topmost partitioned table; else 0
	partitioned bool
}

// wantedTables lists the tables that the mapping wants, sorted by name. A
// partition is left out when its root is wanted: the root publishes for it.
// Tables that it wants and that do not fit are left out, and unfit says why.
func (s *Source) wantedTables(ctx context.Context, conn *pgx.Conn) (alone []table, unfit, err error) {
	tables, err := readTables(ctx, conn, s.opts.Publication)
	if err != nil {
		return nil, nil, err
	}
	s.selecting.Lock()
	defer s.selecting.Unlock()
	return s.opts.Selection.of(tables)
}

func (s *Selection) of(tables []table) (alone []table, unfit, err error) {
	var wanted []table
	published := map[uint32]bool{}
	var problems []error
	for _, t := range tables {
		ok, err := s.Wanted(t.Relation)
		if err != nil {
			problems = append(problems, err)
		}
		if ok {
			wanted = append(wanted, t)
			published[t.OID] = true
		}
	}
	if len(problems) > 0 {
		unfit = &SetupError{Problem: "the mapping does not fit the tables", Err: errors.Join(problems...)}
	}
	for _, t := range wanted {
		if !published[t.root] {
			alone = append(alone, t)
		} else if _, named := s.Named[t.String()]; named {
			return nil, nil, &SetupError{Problem: fmt.Sprintf("table %s is a partition of a table that is captured too, and its changes are published under that table's name", t),
				Fix: "leave one of the two out of the configuration"}
		}
	}
	return alone, unfit, nil
}

// empty reports whether there is nothing to capture: no table, and no messages either.
func (s *Selection) empty(tables []table) bool { return len(tables) == 0 && len(s.Prefixes) == 0 }

// missing are the tables that the configuration names and that are not there.
func (s *Source) missing(tables []table) []string {
	selection := s.selection()
	return selection.missing(tables)
}

func (s *Selection) missing(tables []table) []string {
	there := map[string]bool{}
	for _, t := range tables {
		there[t.String()] = true
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.Named)), func(name string) bool { return there[name] })
}

func relations(tables []table) []*change.Relation {
	var rels []*change.Relation
	for _, t := range tables {
		rels = append(rels, t.Relation)
	}
	return rels
}

// readTables reads every permanent table of the database with the columns that the publication can
// have, in the order of their names. Postgres's own and walrill's are left out.
func readTables(ctx context.Context, conn *pgx.Conn, publication string) ([]table, error) {
	generated, err := publishesGenerated(ctx, conn, publication)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, `
		SELECT c.oid, n.nspname, c.relname, c.relreplident::text,
		       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE 0::oid END, c.relkind = 'p',
		       ARRAY(SELECT a.attname::text FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
		             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
		             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.pos),
		       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
		             AND NOT a.attisdropped AND a.attgenerated::text = ANY ($1) ORDER BY a.attnum),
		       ARRAY(SELECT c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
		                    AND (c.relreplident = 'd' AND i.indisprimary AND i.indimmediate OR c.relreplident = 'i' AND i.indisreplident))
		             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
		             AND NOT a.attisdropped AND a.attgenerated::text = ANY ($1) ORDER BY a.attnum),
		       ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
		             AND NOT a.attisdropped AND a.attgenerated::text = ANY ($1) ORDER BY a.attnum),
		       ARRAY(SELECT a.atttypmod FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
		             AND NOT a.attisdropped AND a.attgenerated::text = ANY ($1) ORDER BY a.attnum)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
		  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'walrill') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT LIKE 'walrill\_%'
		ORDER BY n.nspname, c.relname`, publishedKinds(generated))
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var oids []uint32 // of all columns' types
	var modifiers []int32
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (table, error) {
		rel := &change.Relation{}
		t := table{Relation: rel}
		var identity string
		var names []string
		var keys []bool
		var types []uint32
		var mods []int32
		err := row.Scan(&rel.OID, &rel.Namespace, &rel.Name, &identity, &t.root, &t.partitioned, &rel.PrimaryKey, &names, &keys, &types, &mods)
		if err != nil {
			return t, err
		}
		rel.Identity = change.Identity(identity[0])
		for i, name := range names {
			rel.Columns = append(rel.Columns, change.Column{Name: name, Key: keys[i]})
		}
		oids, modifiers = append(oids, types...), append(modifiers, mods...)
		return t, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if err := addTypes(ctx, conn, tables, oids, modifiers); err != nil {
		return nil, err
	}
	return withoutViews(ctx, conn, tables)
}

// addTypes completes tables with the types of their columns: what the mapping
// says of a column must fit its type.
func addTypes(ctx context.Context, conn *pgx.Conn, tables []table, oids []uint32, modifiers []int32) error {
	catalogue := newTypeCatalogue()
	if err := catalogue.resolve(ctx, conn, slices.Compact(slices.Sorted(slices.Values(oids)))); err != nil {
		return err
	}
	names, err := typeNames(ctx, conn, oids, modifiers)
	if err != nil {
		return err
	}
	n := 0
	for _, t := range tables {
		for i := range t.Columns {
			t.Columns[i].Type, t.Columns[i].TypeName = catalogue.lookup(oids[n]), names[n]
			n++
		}
	}
	return nil
}

// describe completes a relation that the stream announced: its columns' types, and its
// primary key, which is not in the message under REPLICA IDENTITY FULL.
func describe(ctx context.Context, conn *pgx.Conn, types *typeCatalogue, rel *change.Relation, columns []columnType) error {
	oids, modifiers := make([]uint32, len(columns)), make([]int32, len(columns))
	for i, c := range columns {
		oids[i], modifiers[i] = c.oid, c.modifier
	}
	if err := types.resolve(ctx, conn, oids); err != nil {
		return err
	}
	names, err := typeNames(ctx, conn, oids, modifiers)
	if err != nil {
		return err
	}
	for i, oid := range oids {
		rel.Columns[i].Type, rel.Columns[i].TypeName = types.lookup(oid), names[i]
	}
	rel.PrimaryKey, err = primaryKey(ctx, conn, rel, columns)
	return err
}

// primaryKey finds the columns of the table's primary key among those of the relation; none when they are not all
// there. The catalogue has the key of now and the relation may be of before: a column that was renamed meanwhile is
// found by its place, where that is certain.
func primaryKey(ctx context.Context, conn *pgx.Conn, rel *change.Relation, columns []columnType) ([]string, error) {
	rows, err := conn.Query(ctx, `
		SELECT a.attname::text, a.atttypid,
		       CASE WHEN bool_or(b.attisdropped OR b.attgenerated <> '') THEN -1 ELSE count(b) END,
		       ARRAY(SELECT l.attname::text FROM pg_attribute l WHERE l.attrelid = $1 AND l.attnum > 0 AND NOT l.attisdropped)
		FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(num, pos)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
		LEFT JOIN pg_attribute b ON b.attrelid = i.indrelid AND b.attnum > 0 AND b.attnum < a.attnum
		WHERE i.indrelid = $1 AND i.indisprimary GROUP BY a.attname, a.atttypid, k.pos ORDER BY k.pos`, rel.OID)
	if err != nil {
		return nil, fmt.Errorf("read primary key: %w", err)
	}
	var key, live []string
	var name string
	var typ uint32
	var place int
	complete := true
	_, err = pgx.ForEachRow(rows, []any{&name, &typ, &place, &live}, func() error {
		if rel.Column(name) < 0 && place >= 0 && place < len(columns) && columns[place].oid == typ && !slices.Contains(live, rel.Columns[place].Name) {
			name = rel.Columns[place].Name
		}
		complete = complete && rel.Column(name) >= 0 // else not all of it is published: no key to go by
		key = append(key, name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read primary key: %w", err)
	}
	if !complete {
		return nil, nil
	}
	return key, nil
}
